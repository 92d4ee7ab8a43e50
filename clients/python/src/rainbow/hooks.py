"""Hooks: what Rainbow asks a business server. Frameworks bring requests in and take `Answer`s out.

A handler gets one argument with `identity`, `msg_type`, `data`, `context` (as in 2014) and `rainbow`, which acts on the
client: `sub`, `unsub`, `cookie`, `session`, `user`, `refuse`. Under Django that is the HttpRequest, elsewhere a `Hook`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from .calls import check_channel, encode
from .errors import BadSignature, Refused
from .signing import Verifier, WebhookKey

log = logging.getLogger("rainbow")

Handler = TypeVar("Handler", bound=Callable[..., Any])
CONNECT, MESSAGE, CLOSE, RECEIPT = "connect", "message", "close", "receipt"


@dataclass(frozen=True)
class Answer:
    """What goes back to Rainbow. Header values are text; frameworks send them as UTF-8."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True)
class Incoming:
    """A request, as every framework can tell it."""

    method: str
    #: Path and query as in the request line: the signature may cover it.
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Incoming:
        return cls(method, target, {name.lower(): value for name, value in headers}, body)

    @property
    def query(self) -> dict[str, str]:
        """The first of each name counts."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(self.target.partition("?")[2], keep_blank_values=True):
            query.setdefault(name, value)
        return query


class Hook:
    """One call of Rainbow about one client, and what the answer does to that client."""

    def __init__(self, kind: str, request: Incoming, message_type: int | None = None) -> None:
        self.kind = kind
        self.request = request
        #: 0-65534; None unless the client sent a message.
        self.message_type = message_type
        headers = request.headers
        self.identity = headers.get("rainbowclientidentity", "")
        self.device = headers.get("x-deviceid", "")
        self.os = headers.get("x-client-os", "")
        #: The client's address as Rainbow saw it; empty when Rainbow does not say it.
        self.address = headers.get("x-real-ip", "")
        self.origin = headers.get("rainbowclientorigin", "")
        #: The same over all repeats of one message; None with QoS 0.
        self.idempotency_key = headers.get("idempotency-key") or None
        #: At a close: code and reason, and "expired" or "dropped" where a session has ended.
        self.close_code = _number(headers.get("rainbowclosecode"))
        self.close_reason = headers.get("rainbowclosereason", "")
        self.session_ended = headers.get("rainbowsessionended") or None
        self._session = headers.get("rainbowclientsession") or None
        self._session_expiry: int | None = None
        self._user = headers.get("rainbowclientuser") or None
        self._cookie = _read_cookie(headers.get("rainbowclientcookie", ""))
        self._cookie_before = headers.get("rainbowclientcookie", "")
        self._session_set = self._user_set = False
        self._sub: list[str] = []
        self._unsub: list[str] = []

    # What came.

    @property
    def rainbow(self) -> Hook:
        """Itself, so that a handler reads the same under every framework."""
        return self

    @property
    def msg_type(self) -> int | None:
        return self.message_type

    @property
    def body(self) -> bytes:
        return self.request.body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def data(self) -> Any:
        """The body as JSON; None when it is empty. What is no JSON is refused with 400."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            raise Refused("the message is not JSON", status=400) from None

    @property
    def headers(self) -> Mapping[str, str]:
        """Names are lower-case."""
        return self.request.headers

    @property
    def query(self) -> dict[str, str]:
        return self.request.query

    # What the answer does.

    def sub(self, *channels: str) -> None:
        self._sub += map(check_channel, channels)

    def unsub(self, *channels: str) -> None:
        self._unsub += map(check_channel, channels)

    @property
    def cookie(self) -> Any:
        """What Rainbow keeps for this client and brings with every later call: JSON, or bytes. None: nothing yet."""
        return self._cookie

    @cookie.setter
    def cookie(self, value: Any) -> None:
        self._cookie = value

    @property
    def context(self) -> Any:
        """2014's name for `cookie`."""
        return self._cookie

    @context.setter
    def context(self, value: Any) -> None:
        self._cookie = value

    @property
    def session(self) -> str | None:
        """The durable session of this client. Set it in a connect handler; `session_expiry` is in seconds."""
        return self._session

    @session.setter
    def session(self, name: str) -> None:
        self._only_at_connect("session")
        self._session, self._session_set = _check_name(name), True

    @property
    def session_expiry(self) -> int | None:
        return self._session_expiry

    @session_expiry.setter
    def session_expiry(self, seconds: int) -> None:
        self._only_at_connect("session_expiry")
        self._session_expiry = int(seconds)

    @property
    def user(self) -> str | None:
        """Who this is, for `send(user=)`, `kick(user=)` and /channel/. Set it in a connect handler."""
        return self._user

    @user.setter
    def user(self, name: str) -> None:
        self._only_at_connect("user")
        self._user, self._user_set = _check_name(str(name)), True

    def refuse(self, reason: str = "", *, status: int = 403) -> NoReturn:
        """Does not let the client in, or refuses its message for good."""
        raise Refused(reason, status=status)

    def _only_at_connect(self, what: str) -> None:
        if self.kind != CONNECT:
            raise RuntimeError(f"{what} can be set when a client connects, not later")

    def action_headers(self) -> list[tuple[str, str]]:
        """The headers that carry out what was asked for above."""
        headers = []
        if self._unsub:
            headers.append(("RAINBOWCLIENTCHANNELUNSUB", ";;".join(dict.fromkeys(self._unsub))))
        if self._sub:
            headers.append(("RAINBOWCLIENTCHANNEL", ";;".join(dict.fromkeys(self._sub))))
        cookie = _write_cookie(self._cookie)
        if self._cookie is not None and cookie != self._cookie_before:
            headers.append(("RAINBOWCLIENTCOOKIE", cookie))
        if self._session_set and self._session:
            headers.append(("RAINBOWCLIENTSESSION", self._session))
            if self._session_expiry is not None:
                headers.append(("RAINBOWCLIENTSESSIONEXPIRY", str(self._session_expiry)))
        if self._user_set and self._user:
            headers.append(("RAINBOWCLIENTUSER", self._user))
        return headers

    def answer(self, result: Any) -> Answer:
        """What a handler returned, as an answer: None, False (at connect), text, bytes, JSON, `RainbowResponse`."""
        if isinstance(result, Answer):
            return Answer(result.status, result.body, (*result.headers, *self.action_headers()), result.content_type)
        if isinstance(result, RainbowResponse):
            self._take_response(result)
            result = result.data
        if self.kind == CONNECT:
            if result is False:
                raise Refused()
            if result is None or result is True:
                result = {"status": "success"}
        elif self.kind == CLOSE and result is None:
            result = {"status": "success"}
        is_raw = isinstance(result, (bytes, bytearray, memoryview))
        content_type = "application/octet-stream" if is_raw else "application/json"
        return Answer(200, encode(result), tuple(self.action_headers()), content_type)

    def refusal(self, refused: Refused) -> Answer:
        """At connect a JSON that is not a success, which every server of Rainbow's understands; else a final 4xx."""
        if self.kind == CONNECT:
            return Answer(200, encode({"status": "failed", "reason": refused.reason}))
        return Answer(refused.status, encode({"status": "error", "msg": refused.reason}))

    def _take_response(self, response: RainbowResponse) -> None:
        self.sub(*response.subscribed)
        self.unsub(*response.unsubscribed)
        if response.has_context:
            self._cookie = response.context


