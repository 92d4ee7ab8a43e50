"""What a client hands to its user: messages, replies, events, errors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import RainbowError


@dataclass(frozen=True)
class Reply:
    """A body: bytes, seen as text or as JSON."""

    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        """None for an empty body; raises ValueError for what is no JSON."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Message(Reply):
    """A message from the server. `id` is None with QoS 0."""

    type: int = 0
    qos: int = 0
    id: int | None = None
    dup: bool = False


@dataclass(frozen=True)
class Greeting:
    """How a connection began. A server of 2014's kind does not greet: then nothing is known but that it is open."""

    session: str | None = None
    session_id: str | None = None
    resumed: bool = False
    waiting: int = 0
    identity: str | None = None
    heartbeat: float | None = None
    message_bytes_max: int | None = None

    @classmethod
    def read(cls, body: bytes) -> Greeting | None:
        """None for what is no greeting. Fields that are not known here are left out."""
        try:
            told = json.loads(body)
        except ValueError:
            return None
        if not isinstance(told, dict) or not isinstance(told.get("resumed"), bool):
            return None
        known = {name: told[name] for name in cls.__dataclass_fields__ if told.get(name) is not None}
        if not all(isinstance(value, _GREETING_TYPES[name]) for name, value in known.items()):
            return None
        known["resumed"] = told["resumed"] and known.get("session") is not None
        return cls(**known)


_GREETING_TYPES: dict[str, type | tuple[type, ...]] = {
    "session": str,
    "session_id": str,
    "resumed": bool,
    "waiting": int,
    "identity": str,
    "heartbeat": (int, float),
    "message_bytes_max": int,
}


@dataclass(frozen=True)
class Closed:
    """The end of a connection. `retry_in`: seconds until the next attempt, None when none follows."""

    code: int
    reason: str
    retry_in: float | None

    @property
    def retry_after(self) -> float | None:
        """How many seconds the server wants us to wait; None when it does not say."""
        told = re.search(r"(?:^|; )retry_after=([0-9]{1,9}(?:\.[0-9]{1,9})?)\Z", self.reason)
        return min(float(told[1]), RETRY_AFTER_MAX_S) if told else None


class ClientError(RainbowError):
    """Base of what the client raises."""


class ClientClosed(ClientError):
    """There is no connection, and none will come by itself. `code` is the close code, where there was one."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class ConnectRefused(ClientClosed):
    """The business server does not let this client in: its reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused: {reason}" if reason else "refused", code=4401)
        self.reason = reason


class ClientFull(ClientError):
    """Too many messages are unanswered."""


class SendTimeout(ClientError, TimeoutError):
    """No answer came in time. The message may have arrived."""


class MessageTooLarge(ClientError):
    """The server takes no message of this size."""


class ProtocolViolated(ClientError):
    """The server sent what the protocol does not know."""


class MessageRefused(ClientError):
    """The business server refused a message for good: HTTP status and body of its answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"refused with {status}: {body[:200].decode(errors='replace')}")
        self.status = status
        self.body = body


#: Whatever a server says, nobody is away for longer.
RETRY_AFTER_MAX_S = 60.0
