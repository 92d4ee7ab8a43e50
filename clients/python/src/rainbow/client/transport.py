"""One connection of a client, and a message that waits for its answer over several of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from websockets.asyncio.client import ClientConnection

from ..packet import Packet
from .message import ClientError, MessageRefused, Reply


class Send:
    """A QoS 1 or 2 message without its last answer."""

    def __init__(self, type_: int, body: bytes, qos: int, future: asyncio.Future[Reply]) -> None:
        self.type, self.body, self.qos, self.future = type_, body, qos, future
        self.id: int | None = None
        self.written = False
        self.answer: Packet | None = None
        self.repeat: asyncio.TimerHandle | None = None

    def settle(self) -> None:
        """The promise is kept, or the message was refused for good."""
        assert self.answer is not None
        if self.future.done():
            return
        if self.answer.flag:
            status, body = int.from_bytes(self.answer.body[:2], "big"), self.answer.body[2:]
            self.future.set_exception(MessageRefused(status, body))
        else:
            self.future.set_result(Reply(self.answer.body))

    def fail(self, error: ClientError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Line:
    """One connection: what is to be written, and when something was last heard."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.greets = socket.subprotocol == PROTOCOL
        self.out: deque[bytes] = deque()
        self.wake = asyncio.Event()
        self.drained = asyncio.Event()
        self.greeted = asyncio.Event()
        self.heard_at = self.opened_at = time.monotonic()

    def write(self, packet: Packet) -> None:
        self.out.append(packet.encode())
        self.drained.clear()
        self.wake.set()

    async def write_all(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.out:
                await self.socket.send(self.out.popleft())
            self.drained.set()


PROTOCOL = "rainbow.2"
