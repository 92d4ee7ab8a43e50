"""The business server: it hears Rainbow's hooks and answers as the scenario says."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .relay import Notes


@dataclass(frozen=True)
class Hook:
    """A request of Rainbow's. `type` is a forwarded message's."""

    kind: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    type: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return self.headers.get("x-deviceid", "")

    @property
    def key(self) -> str:
        """The same over all repeats of one message."""
        return self.headers.get("idempotency-key", "")


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def success(**headers: str) -> Answer:
    return Answer(b'{"status": "success"}', 200, headers)


def refusal(reason: str) -> Answer:
    return Answer(json.dumps({"status": "refused", "reason": reason}).encode())


class Business:
    def __init__(self, world: Notes, with_session: bool) -> None:
        self._world = world
        self.hooks: list[Hook] = []
        self.on_connect: Callable[[Hook], Answer] = self._let_in
        self.on_message: Callable[[Hook], Answer] = lambda hook: Answer(b"re:" + hook.body)
        #: Headers of the answer that lets a client in.
        self.headers = {"RAINBOWCLIENTCHANNEL": "room"}
        self._with_session = with_session
        business = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1
            timeout = 60

            def do_GET(self) -> None:
                business._serve(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """Rainbow was killed, or the client program's part of the scenario is over."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heard(self, kind: str) -> list[Hook]:
        return [hook for hook in self.hooks if hook.kind == kind]

    @property
    def forwarded(self) -> list[Hook]:
        """Messages, each repeat of a try included."""
        return self.heard("message")

    @property
    def taken(self) -> list[Hook]:
        """Messages as a business server takes them that minds the Idempotency-Key: each key once."""
        first: dict[str, Hook] = {}
        for hook in self.forwarded:
            first.setdefault(hook.key or f"none {len(first)}", hook)
        return list(first.values())

    def bodies(self) -> list[bytes]:
        return [hook.body for hook in self.taken]

    def _let_in(self, hook: Hook) -> Answer:
        session = {"RAINBOWCLIENTSESSION": hook.device} if self._with_session else {}
        return success(**self.headers, **session)

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        message = re.match(r"/message/(\d+)/", url.path)
        kind = "message" if message else url.path.strip("/")
        hook = Hook(kind, query, headers, body, int(message.group(1)) if message else 0)
        with self._world.changed:
            self.hooks.append(hook)
        what = f" type={hook.type} {body[:60]!r}" if message else ""
        self._world.note(f"hook   {kind}{what}")
        handlers = {"connect": self.on_connect, "message": self.on_message}
        answer = handlers.get(kind, lambda _: Answer())(hook)
        if answer.status != 200:
            self._world.note(f"hook   {kind} is answered {answer.status}")
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(answer.body)))
        request.end_headers()
        request.wfile.write(answer.body)
