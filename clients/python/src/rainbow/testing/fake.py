"""The fake server: channels, sessions and clients as plain objects, hooks by a call of the application."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

import httpx

from .. import signing
from ..api import installed
from ..calls import encode
from ..client.message import ConnectRefused, Message, MessageRefused, Reply
from ..errors import BadSignature
from ..signing import Verifier, WebhookKey


@dataclass(frozen=True)
class RecordedCall:
    """A call that the code under test made: `path` is "send", "sub", "session/drop" and so on."""

    path: str
    query: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(eq=False)
class FakeClient:
    """A client that has been let in."""

    server: FakeRainbow = field(repr=False)
    device: str
    identity: str
    channels: set[str] = field(default_factory=set)
    cookie: str = ""
    session: str | None = None
    user: str | None = None
    #: What has reached it.
    received: list[Message] = field(default_factory=list)
    #: Code and reason, once it has been closed.
    closed: tuple[int, str] | None = None
    #: What it replies to QoS 1 and 2 messages.
    reply: Callable[[Message], Any] = lambda _: None
    _sent: int = 0
    _last: tuple[int, bytes, str | None] | None = None

    def send(self, type: int, data: Any = None, qos: int = 1) -> Reply:
        """Sends a message; the answer to it. Raises `MessageRefused` for a 4xx, `HookFailed` for a 5xx."""
        if self.closed is not None:
            raise RuntimeError("this client has gone")
        self._sent += 1
        key = f"{self.identity}-{self._sent}" if qos else None
        self._last = (type, encode(data), key)
        return self.repeat()

    def repeat(self) -> Reply:
        """The last message again, with the same Idempotency-Key: as after a lost answer."""
        if self._last is None:
            raise RuntimeError("nothing was sent")
        type_, body, key = self._last
        headers = self._headers() | ({"Idempotency-Key": key} if key else {})
        response = self.server.hook("POST", f"message/{type_}/", headers, body)
        if response.status_code >= 500 or response.status_code in (408, 425, 429):
            raise HookFailed(response.status_code, response.content)
        if response.status_code >= 400:
            raise MessageRefused(response.status_code, response.content)
        self.apply(response)
        return Reply(response.content)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """The line ends; the close hook is called."""
        if self.closed is not None:
            return
        self.closed = (code, reason)
        self.server.clients.remove(self)
        headers = self._headers() | {"RAINBOWCLOSECODE": str(code), "RAINBOWCLOSEREASON": reason}
        headers["Idempotency-Key"] = f"{self.identity}-close"
        self.server.hook("GET", "close/", headers, b"")

    def apply(self, response: httpx.Response) -> None:
        """Does what the headers of a hook's answer say."""
        text = {name.decode().lower(): value.decode() for name, value in response.headers.raw}
        self.channels -= _names(text.get("rainbowclientchannelunsub"))
        self.channels |= _names(text.get("rainbowclientchannel"))
        self.cookie = text.get("rainbowclientcookie", self.cookie)

    def _headers(self) -> dict[str, str]:
        headers = {"RAINBOWCLIENTIDENTITY": self.identity, "RAINBOWCLIENTCOOKIE": self.cookie}
        headers |= {"RAINBOWCLIENTSESSION": self.session or "", "RAINBOWCLIENTUSER": self.user or ""}
        return {name: value for name, value in headers.items() if value}


