"""What can go wrong. Every exception of this package is a `RainbowError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import SendResult


class RainbowError(Exception):
    """Base of all errors of this package."""


class Unreachable(RainbowError):
    """No usable answer came from the server. `maybe_done`: the call may have been carried out all the same."""

    def __init__(self, message: str, *, maybe_done: bool) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class CallRefused(RainbowError):
    """The server refused a call. `msg` is its reason, `http_status` the status of its answer."""

    def __init__(self, msg: str, *, http_status: int) -> None:
        super().__init__(msg)
        self.msg = msg
        self.http_status = http_status


class SendIncomplete(CallRefused):
    """A send that some of its targets will not get, or whose outcome is not known. `result` has the figures."""

    def __init__(self, msg: str, *, http_status: int, result: SendResult) -> None:
        super().__init__(msg, http_status=http_status)
        self.result = result


class BadSignature(RainbowError):
    """A request is not signed by a key that is known here, or is too old."""


class Refused(RainbowError):
    """Raised by `refuse()` in a handler: the client is not let in, or its message is refused for good."""

    def __init__(self, reason: str = "", *, status: int = 403) -> None:
        super().__init__(reason or "refused")
        if not (400 <= status <= 499) or status in RETRIED_STATUSES:
            raise ValueError(f"status {status} is not a final refusal: use 400-499 without {RETRIED_STATUSES}")
        self.reason = reason
        self.status = status


#: Rainbow takes these for a failure and calls again.
RETRIED_STATUSES = (408, 425, 429)
