"""Hooks as an ASGI application: for uvicorn and hypercorn, and to be mounted in Starlette, FastAPI or Quart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .hooks import Answer, Hook, Incoming, route
from .wsgi import BODY_MAX, SAFE

if TYPE_CHECKING:
    from .hooks import Hooks

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def application(hooks: Hooks) -> Callable[[Message, Receive, Send], Awaitable[None]]:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            raise RuntimeError(f"hooks come by HTTP, not {scope['type']}")
        body = await _read_body(receive)
        if body is None:
            return None
        await respond(await answer(hooks, scope, body), send)

    return app


async def answer(hooks: Hooks, scope: Message, body: bytes) -> Answer:
    """The answer to the request of an ASGI scope."""
    if len(body) > BODY_MAX:
        return Answer(413)
    found = route(scope["path"])
    if found is None:
        return Answer(404, b'{"status": "error", "msg": "no such hook"}')
    kind, message_type = found
    request = Incoming.of(scope["method"], target(scope), _headers(scope["headers"]), body)
    return await hooks.handle_async(Hook(kind, request, message_type))


def target(scope: Message) -> str:
    raw: bytes | None = scope.get("raw_path")
    path = raw.partition(b"?")[0].decode("latin-1") if raw else quote(scope["path"], safe=SAFE)
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


async def respond(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": header_list(answer)})
    await send({"type": "http.response.body", "body": answer.body})


def header_list(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    return headers + [(name.lower().encode(), value.encode()) for name, value in answer.headers]


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]


async def _read_body(receive: Receive) -> bytes | None:
    """None when the caller is gone. What is too large is read no further."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_MAX or not message.get("more_body"):
            return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
