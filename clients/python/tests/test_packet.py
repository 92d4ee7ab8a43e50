"""Packets, byte by byte."""

from __future__ import annotations

import pytest

from rainbow.packet import Command, Packet

KNOWN = [
    (Packet(Command.SEND, type=1, body=b"hi"), "10 0001 6869"),
    (Packet(Command.SEND, 258, b"hi", 65535, 1), "12 ffff 0102 6869"),
    (Packet(Command.SEND, 65534, b"", 0, 2, True), "1c 0000 fffe"),
    (Packet(Command.ACK, 1, b"{}"), "20 0001 7b7d"),
    (Packet(Command.REC, 1, b"\x01\x94no", flag=True), "31 0001 0194 6e6f"),
    (Packet(Command.REL, 7), "40 0007"),
    (Packet(Command.COM, 7), "50 0007"),
    (Packet(Command.PING), "60"),
    (Packet(Command.PONG), "70"),
]


@pytest.mark.parametrize(("packet", "text"), KNOWN)
def test_packets_have_their_bytes(packet: Packet, text: str) -> None:
    assert packet.encode() == bytes.fromhex(text)
    assert Packet.decode(bytes.fromhex(text)) == packet


@pytest.mark.parametrize(
    "text", ["", "00", "80", "10", "10 00", "16 0001 0001", "12 0001 00", "20 00", "20 0000", "20 ffff", "40 0001 00"]
)
def test_what_is_no_packet_is_not_read(text: str) -> None:
    assert Packet.decode(bytes.fromhex(text)) is None
