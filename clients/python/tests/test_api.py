"""Calls: what is requested, how answers are read, and what is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest

from rainbow import AsyncRainbow, CallRefused, Rainbow, SendIncomplete, Unreachable, Verifier, WebhookKey, api

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Handler = Callable[[httpx.Request], httpx.Response]


def rainbow(handler: Handler, **options: object) -> Rainbow:
    return Rainbow("http://rainbow", token="testtoken", transport=httpx.MockTransport(handler), **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(api, "BACKOFF_MIN_S", 0.0)
    yield


def test_a_send_is_signed_and_its_figures_are_read() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        Verifier("testtoken").verify("POST", request.url.raw_path.decode(), {}, b"")
        return httpx.Response(200, json={"status": 0, "connections": 2, "targets": 3, "data": "yes", "ignored": ["x"]})

    result = rainbow(answer).send("a b&c", {"text": "ü"}, msgtype=7, qos=1, timeout=2.5, ttl=60)
    query = seen[0].url.params
    assert (query["channel"], query["msgtype"], query["qos"], query["timeout"], query["ttl"]) == (
        "a b&c",
        "7",
        "1",
        "2.5",
        "60",
    )
    assert seen[0].content == '{"text":"ü"}'.encode()
    assert (result.connections, result.targets, result.data, result.ignored) == (2, 3, "yes", ("x",))
    assert result.stored is None and result.refused is None and result.undecided is None


def test_a_webhook_secret_signs_target_and_body() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["webhook-target"] == f"{request.method} {request.url.raw_path.decode()}"
        verifier = Verifier(webhook_keys=[WebhookKey(SECRET)], require_webhook=True)
        verifier.verify(request.method, request.url.raw_path.decode(), headers, request.content)
        assert "signature" not in request.url.params
        return httpx.Response(200, json={"status": 0})

    server = Rainbow("http://rainbow", webhook_secret=SECRET, transport=httpx.MockTransport(answer))
    server.send("räume und mehr;;", b"\x00\xff", qos=0)
    server.sub("1" * 64, "a")
    server.session("a/b c")


def test_a_refusal_has_the_servers_words() -> None:
    server = rainbow(lambda _: httpx.Response(200, json={"status": 1, "msg": "no such connection"}))
    with pytest.raises(CallRefused, match="no such connection") as caught:
        server.sub("1" * 64, "a")
    assert caught.value.msg == "no such connection" and caught.value.http_status == 200


def test_an_incomplete_send_has_the_figures() -> None:
    answer = {"status": 1, "msg": "the disk is full", "connections": 1, "stored": 3, "refused": 2, "undecided": 1}
    with pytest.raises(SendIncomplete, match="the disk is full") as caught:
        rainbow(lambda _: httpx.Response(200, json=answer)).send("a")
    result = caught.value.result
    assert (result.connections, result.stored, result.refused, result.undecided) == (1, 3, 2, 1)


def test_only_a_send_with_a_message_id_is_repeated() -> None:
    attempts: list[str] = []

    def fail(request: httpx.Request) -> httpx.Response:
        attempts.append(request.url.path)
        raise httpx.ReadError("reset")

    server = rainbow(fail)
    for call in (lambda: server.send("a"), lambda: server.sub("1" * 64, "a"), lambda: server.drop("s")):
        with pytest.raises(Unreachable) as caught:
            call()
        assert caught.value.maybe_done
    assert attempts == ["/send/", "/sub/", "/session/drop/"]


def test_a_send_with_a_message_id_is_repeated_until_answered() -> None:
    answers: list[Exception | httpx.Response] = [
        httpx.ReadError("reset"),
        httpx.Response(503, json={"status": 1, "msg": "too many calls are waiting"}),
        httpx.Response(200, json={"status": 0, "connections": 1}),
    ]
    ids: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        ids.append(request.url.params["message_id"])
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert rainbow(answer).send("a", message_id="order-7").connections == 1
    assert ids == ["order-7"] * 3


def test_repeats_end_with_their_time() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable) as caught:
        rainbow(fail, retry_for=0).send("a", message_id="x")
    assert not caught.value.maybe_done


def test_a_refused_send_is_not_repeated() -> None:
    attempts = []

    def refuse(request: httpx.Request) -> httpx.Response:
        attempts.append(request)
        return httpx.Response(401, json={"status": 1, "msg": "signature does not match"})

    with pytest.raises(CallRefused):
        rainbow(refuse).send("a", message_id="x")
    assert len(attempts) == 1


def test_what_cannot_be_meant_is_not_sent() -> None:
    server = rainbow(lambda _: pytest.fail("sent"))
    with pytest.raises(TypeError):
        server.send()
    with pytest.raises(TypeError):
        server.send("a", session="b")
    with pytest.raises(ValueError, match="qos"):
        server.send("a", qos=3)
    with pytest.raises(ValueError, match="msgtype"):
        server.send("a", msgtype=65535)
    with pytest.raises(ValueError, match="channels"):
        server.broadcast(["a;;b"])
    with pytest.raises(TypeError):
        server.kick()


def test_the_asynchronous_one_does_the_same() -> None:
    answers: list[Exception | httpx.Response] = [
        httpx.ReadError("reset"),
        httpx.Response(200, json={"status": 0, "stored": 1}),
    ]

    def answer(_: httpx.Request) -> httpx.Response:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def main() -> int | None:
        transport = httpx.MockTransport(answer)
        async with AsyncRainbow("http://rainbow", token="t", transport=transport) as server:
            return (await server.send(session="s", data="x", message_id="1")).stored

    assert asyncio.run(main()) == 1
