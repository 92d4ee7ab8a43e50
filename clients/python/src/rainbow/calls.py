"""Calls as data: what to request, and how to read the answer. No input or output; `api` carries them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from . import signing
from .errors import CallRefused, SendIncomplete, Unreachable
from .results import ChannelResult, SendResult, SessionResult, read_count, read_mapping, read_texts

#: What a message may be: bytes and text as they are, anything else as JSON.
Data = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to Rainbow. `read` makes the result of an answer whose status is 0."""

    method: str
    path: str
    read: Callable[[Mapping[str, Any]], T]
    query: Mapping[str, str] | None = None
    body: bytes = b""
    #: How long the server may take by its own promise, in seconds.
    patience_s: float = 0
    #: A repeat does no harm.
    repeatable: bool = False
    is_send: bool = False


@dataclass(frozen=True)
class Credentials:
    """How calls are signed: by Standard Webhooks where a secret is known, else as in 2014."""

    token: str | None = None
    webhook_key: signing.WebhookKey | None = None

    def signed(self, call: Call[Any], prefix: str) -> tuple[str, dict[str, str]]:
        """Target (path and query) and headers of one attempt."""
        query = dict(call.query or {})
        if self.webhook_key is None and self.token:
            query.update(signing.query_2014(self.token))
        target = prefix + call.path + ("?" + urlencode(query, quote_via=quote) if query else "")
        headers = {}
        if call.body:
            headers["content-type"] = "application/octet-stream" if call.is_send else "application/json"
        if self.webhook_key is not None:
            headers.update(self.webhook_key.headers(f"{call.method} {target}", call.body))
        return target, headers


def send(
    channel: str | None,
    data: Data,
    *,
    channels: Iterable[str] | None = None,
    session: str | None = None,
    user: str | None = None,
    msgtype: int = 1,
    qos: int = 2,
    timeout: float = 10,
    ttl: float | None = None,
    message_id: str | None = None,
    wait: str | None = None,
) -> Call[SendResult]:
    """A message to one channel, to several, to a session or to a user: exactly one of them."""
    if sum(to is not None for to in (channel, channels, session, user)) != 1:
        raise TypeError("name one of: channel, session, user")
    if qos not in (0, 1, 2):
        raise ValueError(f"qos is 0, 1 or 2, not {qos!r}")
    if not 0 <= msgtype <= 65534:
        raise ValueError(f"msgtype is a number from 0 to 65534, not {msgtype!r}")
    names = None if channels is None else ";;".join(check_channel(name) for name in channels)
    query = {
        "channel": channel,
        "channels": names,
        "session": session,
        "user": user,
        "msgtype": str(msgtype),
        "qos": str(qos),
        "timeout": f"{timeout:g}",
        "ttl": None if ttl is None else f"{ttl:g}",
        "message_id": message_id,
        "wait": wait,
    }
    return Call(
        "POST",
        "/send/" if channels is None else "/broadcast/",
        SendResult.read,
        query={name: value for name, value in query.items() if value is not None},
        body=encode(data),
        patience_s=timeout if qos else 0,
        repeatable=message_id is not None,
        is_send=True,
    )


def sub(identity: str, channel: str, *, occupy: bool = False) -> Call[None]:
    return _membership("/sub/", {"identity": identity, "channel": channel, "occupy": int(occupy)})


def unsub(identity: str, channel: str) -> Call[None]:
    return _membership("/unsub/", {"identity": identity, "channel": channel})


def kick(
    identity: str | None = None,
    *,
    channel: str | None = None,
    user: str | None = None,
    code: int = 4500,
    reason: str = "",
) -> Call[None]:
    whom = {"identity": identity, "channel": channel, "user": user}
    named = {name: value for name, value in whom.items() if value is not None}
    if len(named) != 1:
        raise TypeError("name one of: identity, channel, user")
    return _membership("/kick/", {**named, "code": code, "reason": reason})


def _membership(path: str, body: Mapping[str, Any]) -> Call[None]:
    return Call("POST", path, lambda _: None, body=json.dumps(body).encode())


def channel(
    name: str | None = None, *, user: str | None = None, offset: int = 0, limit: int = 100
) -> Call[ChannelResult]:
    if name is not None and user is not None:
        raise TypeError("name one of: channel, user")

    def read(answer: Mapping[str, Any]) -> ChannelResult:
        identities, users = read_texts(answer, "identities"), read_mapping(answer, "users")
        return ChannelResult(name, read_count(answer, "connections"), identities, users, answer)

    asked = {"channel": name, "user": user, "offset": str(offset), "limit": str(limit)}
    return Call("GET", "/channel/", read, query={key: value for key, value in asked.items() if value is not None})


def session(name: str) -> Call[SessionResult]:
    def read(answer: Mapping[str, Any]) -> SessionResult:
        online, identity, user = answer.get("online"), answer.get("identity"), answer.get("user")
        return SessionResult(
            session=name,
            user=user if isinstance(user, str) else None,
            online=online if isinstance(online, bool) else None,
            identity=identity if isinstance(identity, str) else None,
            channels=read_texts(answer, "channels"),
            waiting=read_count(answer, "waiting"),
            waiting_bytes=read_count(answer, "waiting_bytes"),
            oldest_s=read_count(answer, "oldest_s"),
            expires_s=read_count(answer, "expires_s"),
            raw=answer,
        )

    return Call("GET", "/session/", read, query={"session": name})


def drop(session: str) -> Call[None]:
    return Call("POST", "/session/drop/", lambda _: None, query={"session": session})


def info() -> Call[Mapping[str, Any]]:
    return Call("GET", "/info/", lambda answer: answer)


def hello() -> Call[None]:
    return Call("GET", "/hello/", lambda _: None)


def read_answer(call: Call[T], http_status: int, body: bytes) -> T:
    """The result of a call, or the exception that its answer means."""
    if call.path == "/hello/" and http_status == 200:
        return call.read({})
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        text = body[:200].decode(errors="replace").strip()
        if http_status < 400:
            raise Unreachable(f"{call.path} answered no JSON: {text!r}", maybe_done=True)
        raise CallRefused(text or f"HTTP {http_status}", http_status=http_status)
    if http_status < 400 and answer.get("status", 0) == 0:
        return call.read(answer)
    msg = str(answer.get("msg") or f"HTTP {http_status}")
    if call.is_send and read_count(answer, "connections") is not None:
        raise SendIncomplete(msg, http_status=http_status, result=SendResult.read(answer))
    raise CallRefused(msg, http_status=http_status)


def encode(data: Data) -> bytes:
    """Bytes and text as they are, None as nothing, anything else as JSON."""
    if data is None:
        return b""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def check_channel(name: str) -> str:
    """A channel's name as a list of names can hold it."""
    if not name or ";;" in name or name != name.strip() or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValueError(f"{name!r} cannot stand in a list of channels")
    return name
