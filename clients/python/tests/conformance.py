"""The asyncio client as a program of the conformance kit (../../conformance/README.md).

Commands come in, events go out, a line of JSON each.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

from rainbow.client import (
    Client,
    ClientClosed,
    ClientError,
    ClientFull,
    Closed,
    ConnectRefused,
    FileStorage,
    Greeting,
    Message,
    MessageRefused,
    MessageTooLarge,
    SendTimeout,
)

CODES = {
    SendTimeout: "timeout",
    MessageTooLarge: "too_large",
    MessageRefused: "refused",
    ConnectRefused: "refused",
    ClientFull: "full",
    ClientClosed: "closed",
}
clock_offset = 0.0
real_time = time.time
time.time = lambda: real_time() + clock_offset


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def text(body: bytes) -> str:
    return base64.b64encode(body).decode()


class Program:
    def __init__(self) -> None:
        self.client: Client | None = None
        self.reply = ""
        self.held: asyncio.Event | None = None
        self.each: list[dict[str, str]] | None = None
        self.tasks: set[asyncio.Future[Any]] = set()

    def do(self, command: dict[str, Any]) -> None:
        name = command.pop("do")
        done = getattr(self, "do_" + name)(**command)
        if done is True:
            tell("done", command=name)

    def do_open(self, tag: str, **how: Any) -> None:
        if self.client is None:
            self.client = self.made(**how)
        self.follow(tag, self.client.open())

    def made(
        self,
        url: str,
        device: str,
        session: bool,
        storage: str | None,
        params: dict[str, str],
        options: dict[str, int],
    ) -> Client:
        """This client always offers `rainbow.2`; `session` False is the server's choice then."""
        seconds = {name: value / 1000 for name, value in options.items()}
        each = self.each
        client = Client(
            url,
            device_id=device,
            os="kit",
            params=params if each is None else lambda: each.pop(0),
            storage=FileStorage(storage) if storage else None,
            **seconds,  # type: ignore[arg-type]
        )
        client.on("open", self.on_open)
        client.on("close", self.on_close)
        client.on("message", self.on_message)
        client.on("error", lambda error: tell("error", text=repr(error)))
        return client

    def on_open(self, greeting: Greeting) -> None:
        tell("opened", session=greeting.session, resumed=greeting.resumed, waiting=greeting.waiting)

    def on_close(self, closed: Closed) -> None:
        retry = None if closed.retry_in is None else round(closed.retry_in * 1000)
        tell("closed", code=closed.code, reason=closed.reason, retry=retry)

    async def on_message(self, message: Message) -> str:
        body = text(message.body)
        tell("message", type=message.type, qos=message.qos, id=message.id, dup=message.dup, body=body)
        if self.held is not None:
            await self.held.wait()
        return self.reply

    def do_send(self, tag: str, type: int, qos: int, body: str, timeout: int | None = None) -> None:
        assert self.client is not None
        seconds = None if timeout is None else timeout / 1000
        self.follow(tag, self.client.send(type, base64.b64decode(body), qos, seconds))

    def do_close(self) -> None:
        assert self.client is not None
        self.keep(asyncio.ensure_future(self.client.close()))

    def do_flood(self, tag: str, count: int, type: int, qos: int, window: int) -> None:
        self.follow(tag, self.flood(count, type, qos, window))

    async def flood(self, count: int, type_: int, qos: int, window: int) -> None:
        client, numbers = self.client, iter(range(count))
        assert client is not None

        async def send_some() -> None:
            for _ in numbers:
                await client.send(type_, b"", qos)

        await asyncio.gather(*(send_some() for _ in range(window)))

    def do_reply(self, text: str) -> bool:
        self.reply = text
        return True

    def do_hold(self) -> bool:
        self.held = asyncio.Event()
        return True

    def do_release(self) -> bool:
        assert self.held is not None
        self.held.set()
        self.held = None
        return True

    def do_params(self, each: list[dict[str, str]]) -> bool:
        self.each = each
        return True

    def do_clock(self, add: int) -> bool:
        global clock_offset
        clock_offset += add / 1000
        return True

    def do_sync(self) -> bool:
        return True

    def follow(self, tag: str, promise: Awaitable[Any]) -> None:
        async def settled() -> None:
            try:
                answer = await promise
            except ClientError as error:
                refused = (
                    {"status": error.status, "body": text(error.body)} if isinstance(error, MessageRefused) else {}
                )
                reason = {"reason": error.reason} if isinstance(error, ConnectRefused) else {}
                tell("rejected", tag=tag, code=CODES.get(type(error), str(error)), **refused, **reason)
            else:
                tell("acknowledged", tag=tag, body=text(getattr(answer, "body", b"")))

        self.keep(asyncio.ensure_future(settled()))

    def keep(self, task: asyncio.Future[Any]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    program = Program()
    while line := await reader.readline():
        program.do(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
