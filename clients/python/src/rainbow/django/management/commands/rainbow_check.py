"""`manage.py rainbow_check`: tries the connection both ways, as a client whose hooks come back to this site."""

from __future__ import annotations

import asyncio
import secrets
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, TypeVar

from django.core.management.base import BaseCommand, CommandError

from rainbow.client import Client, ClientError
from rainbow.django import conf
from rainbow.errors import RainbowError

T = TypeVar("T")


class Command(BaseCommand):
    help = "Checks that this site reaches Rainbow, that both sign alike, and that Rainbow's hooks reach this site."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--timeout", type=float, default=10, help="seconds for each step; default 10")

    def handle(self, *_: Any, **options: Any) -> None:
        server = conf.server()
        self._step(f"Rainbow answers at {server.url}", server.hello, "Is it running? RAINBOW_SERVER_URL names it.")
        self._step(
            "it takes our signature",
            lambda: server.unsub("0" * 64, "rainbow_check"),
            "RAINBOW_TOKEN must be its security_token, RAINBOW_WEBHOOK_SECRET one of its webhook_secrets; "
            "the clocks must agree.",
        )
        asyncio.run(self._round_trip(options["timeout"]))

    async def _round_trip(self, timeout: float) -> None:
        device, server = f"check-{secrets.token_hex(8)}", conf.server()
        client = Client(conf.client_url(), device_id=device, params={"rainbow_check": conf.make_check_token()})
        try:
            await self._step_async(
                f"a client is let in at {conf.client_url()}",
                client.open(timeout),
                "connect_url must name this site's rainbow/connect/; this site must run, with the same SECRET_KEY.",
            )
            call = asyncio.to_thread(server.send, f"rainbow_check:{device}", "check", qos=1, timeout=timeout)
            sending = asyncio.ensure_future(call)
            sending.add_done_callback(lambda task: task.cancelled() or task.exception())
            await self._step_async(
                "a call reaches the client, so connect_url is this site",
                client.receive(timeout),
                "The client was let in, but not by this site.",
            )
            await self._step_async("the client's answer comes back", sending, "See Rainbow's log.")
            reply = await self._step_async(
                "a client's message is forwarded",
                client.send(conf.CHECK_TYPE, "check", qos=2, timeout=timeout),
                "forward_url must name this site's rainbow/message/{message_type}/.",
            )
            if reply.body != b'{"rainbow_check":"ok"}':
                raise CommandError("forward_url does not lead to this site: another one answered.")
            self._say("it came to this site, so forward_url is right")
        finally:
            await client.close()

    def _step(self, what: str, action: Callable[[], T], hint: str) -> T:
        try:
            result = action()
        except RainbowError as error:
            raise CommandError(f"not so: {what}: {error}\n{hint}") from None
        self._say(what)
        return result

    async def _step_async(self, what: str, action: Any, hint: str) -> Any:
        try:
            result = await action
        except (ClientError, RainbowError, TimeoutError) as error:
            raise CommandError(f"not so: {what}: {error}\n{hint}") from None
        self._say(what)
        return result

    def _say(self, what: str) -> None:
        self.stdout.write(f"{self.style.SUCCESS('ok')} {what}")
