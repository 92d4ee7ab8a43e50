"""2014's functions, which report failures in the log instead of raising them."""

from __future__ import annotations

import json
import logging
from typing import Any

from ..errors import CallRefused, RainbowError, SendIncomplete
from ..results import LegacySendResult
from .conf import server

log = logging.getLogger("rainbow")


def send(
    channel: str, msg_type: int, data: Any, qos: int = 0, timeout: float = 10, ignore_result: bool = True
) -> LegacySendResult:
    """Sends `data` as JSON to a channel; (connections, status, msg), each None where it is not known."""
    try:
        result = server().send(channel, json.dumps(data), msgtype=msg_type, qos=qos, timeout=timeout)
    except SendIncomplete as error:
        return LegacySendResult(error.result.connections, 1, error.msg)
    except CallRefused as error:
        log.error("send to %s refused: %s", channel, error)
        return LegacySendResult(None, 1, error.msg)
    except RainbowError as error:
        log.error("send to %s failed: %s", channel, error)
        return LegacySendResult(None, None, None)
    return LegacySendResult(result.connections, 0, None)


def subscribe(channel: str, client: str, cancel: bool = False) -> None:
    try:
        if cancel:
            server().unsub(client, channel)
        else:
            server().sub(client, channel)
    except RainbowError as error:
        log.error("subscribing %s failed: %s", channel, error)


def unsubscribe(channel: str, client: str) -> None:
    subscribe(channel, client, True)
