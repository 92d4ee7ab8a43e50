"""Packets: every binary message of the WebSocket is one (PROTOCOL.md, section 3).

byte 0      command (high 4 bits) | DUP (1 bit) | QoS (2 bits) | reserved (1 bit)
SEND        byte 0, message type u16, [message id u16, only when QoS > 0], body
ACK, REC    byte 0, message id u16, body
REL, COM    byte 0, message id u16
PING, PONG  byte 0
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Command(IntEnum):
    SEND = 1
    ACK = 2
    REC = 3
    REL = 4
    COM = 5
    PING = 6
    PONG = 7


@dataclass(frozen=True)
class Packet:
    command: Command
    id: int | None = None
    body: bytes = b""
    type: int = 0
    qos: int = 0
    dup: bool = False
    #: The reserved bit. In ACK and REC: the backend refused the message for good.
    flag: bool = False

    def encode(self) -> bytes:
        head = bytes([self.command << 4 | self.dup << 3 | self.qos << 1 | self.flag])
        if self.command is Command.SEND:
            head += self.type.to_bytes(2, "big")
        if self.id is not None:
            head += self.id.to_bytes(2, "big")
        return head + self.body

    @classmethod
    def decode(cls, data: bytes) -> Packet | None:
        """None for bytes that are no packet."""
        if not data or not 1 <= data[0] >> 4 <= 7:
            return None
        command, qos = Command(data[0] >> 4), data[0] >> 1 & 3
        dup, flag = bool(data[0] & 8), bool(data[0] & 1)
        if command in (Command.PING, Command.PONG):
            return cls(command) if len(data) == 1 else None
        is_send = command is Command.SEND
        with_id = not is_send or qos > 0
        length = 1 + 2 * is_send + 2 * with_id
        if qos == 3 or len(data) < length:
            return None
        number = int.from_bytes(data[length - 2 : length], "big") if with_id else None
        if number is not None and not 1 <= number <= ID_MAX:
            return None
        if command in (Command.REL, Command.COM) and len(data) > length:
            return None
        message_type = int.from_bytes(data[1:3], "big") if is_send else 0
        return cls(command, number, bytes(data[length:]), message_type, qos, dup, flag)


ID_MAX = 65534
#: Type of Rainbow's own messages.
GREETING_TYPE = 65535
