"""An asyncio client of Rainbow, for bots and tests: `pip install rainbow-client[client]`."""

from typing import TYPE_CHECKING, Any

from .memory import FileStorage, Storage
from .message import (
    ClientClosed,
    ClientError,
    ClientFull,
    Closed,
    ConnectRefused,
    Greeting,
    Message,
    MessageRefused,
    MessageTooLarge,
    ProtocolViolated,
    Reply,
    SendTimeout,
)

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientFull",
    "Closed",
    "ConnectRefused",
    "FileStorage",
    "Greeting",
    "Message",
    "MessageRefused",
    "MessageTooLarge",
    "ProtocolViolated",
    "Reply",
    "SendTimeout",
    "Storage",
]

if TYPE_CHECKING:
    from .client import Client


def __getattr__(name: str) -> Any:
    """`Client` needs the `websockets` library, which the rest of this package does not."""
    if name != "Client":
        raise AttributeError(name)
    from .client import Client

    return Client
