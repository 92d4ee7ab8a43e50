"""An asyncio client of Rainbow, for bots and tests: `pip install rainbow-client[client]`."""

from .client import Client
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