class HookFailed(Exception):
    """A hook answered what Rainbow would retry."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:200]!r}")
        self.status = status


class FakeRainbow:
    """See the package's text. `calls` has every call made to it, `clients` who is connected."""

    def __init__(self, *, token: str | None = "testtoken", webhook_secret: str | None = None) -> None:
        self.token, self.webhook_secret = token, webhook_secret
        self.calls: list[RecordedCall] = []
        self.clients: list[FakeClient] = []
        #: Messages for sessions that are away, by session.
        self.stored: dict[str, list[Message]] = {}
        #: Answers for calls by path ("send"), in place of what the fake would do: to try failures.
        self.overrides: dict[str, Callable[[RecordedCall], httpx.Response]] = {}
        self._answered: dict[str, dict[str, Any]] = {}
        self._hook: Callable[[httpx.Request], httpx.Response] | None = None
        self._prefix = "/rainbow/"
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FakeRainbow:
        transport = httpx.MockTransport(self._answer)
        sync = self._stack.enter_context(httpx.Client(transport=transport))
        self._stack.enter_context(installed(sync, httpx.AsyncClient(transport=transport)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, *, wsgi: Any = None, asgi: Any = None, prefix: str = "/rainbow/") -> None:
        """The application whose hooks are called, and the path that they hang under."""
        if (wsgi is None) == (asgi is None):
            raise TypeError("pass wsgi or asgi")
        self._prefix = prefix
        self._hook = _from_wsgi(wsgi) if wsgi is not None else _from_asgi(asgi)

    def connect(
        self,
        *,
        device: str = "device",
        os: str = "test",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> FakeClient:
        """A client comes. Raises `ConnectRefused` when the connect hook does not let it in."""
        client = FakeClient(self, device, secrets.token_hex(32))
        sent = {"X-DEVICEID": device, "X-CLIENT-OS": os, "RAINBOWCLIENTIDENTITY": client.identity}
        response = self.hook("GET", "connect/", {**(headers or {}), **sent}, b"", query or {})
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        if response.status_code >= 500:
            raise HookFailed(response.status_code, response.content)
        if response.status_code >= 400 or answer.get("status") != "success":
            raise ConnectRefused(str(answer.get("reason") or answer.get("msg") or ""))
        client.apply(response)
        client.session = response.headers.get("rainbowclientsession")
        client.user = response.headers.get("rainbowclientuser")
        if client.session is not None:
            client.received += self.stored.pop(client.session, [])
            self.stored[client.session] = []
        self.clients.append(client)
        return client

    def hook(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Calls a hook, signed as Rainbow signs."""
        if self._hook is None:
            raise RuntimeError("say which application answers: fake.serve(wsgi=...) or fake.serve(asgi=...)")
        signed = dict(query or {}) | (signing.query_2014(self.token) if self.token else {})
        target = self._prefix + path + ("?" + urlencode(signed) if signed else "")
        own = {} if self.webhook_secret is None else WebhookKey(self.webhook_secret).headers(None, body)
        request = httpx.Request(method, f"http://testserver{target}", headers={**headers, **own}, content=body or None)
        response = self._hook(request)
        response.read()
        return response

    # Calls.

    def _answer(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        call = RecordedCall(request.url.path.strip("/"), dict(request.url.params), request.read())
        try:
            self._verify(request, target)
        except BadSignature as error:
            return httpx.Response(401, json={"status": 1, "msg": str(error)})
        with self._lock:
            self.calls.append(call)
            if call.path in self.overrides:
                return self.overrides[call.path](call)
            handle = getattr(self, "_call_" + call.path.replace("/", "_"), None)
            if handle is None:
                return httpx.Response(404, json={"status": 1, "msg": "no such call"})
            answer: dict[str, Any] = handle(call)
            return httpx.Response(200, json=answer)

    def _verify(self, request: httpx.Request, target: str) -> None:
        keys = [] if self.webhook_secret is None else [WebhookKey(self.webhook_secret)]
        verifier = Verifier(self.token, keys, insecure=not (self.token or keys))
        headers = {name.lower(): value for name, value in request.headers.items()}
        verifier.verify(request.method, target, headers, request.read())

    def _call_hello(self, call: RecordedCall) -> dict[str, Any]:
        return {"status": 0}

    def _call_info(self, call: RecordedCall) -> dict[str, Any]:
        return {"status": 0, "connections": len(self.clients)}

    def _call_send(self, call: RecordedCall) -> dict[str, Any]:
        query, message_id = call.query, call.query.get("message_id")
        if message_id is not None and message_id in self._answered:
            return self._answered[message_id]
        names = set((query.get("channels") or query.get("channel") or "").split(";;"))
        session, user = query.get("session"), query.get("user")
        if session is not None and session not in self.stored:
            return _refusal("no such session")
        qos = int(query.get("qos", 2))
        message = Message(call.body, int(query.get("msgtype", 1)), qos, 1 if qos else None)
        to = [
            client
            for client in self.clients
            if (session is not None and client.session == session)
            or (user is not None and client.user == user)
            or client.channels & names
        ]
        replies = [encode(client.reply(message)).decode() for client in to if not client.received.append(message)]  # type: ignore[func-returns-value]
        stored = int(session is not None and not to and qos > 0)
        if session is not None and stored:
            self.stored[session].append(message)
        answer: dict[str, Any] = {"status": 0}
        if qos > 0:
            answer |= {"connections": len(to), "targets": len(to) + stored, "stored": stored}
            answer["data"] = replies[0] if replies else ""
        if message_id is not None:
            self._answered[message_id] = answer
        return answer

    _call_broadcast = _call_send

    def _call_sub(self, call: RecordedCall) -> dict[str, Any]:
        asked = call.json()
        client = self._find(asked["identity"])
        if client is None:
            return _refusal("no such connection")
        if asked.get("occupy"):
            for other in self.clients:
                other.channels.discard(asked["channel"])
        client.channels.add(asked["channel"])
        return {"status": 0}

    def _call_unsub(self, call: RecordedCall) -> dict[str, Any]:
        client = self._find(call.json()["identity"])
        if client is not None:
            client.channels.discard(call.json()["channel"])
        return {"status": 0}

    def _call_kick(self, call: RecordedCall) -> dict[str, Any]:
        asked = call.json()
        hit = [
            client
            for client in self.clients
            if client.identity == asked.get("identity")
            or asked.get("channel") in client.channels
            or (client.user is not None and client.user == asked.get("user"))
        ]
        if not hit and "identity" in asked:
            return _refusal("no such connection")
        for client in hit:
            client.close(asked["code"], asked["reason"])
        return {"status": 0}

    def _call_channel(self, call: RecordedCall) -> dict[str, Any]:
        name, user = call.query.get("channel"), call.query.get("user")
        if name is None and user is None:
            counts = {name: self._members(name) for client in self.clients for name in client.channels}
            rows = [{"channel": name, "connections": len(who)} for name, who in counts.items()]
            return {"status": 0, "channels": rows}
        if name is not None:
            who = self._members(name)
        else:
            who = [client.identity for client in self.clients if client.user == user]
        offset, limit = int(call.query.get("offset", 0)), int(call.query.get("limit", 100))
        page = who[offset : offset + limit]
        named = {"channel": name} if name is not None else {"user": user}
        users = {c.identity: c.user for c in self.clients if c.identity in page and c.user is not None}
        return {"status": 0, **named, "connections": len(who), "identities": page, "users": users}

    def _call_session(self, call: RecordedCall) -> dict[str, Any]:
        name = call.query["session"]
        if name not in self.stored:
            return _refusal("no such session")
        online = [client for client in self.clients if client.session == name]
        waiting = self.stored[name]
        return {
            "status": 0,
            "session": name,
            "user": online[0].user if online else None,
            "online": bool(online),
            "identity": online[0].identity if online else None,
            "channels": sorted(online[0].channels) if online else [],
            "waiting": len(waiting),
            "waiting_bytes": sum(len(message.body) for message in waiting),
        }

    def _call_session_drop(self, call: RecordedCall) -> dict[str, Any]:
        name = call.query["session"]
        if self.stored.pop(name, None) is None:
            return _refusal("no such session")
        for client in [client for client in self.clients if client.session == name]:
            client.close(4500, "session dropped")
        return {"status": 0}

    def _members(self, channel: str) -> list[str]:
        return [client.identity for client in self.clients if channel in client.channels]

    def _find(self, identity: str) -> FakeClient | None:
        return next((client for client in self.clients if client.identity == identity), None)


def _refusal(msg: str) -> dict[str, Any]:
    return {"status": 1, "msg": msg}


def _names(header: str | None) -> set[str]:
    return {name for name in (header or "").split(";;") if name}


def _from_wsgi(app: Any) -> Callable[[httpx.Request], httpx.Response]:
    """Runs a WSGI application. (httpx's own transport takes no header values beyond ASCII.)"""

    def handle(request: httpx.Request) -> httpx.Response:
        body = request.read()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(request.url.raw_path.decode().partition("?")[0], "latin-1"),
            "QUERY_STRING": request.url.query.decode(),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
        }
        for name, value in request.headers.items():
            environ.setdefault("HTTP_" + name.upper().replace("-", "_"), value)
        started: list[Any] = []
        parts = app(environ, lambda status, headers, *_: started.extend((status, headers)))
        try:
            content = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        headers = [(name.encode(), value.encode("latin-1")) for name, value in started[1]]
        return httpx.Response(int(started[0].split()[0]), headers=headers, content=content)

    return handle


def _from_asgi(app: Any) -> Callable[[httpx.Request], httpx.Response]:
    """Runs an ASGI application for one request, in a thread of its own where a loop runs already."""
    transport = httpx.ASGITransport(app)

    async def one(request: httpx.Request) -> httpx.Response:
        response = await transport.handle_async_request(request)
        await response.aread()
        return response

    def handle(request: httpx.Request) -> httpx.Response:
        return _run(one(request))

    return handle


def _run(work: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
    found: list[httpx.Response | BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
