"""Rainbow from Python: calls (`Rainbow`, `AsyncRainbow`) and hooks (`Hooks`).

`rainbow.django` and `rainbow.fastapi` fit hooks into those frameworks, `rainbow.client` is a client for bots and tests,
`rainbow.testing` a server for your own tests.
"""

from .api import AsyncRainbow, Rainbow
from .errors import BadSignature, CallRefused, RainbowError, Refused, SendIncomplete, Unreachable
from .hooks import Answer, Hook, Hooks, RainbowResponse
from .results import ChannelResult, SendResult, SessionResult
from .signing import Verifier, WebhookKey

__all__ = [
    "Answer",
    "AsyncRainbow",
    "BadSignature",
    "CallRefused",
    "ChannelResult",
    "Hook",
    "Hooks",
    "Rainbow",
    "RainbowError",
    "RainbowResponse",
    "Refused",
    "SendIncomplete",
    "SendResult",
    "SessionResult",
    "Unreachable",
    "Verifier",
    "WebhookKey",
]
