"""Hooks by WSGI, ASGI and FastAPI, driven by the fake server."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from rainbow import AsyncRainbow, Hook, Hooks, Rainbow, RainbowResponse
from rainbow.client import ConnectRefused, MessageRefused
from rainbow.fastapi import RainbowRouter
from rainbow.testing import FakeRainbow
from rainbow.testing.fake import HookFailed

URL = "http://rainbow.invalid"


def enter(hooks: Hooks | RainbowRouter) -> None:
    """The same handlers for every framework."""

    @hooks.rainbow_connect
    def connect(request: Hook) -> None:
        if request.device == "banned":
            request.rainbow.refuse("banned")
        request.rainbow.sub("room", "räume")
        request.rainbow.cookie = {"device": request.device}
        request.rainbow.user = request.query.get("user", "nobody")
        if name := request.query.get("session"):
            request.rainbow.session, request.rainbow.session_expiry = name, 60

    @hooks.rainbow(1)
    async def said(request: Hook) -> dict[str, Any]:
        async with AsyncRainbow(URL, token="testtoken") as server:
            await server.send("room", request.data, msgtype=1001, qos=0)
        return {"by": request.rainbow.cookie["device"]}

    @hooks.rainbow(2)
    def leave(request: Hook) -> RainbowResponse:
        response = RainbowResponse({"left": True}, request)
        response.unsub("room")
        response.context["left"] = True
        return response

    @hooks.rainbow(3)
    def fail(request: Hook) -> None:
        raise RuntimeError("as the test wants it")

    @hooks.rainbow(4)
    def raw(request: Hook) -> bytes:
        return bytes(reversed(request.body))


def wsgi(fake: FakeRainbow) -> Any:
    hooks = Hooks(token="testtoken")
    enter(hooks)
    fake.serve(wsgi=hooks.wsgi)
    return hooks


def flask(fake: FakeRainbow) -> Any:
    hooks, app = Hooks(token="testtoken"), Flask("test")
    enter(hooks)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/rainbow": hooks.wsgi})  # type: ignore[method-assign]
    fake.serve(wsgi=app)
    return hooks


def starlette(fake: FakeRainbow) -> Any:
    hooks = Hooks(token="testtoken")
    enter(hooks)
    fake.serve(asgi=Starlette(routes=[Mount("/rainbow", app=hooks.asgi)]))
    return hooks


def fastapi(fake: FakeRainbow) -> Any:
    router, app = RainbowRouter(token="testtoken"), FastAPI()
    enter(router)
    app.include_router(router, prefix="/rainbow")
    fake.serve(asgi=app)
    return router


frameworks = pytest.mark.parametrize("framework", [wsgi, flask, starlette, fastapi])


@frameworks
def test_a_client_comes_talks_and_goes(framework: Any, rainbow_fake: FakeRainbow) -> None:
    closed: list[Hook] = []
    hooks = framework(rainbow_fake)
    hooks.rainbow_close(closed.append)
    ann = rainbow_fake.connect(device="ann", query={"user": "7", "session": "ann/phone"})
    assert ann.channels == {"room", "räume"} and ann.user == "7" and ann.session == "ann/phone"
    assert ann.send(1, {"text": "ü"}).json() == {"by": "ann"}
    assert ann.received[0].type == 1001 and ann.received[0].json() == {"text": "ü"}
    assert ann.send(2).json() == {"left": True} and ann.channels == {"räume"}
    assert ann.send(4, b"\x00\x01\xff").body == b"\xff\x01\x00"
    ann.close(1001, "gone")
    assert [(hook.identity, hook.close_code, hook.close_reason) for hook in closed] == [(ann.identity, 1001, "gone")]
    assert closed[0].cookie == {"device": "ann", "left": True} and closed[0].session == "ann/phone"


@frameworks
def test_refusals_and_failures(framework: Any, rainbow_fake: FakeRainbow) -> None:
    framework(rainbow_fake)
    with pytest.raises(ConnectRefused, match="banned"):
        rainbow_fake.connect(device="banned")
    ann = rainbow_fake.connect(device="ann")
    with pytest.raises(HookFailed):
        ann.send(3)
    with pytest.raises(MessageRefused) as unknown:
        ann.send(99)
    assert unknown.value.status == 404
    with pytest.raises(MessageRefused) as no_json:
        ann.send(1, b"{")
    assert no_json.value.status == 400


@frameworks
def test_an_unsigned_hook_reaches_no_handler(framework: Any, rainbow_fake: FakeRainbow) -> None:
    framework(rainbow_fake)
    rainbow_fake.token = "another token"
    response = rainbow_fake.hook("GET", "connect/", {"RAINBOWCLIENTIDENTITY": "1"}, b"")
    assert response.status_code == 401 and response.headers["RAINBOWREQUESTINVALID"] == "60001"


def test_webhook_signatures_are_taken(rainbow_fake: FakeRainbow) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    hooks = Hooks(webhook_secrets=[secret], require_webhook=True)
    hooks.rainbow(1)(lambda request: request.text)
    rainbow_fake.serve(wsgi=hooks.wsgi)
    rainbow_fake.token, rainbow_fake.webhook_secret = None, secret
    ann = rainbow_fake.connect()
    assert ann.send(1, "hi").text == "hi"
    rainbow_fake.webhook_secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    with pytest.raises(MessageRefused):
        ann.send(1, "hi")


def test_the_fake_answers_calls_as_the_server_does(rainbow_fake: FakeRainbow) -> None:
    wsgi(rainbow_fake)
    server = Rainbow(URL, token="testtoken")
    ann = rainbow_fake.connect(device="ann", query={"session": "ann", "user": "7"})
    bob = rainbow_fake.connect(device="bob")
    result = server.send("room", "hello", qos=1)
    assert (result.connections, result.targets, result.data) == (2, 2, "")
    assert server.send(user="7", data="for 7").connections == 1 and ann.received[-1].text == "for 7"
    ann.reply = lambda message: "got " + message.text
    assert server.send("room", "hello", qos=1).data == "got hello"
    server.sub(bob.identity, "room", occupy=True)
    assert ann.channels == {"räume"} and server.channel("room").identities == (bob.identity,)
    server.unsub(bob.identity, "room")
    assert server.channel("room").connections == 0
    ann.close()
    first = server.send(session="ann", data="later", message_id="m1")
    assert first.stored == 1 and server.send(session="ann", data="later", message_id="m1") == first
    assert server.session("ann").waiting == 1
    assert [m.text for m in rainbow_fake.connect(query={"session": "ann"}).received] == ["later"]
    server.kick(bob.identity, code=4000, reason="bye")
    assert bob.closed == (4000, "bye")
    server.drop("ann")
    assert [call.path for call in rainbow_fake.calls][-2:] == ["kick", "session/drop"]


def test_two_handlers_of_one_type_are_a_mistake() -> None:
    hooks = Hooks(token="t")

    @hooks.rainbow(1)
    def one(_: Hook) -> None: ...

    with pytest.raises(ValueError, match="two handlers"):

        @hooks.rainbow(1)
        def two(_: Hook) -> None: ...


def test_a_channels_name_cannot_smuggle_others() -> None:
    from rainbow.hooks import Incoming

    hook = Hook("connect", Incoming("GET", "/", {}))
    for name in ("a;;b", "a\r\nX: y", "", " a"):
        with pytest.raises(ValueError, match="channel"):
            hook.sub(name)
    with pytest.raises(ValueError, match="printable"):
        hook.session = "ü"
    with pytest.raises(RuntimeError):
        Hook("message", Incoming("POST", "/", {}), 1).session = "late"


def test_a_body_that_is_too_large_is_not_read() -> None:
    started: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/message/1/",
        "CONTENT_LENGTH": str(65 << 20),
        "wsgi.input": io.BytesIO(),
    }
    assert b"".join(Hooks(token="t").wsgi(environ, lambda status, _: started.append(status))) == b""
    assert started[0].startswith("413")
