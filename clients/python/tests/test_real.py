"""Against the real server: Django, FastAPI and WSGI behind it, calls, and a message both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from rainbow import AsyncRainbow, CallRefused, Hook, Hooks, Rainbow
from rainbow.client import Client, ConnectRefused, MessageRefused
from rainbow.fastapi import RainbowRouter
from tests.server import (
    DEADLINE_S,
    TOKEN,
    asgi_server,
    django_server,
    free_port,
    needs_server,
    rainbow_server,
    wsgi_server,
)

pytestmark = needs_server
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def enter(hooks: Hooks | RainbowRouter) -> None:
    @hooks.rainbow_connect
    def connect(request: Hook) -> None:
        if request.device == "banned":
            request.rainbow.refuse("banned")
        request.rainbow.sub("room", "räume")
        request.rainbow.cookie = {"device": request.device}
        request.rainbow.user = f"user of {request.device}"

    @hooks.rainbow(1)
    def said(request: Hook) -> dict[str, Any]:
        return {"by": request.rainbow.cookie["device"], "said": request.data}

    @hooks.rainbow(3)
    def forbidden(request: Hook) -> None:
        request.rainbow.refuse("not you", status=422)

    @hooks.rainbow(2)
    async def moved(request: Hook) -> None:
        request.rainbow.unsub("room")
        request.rainbow.sub("elsewhere")


@pytest.fixture(params=["wsgi", "fastapi", "webhooks"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    keys: dict[str, Any] = {}
    if request.param == "fastapi":
        router, app = RainbowRouter(token=TOKEN), FastAPI()
        enter(router)
        app.include_router(router, prefix="/rainbow")
        business, prefix = asgi_server(app), "rainbow/"
    else:
        with_secret = {"webhook_secrets": [SECRET], "require_webhook": True}
        options: dict[str, Any] = with_secret if request.param == "webhooks" else {"token": TOKEN}
        hooks = Hooks(**options)
        enter(hooks)
        business, prefix = wsgi_server(hooks.wsgi), ""
        if request.param == "webhooks":
            keys = {"security_token": '""', "webhook_secrets": f'["{SECRET}"]', "signature_require": '"webhook"'}
    with business as where, rainbow_server(where + prefix, **keys) as url:
        yield url


def credentials(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"webhook_secret": SECRET} if "webhooks" in request.node.name else {"token": TOKEN}


def test_a_message_both_ways(url: str, request: pytest.FixtureRequest) -> None:
    asyncio.run(_both_ways(url, credentials(request)))


async def _both_ways(url: str, keys: dict[str, str]) -> None:
    async with AsyncRainbow(url, **keys) as server, Client(url, device_id="ann") as ann:  # type: ignore[arg-type]
        for qos in (0, 1, 2):
            reply = await ann.send(1, {"n": "ü"}, qos=qos)
            assert reply.json() == (None if qos == 0 else {"by": "ann", "said": {"n": "ü"}})
        for qos in (0, 1, 2):
            sending = asyncio.ensure_future(server.send("räume", {"n": qos}, msgtype=7, qos=qos))
            message = await ann.receive(DEADLINE_S)
            assert (message.type, message.qos, message.json()) == (7, qos, {"n": qos})
            result = await sending
            assert result.connections == 1 or qos == 0
        for qos in (1, 2):
            for type_, status in ((3, 422), (99, 404)):
                with pytest.raises(MessageRefused) as refused:
                    await ann.send(type_, {}, qos=qos)
                assert refused.value.status == status and b'"status":"error"' in refused.value.body
        await ann.send(2)
        assert (await server.channel("room")).connections == 0
        found = await server.channel("elsewhere")
        assert found.connections == 1 and len(found.identities) == 1
        identity = found.identities[0]
        assert found.users == {identity: "user of ann"}
        assert (await server.channel(user="user of ann")).identities == (identity,)
        assert (await server.send(user="user of ann", data="for you", qos=0)).connections == 1
        assert (await ann.receive(DEADLINE_S)).text == "for you"
        await server.sub(identity, "late")
        assert (await server.channel("late")).identities == (identity,)
        await server.unsub(identity, "late")
        assert (await server.broadcast(["late", "elsewhere"], "x", qos=0)).raw["status"] == 0
        assert (await ann.receive(DEADLINE_S)).text == "x"
        assert "counters" in await server.info()
        await server.hello()
        closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ann.on("close", closed.set_result)
        await server.kick(user="user of ann", code=4500, reason="bye")
        end = await asyncio.wait_for(closed, DEADLINE_S)
        assert (end.code, end.reason, end.retry_in) == (4500, "bye", None) and ann.state == "closed"


def test_refusals(url: str, request: pytest.FixtureRequest) -> None:
    with Rainbow(url, **credentials(request)) as server:  # type: ignore[arg-type]
        with pytest.raises(CallRefused, match="no such connection"):
            server.sub("0" * 64, "room")
        with pytest.raises(CallRefused, match="session"):
            server.send(session="ann", data="x")
    with Rainbow(url, token="wrong") as stranger, pytest.raises(CallRefused, match="signature"):
        stranger.send("room", "x")

    async def banned() -> None:
        with pytest.raises(ConnectRefused):
            await Client(url, device_id="banned").open(DEADLINE_S)

    asyncio.run(banned())


def test_django_behind_the_server(django_site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development server, the 2014 chat, exactly-once, and `rainbow_check`."""
    from django.core.management import CommandError, call_command
    from django.test import override_settings

    port, rainbow_port = free_port(), free_port()
    hooks, url = f"http://127.0.0.1:{port}/rainbow/", f"http://127.0.0.1:{rainbow_port}"
    told: list[str] = []

    class Out:
        def write(self, text: str) -> None:
            told.append(text)

    with (
        rainbow_server(hooks, port=rainbow_port, store="sqlite"),
        django_server(url, port),
        override_settings(RAINBOW_SERVER_URL=url),
    ):
        call_command("rainbow_check", stdout=Out(), no_color=True, timeout=DEADLINE_S)
        assert len(told) == 7 and all(line.startswith("ok ") for line in told), told
        asyncio.run(_chat(url))
        with override_settings(RAINBOW_TOKEN="another"), pytest.raises(CommandError, match="signature"):
            call_command("rainbow_check", stdout=Out(), no_color=True)
    with override_settings(RAINBOW_SERVER_URL=url), pytest.raises(CommandError, match="Is it running"):
        call_command("rainbow_check", stdout=Out(), no_color=True)


async def _chat(url: str) -> None:
    async with Client(url, device_id="ann") as ann, Client(url, params={"session": "bob"}) as bob:
        assert bob.greeting.session == "bob"
        assert (await ann.send(0, {"message": "Ann"})).json()["status"] == "ok"
        assert (await ann.receive(DEADLINE_S)).type == 1001
        assert (await ann.send(1, {"message": "hi"}, qos=2)).json() == {"status": "ok"}
        told = await ann.receive(DEADLINE_S)
        assert told.type == 1002 and told.json()["message"] == "hi"
        assert (await bob.send(2, {"text": "one"}, qos=2)).json() == {"lines": 1}
        assert (await bob.receive(DEADLINE_S)).text == "one"
        assert (await bob.send(3)).text == "1 lines"