class RainbowResponse:
    """2014's answer: data for the client, a context that comes back with its next message, and channels."""

    def __init__(self, data: Any, request: Any = None, context: Any = None) -> None:
        self.data = data
        self._context = context if context is not None else getattr(request, "context", None)
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []

    @property
    def has_context(self) -> bool:
        return self._context is not None

    @property
    def context(self) -> Any:
        if self._context is None:
            self._context = {}
        return self._context

    def sub(self, channel: str) -> None:
        self.subscribed.append(channel)

    def unsub(self, channel: str) -> None:
        self.unsubscribed.append(channel)


@dataclass
class Registry:
    """Which handler answers what. The decorators return the function itself, as 2014's did."""

    handlers: dict[str | int, Callable[..., Any]] = field(default_factory=dict)

    def rainbow(self, msg_type: int) -> Callable[[Handler], Handler]:
        """`@rainbow(1)`: the function answers messages of type 1."""
        if not isinstance(msg_type, int) or not 0 <= msg_type <= 65534:
            raise ValueError(f"a message type is a number from 0 to 65534, not {msg_type!r}")
        return lambda function: self._add(msg_type, function)

    def rainbow_connect(self, function: Handler) -> Handler:
        """The function decides who is let in. It may return nothing: then everybody whom it does not `refuse`."""
        return self._add(CONNECT, function)

    def rainbow_close(self, function: Handler) -> Handler:
        """The function hears the end of each connection."""
        return self._add(CLOSE, function)

    def rainbow_receipt(self, function: Handler) -> Handler:
        """The function hears, in `data`, which stored messages have reached which sessions."""
        return self._add(RECEIPT, function)

    def _add(self, key: str | int, function: Handler) -> Handler:
        known = self.handlers.get(key)
        if known is not None and _place(known) != _place(function):
            raise ValueError(f"two handlers for {key!r}: {_place(known)} and {_place(function)}")
        self.handlers[key] = function
        return function

    def find(self, hook: Hook) -> Callable[..., Any] | None:
        """The handler of a hook. A hook that may go unanswered has one always."""
        key = hook.message_type if hook.kind == MESSAGE else hook.kind
        assert key is not None
        handler = self.handlers.get(key)
        if handler is None and hook.kind != MESSAGE:
            return _nothing
        return handler


