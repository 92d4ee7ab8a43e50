"""Packets, handshakes and whole exchanges, as the tests of every client and of the server read them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from rainbow.client import Client, ConnectRefused, FileStorage, Message, MessageRefused
from rainbow.packet import GREETING_TYPE, Command, Packet

VECTORS = Path(__file__).parents[2] / "vectors"
PACKETS = json.loads((VECTORS / "packets.json").read_text())
HANDSHAKES = json.loads((VECTORS / "handshakes.json").read_text())
EXCHANGES = json.loads((VECTORS / "exchanges.json").read_text())["exchanges"]
DEADLINE_S = 10


def _name(vector: dict[str, Any]) -> str:
    name: str = vector["name"]
    return name


@pytest.mark.parametrize("vector", PACKETS["valid"], ids=lambda vector: vector["hex"])
def test_valid_packets(vector: dict[str, Any]) -> None:
    packet = Packet.decode(bytes.fromhex(vector["hex"]))
    assert packet is not None
    expected = {"type": 0, "qos": 0, "id": None, **vector, "body": bytes.fromhex(vector["body"])}
    del expected["hex"]
    assert {name: getattr(packet, name) for name in expected} == expected
    assert packet.encode().hex() == vector["hex"]


@pytest.mark.parametrize("data", PACKETS["invalid"])
def test_invalid_packets(data: str) -> None:
    assert Packet.decode(bytes.fromhex(data)) is None


def test_packets_of_rainbow_2() -> None:
    told = PACKETS["rainbow_2"]
    assert Packet(Command.PING).encode().hex() == told["ping"]
    assert Packet(Command.PONG).encode().hex() == told["pong"]
    refusal = told["refusal_ack"]
    body = refusal["status"].to_bytes(2, "big") + bytes.fromhex(refusal["body"])
    assert Packet.decode(bytes.fromhex(refusal["hex"])) == Packet(Command.ACK, refusal["id"], body, flag=True)


def accept_key(key: str) -> str:
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return base64.b64encode(digest).decode()


def test_accept_keys() -> None:
    for vector in HANDSHAKES["accept"]:
        assert accept_key(vector["key"]) == vector["accept"]


#: This client always offers `rainbow.2`.
OFFERED = [vector for vector in HANDSHAKES["answers"] if vector["offered"]]


@pytest.mark.parametrize("vector", OFFERED, ids=_name)
def test_answers_to_a_handshake(vector: dict[str, Any]) -> None:
    asyncio.run(asyncio.wait_for(_answered(vector), DEADLINE_S))


async def _answered(vector: dict[str, Any]) -> None:
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(request)
        key = re.search(r"(?i)sec-websocket-key: (\S+)", request)
        assert key is not None
        head, _, body = "\r\n".join(vector["answer"]).replace("{accept}", accept_key(key[1])).partition("\r\n\r\n")
        writer.write(f"{head}\r\n\r\n{body}".encode())
        if vector["outcome"] == "rainbow.2":
            body = json.dumps({"session": None, "resumed": False, "waiting": 0})
            writer.write(bytes([0x82, len(body) + 3, 0x10, 0xFF, 0xFF]) + body.encode())
        if " 101 " in head:
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/connect/"
        client = Client(url, device_id="d1", os="test", backoff_min=60, random=lambda: 1.0)
        closed = asyncio.Event()
        client.on("close", lambda _: closed.set())
        opening = asyncio.ensure_future(client.open())
        if vector["outcome"] in ("rainbow.2", "plain"):
            assert (await opening).session is None
        elif vector["outcome"] == "refused":
            with pytest.raises(ConnectRefused):
                await opening
        else:
            await closed.wait()
            assert client.state == "waiting"
            opening.cancel()
        await client.close()
    assert requests[0].startswith("GET /connect/ HTTP/1.1\r\n")
    for line in ("X-DEVICEID: d1", "X-CLIENT-OS: test", "Sec-WebSocket-Protocol: rainbow.2"):
        assert f"\r\n{line}\r\n" in requests[0]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=_name)
def test_exchanges(exchange: dict[str, Any], tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(_Player(exchange, tmp_path / "ids").play(), DEADLINE_S))


class _Player:
    def __init__(self, exchange: dict[str, Any], file: Path) -> None:
        self.steps = exchange["steps"]
        self.reply = bytes.fromhex(exchange.get("reply", ""))
        self.is_plain, self.repeats = exchange.get("plain", False), exchange.get("repeats", False)
        self.file = file
        self.lines: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.sends: dict[str, asyncio.Future[Any]] = {}
        self.last_up = ""

    async def play(self) -> None:
        protocols = None if self.is_plain else [Subprotocol("rainbow.2")]
        async with serve(self.keep, "127.0.0.1", 0, subprotocols=protocols) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/connect/"
            self.client = Client(
                url,
                storage=FileStorage(self.file),
                repeat=0.02 if self.repeats else 60,
                backoff_min=0.01,
                backoff_max=0.01,
            )
            self.client.on("message", self.on_message)
            opening = asyncio.ensure_future(self.client.open())
            self.line = await self.lines.get()
            if self.is_plain:
                await opening
            for step in self.steps:
                ((name, value),) = step.items()
                await getattr(self, "do_" + name)(value)
            await self.nothing_more()
            await self.client.close()
            # Those that no step waits for end with the client.
            await asyncio.gather(*self.sends.values(), return_exceptions=True)

    async def keep(self, line: ServerConnection) -> None:
        self.lines.put_nowait(line)
        await line.wait_closed()

    async def on_message(self, message: Message) -> bytes:
        self.messages.put_nowait(message)
        return self.reply

    async def settled(self) -> None:
        """What was written before has been read by the client, and its tasks have run."""
        await (await self.line.ping())
        for _ in range(10):
            await asyncio.sleep(0)

    async def nothing_more(self) -> None:
        await self.settled()
        assert self.messages.empty()
        if not self.repeats:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(self.line.recv(), 0.02)

    async def do_greeting(self, greeting: dict[str, Any]) -> None:
        await self.line.send(Packet(Command.SEND, type=GREETING_TYPE, body=json.dumps(greeting).encode()).encode())
        await self.settled()

    async def do_open(self, _: bool) -> None:
        await self.settled()

    async def do_send(self, send: dict[str, Any]) -> None:
        promise = self.client.send(send["type"], bytes.fromhex(send["body"]), send["qos"])
        self.sends[send["tag"]] = asyncio.ensure_future(promise)
        await asyncio.sleep(0)

    async def do_up(self, expected: str) -> None:
        while True:
            data = await self.line.recv()
            assert isinstance(data, bytes)
            if not (self.repeats and data.hex() != expected and data.hex() == self.last_up):
                break
        assert data.hex() == expected
        self.last_up = expected

    async def do_down(self, data: str) -> None:
        await self.line.send(bytes.fromhex(data))

    async def do_message(self, expected: dict[str, Any]) -> None:
        message = await self.messages.get()
        found = {"type": message.type, "qos": message.qos, "id": message.id, "body": message.body.hex()}
        assert found == expected

    async def do_answered(self, expected: dict[str, Any]) -> None:
        assert (await self.sends[expected["tag"]]).body.hex() == expected["body"]

    async def do_refused(self, expected: dict[str, Any]) -> None:
        with pytest.raises(MessageRefused) as refused:
            await self.sends[expected["tag"]]
        assert (refused.value.status, refused.value.body.hex()) == (expected["status"], expected["body"])

    async def do_state(self, expected: dict[str, list[int]]) -> None:
        await self.settled()
        kept = json.loads(self.file.read_text())
        assert {name: kept[name] for name in expected} == expected

    async def do_cut(self, _: bool) -> None:
        self.line.transport.abort()
        with pytest.raises(ConnectionClosed):
            await self.line.recv()
        self.line = await self.lines.get()
