"""Rainbow for Django: put "rainbow.django" into INSTALLED_APPS and its URLs into yours.

    path("rainbow/", include("rainbow.django.urls"))

Handlers stand in a module `rainbow` of any installed application:

    from rainbow.django import rainbow, rainbow_connect, server

    @rainbow(1)
    def said(request):
        request.rainbow.sub("room")
        return {"you said": request.data}

Settings: RAINBOW_SERVER_URL, and RAINBOW_TOKEN or RAINBOW_WEBHOOK_SECRET as in Rainbow's configuration. `send`,
`subscribe`, `unsubscribe` and `RainbowResponse` are those of 2014; `server()` is a `rainbow.Rainbow`.
"""

from ..hooks import RainbowResponse
from .conf import server
from .legacy import send, subscribe, unsubscribe
from .registry import rainbow, rainbow_close, rainbow_connect, rainbow_receipt

__all__ = [
    "RainbowResponse",
    "rainbow",
    "rainbow_close",
    "rainbow_connect",
    "rainbow_receipt",
    "send",
    "server",
    "subscribe",
    "unsubscribe",
]
