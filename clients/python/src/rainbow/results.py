"""What calls answer. A figure is None where the server did not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class SendResult:
    """The outcome of a send. `raw` is the server's whole answer."""

    #: How many the message was for.
    targets: int | None = None
    #: How many have acknowledged it.
    connections: int | None = None
    #: For how many durable sessions it is kept.
    stored: int | None = None
    #: How many will not get it.
    refused: int | None = None
    #: Of how many it is not known; the time was over.
    undecided: int | None = None
    #: Nodes of the cluster that did not answer.
    unreachable: int | None = None
    #: What one of the clients replied, as text.
    data: str | None = None
    #: Query parameters that the server did not know.
    ignored: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> SendResult:
        figures = {name: read_count(answer, name) for name in _FIGURES}
        data, ignored = answer.get("data"), answer.get("ignored")
        return cls(
            **figures,
            data=data if isinstance(data, str) else None,
            ignored=tuple(map(str, ignored)) if isinstance(ignored, list) else (),
            raw=answer,
        )


_FIGURES = ("targets", "connections", "stored", "refused", "undecided", "unreachable")


@dataclass(frozen=True)
class ChannelResult:
    """How many are in a channel or are a user's, and a page of who. Without a name: the largest channels, in `raw`."""

    channel: str | None
    connections: int | None
    identities: tuple[str, ...]
    #: Whose they are, by identity, where the business server has named the user.
    users: Mapping[str, str]
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class SessionResult:
    """A durable session."""

    session: str
    user: str | None
    online: bool | None
    identity: str | None
    channels: tuple[str, ...]
    waiting: int | None
    waiting_bytes: int | None
    #: Age of the oldest message that waits, and when the session ends if nobody comes back.
    oldest_s: int | None
    expires_s: int | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)


class LegacySendResult(NamedTuple):
    """What 2014's `send` returned. Each is None when the server could not be asked."""

    connections: int | None
    status: int | None
    msg: str | None


def read_count(answer: Mapping[str, Any], name: str) -> int | None:
    value = answer.get(name)
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_mapping(answer: Mapping[str, Any], name: str) -> Mapping[str, str]:
    value = answer.get(name)
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def read_texts(answer: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = answer.get(name)
    return tuple(map(str, value)) if isinstance(value, list) else ()
