"""A router for FastAPI and Starlette.

    router = RainbowRouter(token="testtoken")

    @router.rainbow(1)
    async def said(request): ...

    app.include_router(router, prefix="/rainbow")

Hooks then hang at /rainbow/connect/, /rainbow/message/{type}/, /rainbow/close/ and /rainbow/receipt/. With Starlette
alone: `Mount("/rainbow", app=Hooks(token=...).asgi)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, Request, Response

from .asgi import answer, header_list
from .hooks import Handler, Hooks


class RainbowRouter(APIRouter):
    """An `APIRouter` whose routes are Rainbow's hooks. Takes `Hooks`' arguments, and any of `APIRouter`'s."""

    def __init__(
        self,
        *,
        token: str | None = None,
        webhook_secrets: Iterable[str] = (),
        window: int = 10,
        require_webhook: bool = False,
        insecure: bool = False,
        **router: Any,
    ) -> None:
        super().__init__(**router)
        self.hooks = Hooks(
            token=token,
            webhook_secrets=webhook_secrets,
            window=window,
            require_webhook=require_webhook,
            insecure=insecure,
        )
        for path in ("/connect/", "/close/", "/message/{message_type}/", "/receipt/"):
            methods = ["POST"] if path in ("/message/{message_type}/", "/receipt/") else ["GET"]
            self.add_api_route(path, self._respond, methods=methods, include_in_schema=False)

    def rainbow(self, msg_type: int) -> Callable[[Handler], Handler]:
        return self.hooks.rainbow(msg_type)

    def rainbow_connect(self, function: Handler) -> Handler:
        return self.hooks.rainbow_connect(function)

    def rainbow_close(self, function: Handler) -> Handler:
        return self.hooks.rainbow_close(function)

    def rainbow_receipt(self, function: Handler) -> Handler:
        return self.hooks.rainbow_receipt(function)

    async def _respond(self, request: Request) -> Response:
        found = await answer(self.hooks, request.scope, await request.body())
        response = Response(found.body, found.status)
        response.raw_headers = header_list(found)
        return response
