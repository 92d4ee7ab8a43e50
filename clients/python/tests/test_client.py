"""The asyncio client: against a scripted server for what a real one does not do on demand, and against the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from rainbow import AsyncRainbow, Hook, Hooks
from rainbow.client import (
    Client,
    ClientClosed,
    Closed,
    ConnectRefused,
    FileStorage,
    Greeting,
    Message,
    MessageRefused,
    MessageTooLarge,
    SendTimeout,
)
from rainbow.packet import GREETING_TYPE, Command, Packet
from tests.server import DEADLINE_S, TOKEN, Line, needs_server, rainbow_server, until, wsgi_server

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def greet(self, **fields: Any) -> None:
        body = json.dumps({"session": None, "resumed": False, "waiting": 0, **fields}).encode()
        await self.write(Packet(Command.SEND, type=GREETING_TYPE, body=body))

    async def write(self, packet: Packet) -> None:
        await self.socket.send(packet.encode())

    async def read(self) -> Packet:
        data = await asyncio.wait_for(self.socket.recv(), DEADLINE_S)
        packet = Packet.decode(data if isinstance(data, bytes) else data.encode())
        assert packet is not None
        return packet


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[str]:
    """A server that plays one script per connection; a script that fails fails the test."""
    left, failures = list(scripts), []

    async def play(socket: ServerConnection) -> None:
        try:
            await left.pop(0)(Peer(socket))
        except Exception as error:
            failures.append(error)

    async with serve(play, "127.0.0.1", 0, subprotocols=[Subprotocol("rainbow.2")]) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/connect/"
    if failures:
        raise failures[0]


def quick(url: str, **options: Any) -> Client:
    return Client(url, **{"backoff_min": 0.01, "backoff_max": 0.05, "timeout": DEADLINE_S, **options})


def run(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def wrapper() -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(), 60)

        asyncio.run(bounded())

    wrapper.__name__ = test.__name__
    return wrapper


@run
async def test_an_unanswered_message_is_repeated_with_dup() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        first, second = await peer.read(), await peer.read()
        assert (first.dup, second.dup, first.id, second.id) == (False, True, 1, 1)
        await peer.write(Packet(Command.ACK, 1, b"yes"))
        await peer.socket.wait_closed()

    async with scripted(script) as url, quick(url, repeat=0.05) as client:
        assert (await client.send(1, "hi")).text == "yes"


@run
async def test_qos2_repeats_rel_until_com() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        assert (await peer.read()).qos == 2
        await peer.write(Packet(Command.REC, 1, b"yes"))
        for _ in range(2):
            assert (await peer.read()) == Packet(Command.REL, 1)
        await peer.write(Packet(Command.COM, 1))
        await peer.socket.wait_closed()

    async with scripted(script) as url, quick(url, repeat=0.05) as client:
        assert (await client.send(1, "hi", qos=2)).text == "yes"
        assert client.pending == 0


@run
async def test_a_repeated_qos2_message_is_handed_on_once_and_answered_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        message = Packet(Command.SEND, 5, b"x", 7, 2)
        await peer.write(message)
        assert (await peer.read()) == Packet(Command.REC, 5, b"got x")
        await peer.write(Packet(Command.SEND, 5, b"x", 7, 2, True))
        assert (await peer.read()) == Packet(Command.REC, 5, b"got x")
        await peer.write(Packet(Command.REL, 5))
        assert (await peer.read()) == Packet(Command.COM, 5)
        await peer.write(message)
        assert (await peer.read()) == Packet(Command.REC, 5, b"got x")

    handed: list[Message] = []

    async def handle(message: Message) -> str:
        handed.append(message)
        return "got " + message.text

    async with scripted(script) as url:
        client = quick(url)
        client.on("message", handle)
        closed = asyncio.Event()
        client.on("close", lambda _: closed.set())
        await client.open()
        await asyncio.wait_for(closed.wait(), DEADLINE_S)
        await client.close()
    assert len(handed) == 2


@run
async def test_a_resumed_session_goes_on_with_its_ids() -> None:
    async def first(peer: Peer) -> None:
        await peer.greet(session="ann", session_id="1")
        assert (await peer.read()).id == 1
        await peer.write(Packet(Command.SEND, 9, b"x", 7, 2))
        assert (await peer.read()) == Packet(Command.REC, 9)
        peer.socket.transport.abort()

    async def second(peer: Peer) -> None:
        await peer.greet(session="ann", session_id="1", resumed=True)
        assert (await peer.read()) == Packet(Command.REC, 9), "REC for what it holds"
        again = await peer.read()
        assert (again.id, again.dup, again.body) == (1, True, b"hi")
        await peer.write(Packet(Command.REC, 1, b"yes"))
        await peer.read()
        await peer.write(Packet(Command.COM, 1))
        await peer.socket.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        sending = asyncio.ensure_future(client.send(1, "hi", qos=2))
        assert (await client.receive(DEADLINE_S)).text == "x"
        assert (await sending).text == "yes"


@run
async def test_ids_of_a_session_made_anew_are_forgotten() -> None:
    async def first(peer: Peer) -> None:
        await peer.greet(session="ann", session_id="1")
        await peer.write(Packet(Command.SEND, 9, b"old", 7, 2))
        await peer.read()
        peer.socket.transport.abort()

    async def second(peer: Peer) -> None:
        await peer.greet(session="ann", session_id="2", resumed=True)
        await peer.write(Packet(Command.SEND, 9, b"new", 7, 2))
        assert (await peer.read()) == Packet(Command.REC, 9)
        await peer.socket.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        assert [(await client.receive(DEADLINE_S)).text for _ in range(2)] == ["old", "new"]


@run
async def test_a_refused_message_says_status_and_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.read()
        await peer.write(Packet(Command.ACK, 1, (422).to_bytes(2, "big") + b"no", flag=True))
        await peer.socket.wait_closed()

    async with scripted(script) as url, quick(url) as client:
        with pytest.raises(MessageRefused) as refused:
            await client.send(1, "hi")
        assert (refused.value.status, refused.value.body) == (422, b"no")


@run
async def test_a_refusal_is_final_and_says_why() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(4401, "banned")

    async with scripted(script) as url:
        with pytest.raises(ConnectRefused, match="banned"):
            await quick(url).open(DEADLINE_S)


@run
async def test_a_backend_that_is_away_is_asked_again() -> None:
    async def away(peer: Peer) -> None:
        await peer.socket.close(4503, "later")

    async def script(peer: Peer) -> None:
        await peer.greet(identity="abc")
        await peer.socket.wait_closed()

    async with scripted(away, away, script) as url:
        delays: list[float] = []
        client = quick(url, random=lambda: 0.5)
        client.on("close", lambda closed: delays.append(closed.retry_in))
        assert (await client.open(DEADLINE_S)).identity == "abc"
        await client.close()
        assert delays == [0.005, 0.01, None]


@run
async def test_a_server_that_goes_away_says_when_to_come_back() -> None:
    async def goes(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.close(1001, "going away; retry_after=0.040")

    async def fails(peer: Peer) -> None:
        await peer.socket.close(4503, "later")

    async def script(peer: Peer) -> None:
        await peer.greet(identity="abc")
        await peer.socket.wait_closed()

    async with scripted(goes, fails, script) as url:
        delays: list[float] = []
        client = quick(url, random=lambda: 0.5)
        client.on("close", lambda closed: delays.append(closed.retry_in))
        back = asyncio.Event()

        def opened(greeting: Greeting) -> None:
            if greeting.identity == "abc":
                back.set()

        client.on("open", opened)
        await client.open(DEADLINE_S)
        await asyncio.wait_for(back.wait(), DEADLINE_S)
        await client.close()
        assert delays == [0.04, 0.005, None], "it is no failure of the row"


def test_what_a_server_says_of_the_wait_is_bounded() -> None:
    told = [Closed(1001, reason, None).retry_after for reason in ("", "retry_after=1.5", "bye; retry_after=99999")]
    assert told == [None, 1.5, 60]
    for reason in (
        "retry_after=-1",
        "retry_after=",
        "retry_after=1e9",
        "no_retry_after=1",
        "retry_after=1 s",
        "retry_after=nan",
    ):
        assert Closed(1001, reason, None).retry_after is None


@run
async def test_a_session_that_was_taken_over_does_not_come_back() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(session="ann")
        await peer.socket.close(4409, "taken over")

    async with scripted(script) as url:
        client = quick(url)
        await client.open(DEADLINE_S)
        with pytest.raises(ClientClosed):
            await client.receive(DEADLINE_S)
        assert client.state == "closed"


@run
async def test_what_is_too_large_is_never_sent_twice() -> None:
    async def knows(peer: Peer) -> None:
        await peer.greet()
        first, second = await peer.read(), await peer.read()
        assert {len(first.body), len(second.body)} == {2, 5000}
        await peer.socket.close(1009, "too large")

    async def then(peer: Peer) -> None:
        await peer.greet(message_bytes_max=100)
        packet = await peer.read()
        assert packet.body == b"hi"
        assert packet.id is not None
        await peer.write(Packet(Command.ACK, packet.id, b"yes"))
        await peer.socket.wait_closed()

    async with scripted(knows, then) as url, quick(url) as client:
        small, large = client.send(1, "hi"), client.send(1, "x" * 5000)
        results = await asyncio.gather(small, large, return_exceptions=True)
        assert isinstance(results[1], MessageTooLarge) and getattr(results[0], "text", "") == "yes"
        with pytest.raises(MessageTooLarge):
            await client.send(1, "x" * 101)


@run
async def test_a_silent_line_is_given_up_after_heartbeat_and_grace() -> None:
    async def silent(peer: Peer) -> None:
        await peer.greet(heartbeat=0.1)
        assert (await peer.read()).command is Command.PING
        await peer.socket.wait_closed()

    async def lively(peer: Peer) -> None:
        await peer.greet(heartbeat=0.1)
        for _ in range(5):
            assert (await peer.read()).command is Command.PING
            await peer.write(Packet(Command.PONG))
        await peer.write(Packet(Command.SEND, type=1, body=b"alive"))
        await peer.socket.wait_closed()

    async with scripted(silent, lively) as url, quick(url, heartbeat_grace=0.3) as client:
        assert (await client.receive(DEADLINE_S)).text == "alive"


@run
async def test_a_server_that_does_not_greet_is_2014s() -> None:
    async def play(socket: ServerConnection) -> None:
        peer = Peer(socket)
        packet = await peer.read()
        await peer.write(Packet(Command.ACK, packet.id, b"yes"))
        await socket.wait_closed()

    async with serve(play, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with quick(url) as client:
            assert (await client.send(1, "hi")).text == "yes"


@run
async def test_sends_end_with_their_time_and_with_the_client() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.wait_closed()

    async with scripted(script) as url:
        client = quick(url)
        with pytest.raises(ClientClosed):
            await client.send(1, "hi")
        await client.open()
        with pytest.raises(SendTimeout):
            await client.send(1, "hi", timeout=0.05)
        waiting = asyncio.ensure_future(client.send(1, "hi"))
        await until(lambda: client.pending == 1, "the send waits")
        await client.close()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await client.send(0, "x", qos=0)


@run
async def test_params_are_made_for_every_attempt_and_may_fail() -> None:
    tokens = iter(["", "second"])

    async def params() -> dict[str, str]:
        token = next(tokens)
        if not token:
            raise RuntimeError("no token yet")
        return {"token": token}

    async def script(peer: Peer) -> None:
        assert peer.socket.request is not None and "token=second" in peer.socket.request.path
        await peer.greet()
        await peer.socket.wait_closed()

    async with scripted(script) as url:
        client = quick(url, params=params)
        errors: list[Exception] = []
        client.on("error", errors.append)
        await client.open(DEADLINE_S)
        await client.close()
        assert [str(error) for error in errors] == ["no token yet"]


@run
async def test_a_storage_that_fails_ends_the_client_rather_than_its_promise() -> None:
    class Full:
        def load(self) -> None:
            return None

        def save(self, text: str) -> None:
            raise OSError("disk full")

    async def script(peer: Peer) -> None:
        await peer.greet(session="ann")
        await peer.socket.wait_closed()

    async with scripted(script) as url:
        with pytest.raises(ClientClosed, match="disk full"):
            await quick(url, storage=Full()).open(DEADLINE_S)


@run
async def test_a_handler_that_fails_is_told_and_the_message_answered() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.write(Packet(Command.SEND, 1, b"x", 7, 1))
        assert (await peer.read()) == Packet(Command.ACK, 1)
        await peer.write(Packet(Command.SEND, type=1, body=b"not a packet of ours"))
        await peer.socket.send(b"\x00")
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 4002

    async def again(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.wait_closed()

    def handle(message: Message) -> None:
        raise RuntimeError(message.text)

    async with scripted(script, again) as url:
        client = quick(url)
        errors: list[str] = []
        client.on("message", handle)
        client.on("error", lambda error: errors.append(str(error)))
        await client.open(DEADLINE_S)
        await until(lambda: len(errors) == 3, "three errors")
        assert errors[0] == "x" and "malformed packet" in errors
        await client.close()


@run
async def test_a_waiting_message_is_acknowledged_when_it_is_taken() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for number in (1, 2):
            await peer.write(Packet(Command.SEND, number, b"x", 7, 1))
        assert await peer.read() == Packet(Command.ACK, 1)
        await peer.write(Packet(Command.SEND, type=8))
        assert await peer.read() == Packet(Command.ACK, 2)
        await peer.socket.wait_closed()

    async with scripted(script) as url, quick(url) as client:
        types = []
        async for message in client:
            types.append(message.type)
            if message.type == 8:
                break
        assert types == [7, 7, 8]


@run
async def test_a_loop_that_is_left_acknowledges_unless_it_ends_the_client() -> None:
    async def left(peer: Peer) -> None:
        await peer.greet()
        await peer.write(Packet(Command.SEND, 1, b"x", 7, 1))
        assert await peer.read() == Packet(Command.ACK, 1)
        await peer.socket.wait_closed()

    async def failed(peer: Peer) -> None:
        await peer.greet()
        await peer.write(Packet(Command.SEND, 1, b"x", 7, 1))
        with pytest.raises(ConnectionClosed):
            await peer.read()

    async with scripted(left, failed) as url:
        async with quick(url) as client:
            async for _ in client:
                break
        with pytest.raises(RuntimeError, match="in the loop"):
            async with quick(url) as client:
                async for _ in client:
                    raise RuntimeError("in the loop")


# Against the real server.


class Business:
    """Counts what it is told, by Idempotency-Key as one must."""

    def __init__(self) -> None:
        self.hooks = Hooks(token=TOKEN)
        self.said: list[str] = []
        self._known: set[str] = set()
        self.hooks.rainbow_connect(self.connect)
        self.hooks.rainbow(1)(self.take)

    def connect(self, request: Hook) -> None:
        request.rainbow.sub("room")
        if name := request.query.get("session"):
            request.rainbow.session = name

    def take(self, request: Hook) -> dict[str, str]:
        key = request.idempotency_key or ""
        if not key or key not in self._known:
            self.said.append(request.text)
        self._known.add(key)
        return {"got": request.text}


@needs_server
@run
async def test_nothing_is_lost_or_doubled_while_the_line_is_cut() -> None:
    business = Business()
    rounds, each = 12, 5
    with wsgi_server(business.hooks.wsgi) as hooks, rainbow_server(hooks, store="sqlite") as url:
        async with Line(url) as line, AsyncRainbow(url, token=TOKEN) as server:
            client = quick(line.url, params={"session": "ann"}, repeat=0.3)
            received: list[str] = []
            client.on("message", lambda message: received.append(message.text))
            await client.open(DEADLINE_S)
            for round_ in range(rounds):
                line.cut_after = {"up" if round_ % 2 else "down": 1 + round_ // 2}
                texts = [f"{round_}.{n}" for n in range(each)]
                ups = [client.send(1, text, qos=2) for text in texts]
                downs = [server.send(session="ann", data=text, qos=2, message_id=text) for text in texts]
                replies, _ = await asyncio.gather(asyncio.gather(*ups), asyncio.gather(*downs))
                assert [reply.json() for reply in replies] == [{"got": text} for text in texts]
            line.cut_after = {}
            await until(lambda: len(received) >= rounds * each, "all have come")
            await client.close()
            assert line.opened > rounds / 4, "the line was hardly ever cut"
    every = sorted(f"{round_}.{n}" for round_ in range(rounds) for n in range(each))
    assert sorted(received) == every
    assert sorted(business.said) == every


@needs_server
def test_what_waited_comes_once_after_a_restart_of_both(tmp_path: Path) -> None:
    async def life(url: str, expected: list[str], resumed: bool) -> None:
        storage = FileStorage(tmp_path / "ann.rainbow")
        async with quick(url, params={"session": "ann"}, storage=storage) as client:
            assert client.greeting.resumed is resumed
            got = [(await client.receive(DEADLINE_S)).text for _ in expected]
            assert got == expected
            assert (await client.send(1, "hi", qos=2)).json() == {"got": "hi"}

    async def leave_word(url: str) -> None:
        async with AsyncRainbow(url, token=TOKEN) as server:
            for n in range(3):
                assert (await server.send(session="ann", data=f"word {n}", message_id=f"w{n}")).stored == 1
            assert (await server.session("ann")).waiting == 3

    data = str(tmp_path / "data")
    business = Business()
    with wsgi_server(business.hooks.wsgi) as hooks:
        with rainbow_server(hooks, store="sqlite", data=data) as url:
            asyncio.run(life(url, [], False))
            asyncio.run(leave_word(url))
        with rainbow_server(hooks, store="sqlite", data=data) as url:
            asyncio.run(life(url, ["word 0", "word 1", "word 2"], True))
            asyncio.run(life(url, [], True))
    assert business.said == ["hi"] * 3


@needs_server
@run
async def test_the_server_may_come_later_than_the_client() -> None:
    business = Business()
    from tests.server import free_port

    port = free_port()
    client = quick(f"ws://127.0.0.1:{port}")
    opening = asyncio.ensure_future(client.open(DEADLINE_S))
    tries = 0

    def tried(_: Any) -> None:
        nonlocal tries
        tries += 1

    client.on("close", tried)
    await until(lambda: tries >= 2, "it tries again")
    with wsgi_server(business.hooks.wsgi) as hooks, rainbow_server(hooks, port=port):
        await opening
        assert (await client.send(1, "hi")).json() == {"got": "hi"}
        await client.close()