def route(path: str) -> tuple[str, int | None] | None:
    """`connect/`, `message/7/`, `close/`, `receipt/`, wherever they hang: the kind of hook and the message type."""
    match path.strip("/").split("/"):
        case [*_, "message", number] if number.isascii() and number.isdigit() and int(number) <= 65535:
            return MESSAGE, int(number)
        case [*_, ("connect" | "close" | "receipt") as kind]:
            return kind, None
    return None


def check(verifier: Verifier, hook: Hook) -> Answer | None:
    """An answer for requests that no handler should see."""
    request = hook.request
    try:
        verifier.verify(request.method, request.target, request.headers, request.body)
    except BadSignature as error:
        log.warning("hook %s refused: %s", request.target.partition("?")[0], error)
        return _invalid(401, "60001", f"bad signature: {error}")
    if hook.kind in (MESSAGE, RECEIPT) and request.method != "POST":
        return _invalid(405, "60003", "POST required")
    if hook.kind in (CONNECT, MESSAGE) and not hook.identity:
        return _invalid(400, "60002", "identity required")
    return None


def unknown_type(hook: Hook) -> Answer:
    return hook.refusal(Refused(f"nobody takes messages of type {hook.message_type}", status=404))


class Hooks(Registry):
    """Handlers with what checks them: an application for WSGI (`hooks.wsgi`) and ASGI (`hooks.asgi`) servers.

    hooks = Hooks(token="testtoken")

    @hooks.rainbow(1)
    def said(request):
        request.rainbow.sub("room")
        return {"you said": request.data}
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        webhook_secrets: Iterable[str] = (),
        window: int = 10,
        require_webhook: bool = False,
        insecure: bool = False,
    ) -> None:
        super().__init__()
        keys = [WebhookKey(secret) for secret in webhook_secrets]
        self.verifier = Verifier(token, keys, window, require_webhook, insecure)

    def handle(self, hook: Hook) -> Answer:
        """Runs the handler in this thread, to its end."""
        handler = self._handler(hook)
        if isinstance(handler, Answer):
            return handler
        try:
            result = handler(hook)
            return hook.answer(asyncio.run(_wait(result)) if inspect.isawaitable(result) else result)
        except Exception as error:
            return _failed(hook, error)

    async def handle_async(self, hook: Hook) -> Answer:
        """Awaits an asynchronous handler; one that may block runs in a thread."""
        handler = self._handler(hook)
        if isinstance(handler, Answer):
            return handler
        try:
            if inspect.iscoroutinefunction(handler):
                result = await handler(hook)
            else:
                result = await asyncio.to_thread(handler, hook)
            return hook.answer(await result if inspect.isawaitable(result) else result)
        except Exception as error:
            return _failed(hook, error)

    def _handler(self, hook: Hook) -> Callable[..., Any] | Answer:
        return check(self.verifier, hook) or self.find(hook) or unknown_type(hook)

    @property
    def wsgi(self) -> Any:
        """The application for Flask's dispatcher, gunicorn, mod_wsgi, and whatever else speaks WSGI."""
        from .wsgi import application

        return application(self)

    @property
    def asgi(self) -> Any:
        """The application for uvicorn, hypercorn, and for `Mount` of Starlette."""
        from .asgi import application

        return application(self)


async def _wait(result: Awaitable[Any]) -> Any:
    return await result


def _failed(hook: Hook, error: Exception) -> Answer:
    if isinstance(error, Refused):
        return hook.refusal(error)
    # Rainbow calls again after a 5xx, until `forward_deadline`.
    log.error("the handler of %s %s failed", hook.kind, hook.request.target.partition("?")[0], exc_info=error)
    return Answer(500, encode({"status": "error", "msg": "the handler failed"}))


def _invalid(status: int, code: str, msg: str) -> Answer:
    body = encode({"status": "error", "msg": msg})
    return Answer(status, body, (("RAINBOWREQUESTINVALID", code),))


def _nothing(_: Any) -> None:
    return None


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _check_name(name: str) -> str:
    if not 1 <= len(name) <= 128 or not (name.isascii() and name.isprintable()) or name != name.strip():
        raise ValueError(f"{name!r}: a name has 1 to 128 printable ASCII characters")
    return name


def _read_cookie(header: str) -> Any:
    try:
        raw = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw


def _write_cookie(value: Any) -> str:
    raw = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else json.dumps(value).encode()
    return base64.b64encode(raw).decode()
