"""The client itself: one WebSocket at a time, messages of QoS 0, 1 and 2 both ways, reconnection.

A message that was promised (QoS 1 and 2) outlives its connection: it is sent again on the next one, until its own
timeout ends. "Exactly once" over a reconnection needs a durable session, which the business server names.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from ..calls import encode
from ..packet import GREETING_TYPE, Command, Packet
from .memory import Memory, Storage
from .message import (
    ClientClosed,
    ClientError,
    ClientFull,
    Closed,
    ConnectRefused,
    Greeting,
    Message,
    MessageTooLarge,
    ProtocolViolated,
    Reply,
    SendTimeout,
)
from .transport import PROTOCOL, Line, Send

Event = Literal["open", "message", "close", "error"]
Handler = TypeVar("Handler", bound=Callable[[Any], Any])
State = Literal["closed", "waiting", "connecting", "open"]
#: Query parameters or headers, or what makes them for each attempt (a fresh token, say).
Extra = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]] | None


class Client:
    """A connection that lasts.

    async with Client("ws://127.0.0.1:1984/connect/", device_id="bot-1") as client:
        reply = await client.send(1, {"text": "hello"}, qos=2)
        async for message in client:
            print(message.type, message.json())
    """

    def __init__(
        self,
        url: str,
        *,
        device_id: str | None = None,
        os: str = "python",
        params: Extra = None,
        headers: Extra = None,
        storage: Storage | None = None,
        timeout: float = 10,
        repeat: float = 3,
        pending_max: int = 1024,
        inbox_max: int = 1024,
        backoff_min: float = 0.5,
        backoff_max: float = 30,
        stable: float = 5,
        heartbeat_grace: float = 10,
        random: Callable[[], float] = random.random,
        connect_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Times are seconds.

        `storage` keeps a session's ids over restarts of the process (`FileStorage`). `timeout` of a send, `repeat`
        between its repeats; `pending_max` unanswered sends; `inbox_max` messages of QoS 0 that wait to be received, the
        oldest is dropped. A reconnection waits a random part of `backoff_min` * 2^n, at most `backoff_max`; one
        that lasted `stable` begins anew. `connect_options` go to `websockets.connect`.
        """
        self._url, self._device_id, self._os = _connect_url(url), device_id or uuid.uuid4().hex, os
        self._params, self._headers, self._storage = params, headers, storage
        self._timeout, self._repeat, self._pending_max = timeout, repeat, pending_max
        self._backoff_min, self._backoff_max, self._stable = backoff_min, backoff_max, stable
        self._grace, self._random = heartbeat_grace, random
        self._connect_options = dict(connect_options or {})
        self._handlers: dict[str, list[Callable[[Any], Any]]] = {name: [] for name in EVENTS}
        self._state: State = "closed"
        self._greeting = Greeting()
        self._memory = Memory(None, None, 0)
        self._sends: dict[Send, None] = {}
        self._pending: dict[int, Send] = {}
        #: The message that a loop over this client is at.
        self._taken: tuple[Packet, Memory] | None = None
        self._inbox: deque[tuple[Packet, Memory]] = deque()
        self._inbox_max, self._qos0_waiting = inbox_max, 0
        self._inbox_wake = asyncio.Event()
        self._line: Line | None = None
        self._attempts = 0
        self._running: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._last_failure = ""
        #: Messages of QoS 0 that were dropped because nobody received them.
        self.dropped = 0

    @property
    def state(self) -> State:
        """ "closed" (nothing will happen by itself), "waiting" (for the next attempt), "connecting", "open"."""
        return self._state

    @property
    def greeting(self) -> Greeting:
        """How the present connection, or the last one, began."""
        return self._greeting

    @property
    def device_id(self) -> str:
        return self._device_id

    @property
    def pending(self) -> int:
        """Sends that still wait for an answer."""
        return len(self._sends)

    def on(self, event: Event, handler: Handler) -> Handler:
        """Events: "open" (Greeting), "message" (Message), "close" (Closed), "error" (an exception).

        Handlers may be asynchronous. Messages are handled one after the other; what the handler returns is the reply of
        a QoS 1 or 2 message. With a message handler there is nothing to `receive`.
        """
        self._handlers[event].append(handler)
        return handler

    async def open(self, timeout: float | None = None) -> Greeting:
        """Connects, and stays connected until `close()`, a refusal, or a close code of 4500-4999.

        Returns when open. Raises `ConnectRefused` when the business server says no, and `ClientClosed` after `timeout`.
        """
        if self._state == "open":
            return self._greeting
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.done():
            self._opening = loop.create_future()
            self._state = "connecting"
            self._running = loop.create_task(self._run(), name="rainbow client")
        assert self._opening is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._opening), timeout)
        except asyncio.TimeoutError:
            failure = self._last_failure or "no connection in time"
            await self.close()
            raise ClientClosed(failure) from None
        return self._greeting

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the connection and all attempts; what is unanswered is rejected."""
        self._finish_taken()
        was_closed = self._state == "closed"
        running, line = self._running, self._line
        self._running = None
        self._end(ClientClosed("closed by this side"))
        if line is not None:
            if line.out:
                # An acknowledgement that is still here spares the server a repeat.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(line.drained.wait(), FLUSH_TIMEOUT_S)
            await line.socket.close(code, reason)
        if running is not None and running is not asyncio.current_task():
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        if not was_closed:
            self._emit("close", Closed(code, reason, None))

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._taken = None
        await self.close()

    async def send(self, type: int, data: Any = None, qos: int = 1, timeout: float | None = None) -> Reply:
        """Sends bytes, text, or anything that JSON can say, as a message of a type (0-65534).

        Returns with QoS 0 when it is handed to the connection, with QoS 1 and 2 the business server's answer. A QoS 0
        message is never kept for later. `timeout` 0 waits for ever.
        """
        if not 0 <= type < GREETING_TYPE:
            raise ValueError(f"a message type is a number from 0 to 65534, not {type!r}")
        if qos not in (0, 1, 2):
            raise ValueError(f"qos is 0, 1 or 2, not {qos!r}")
        body = encode(data)
        limit = self._greeting.message_bytes_max
        if limit is not None and len(body) + 5 > limit:
            raise MessageTooLarge(f"{len(body)} bytes; the server takes {limit}")
        if qos == 0:
            return self._send_once(type, body)
        if self._state == "closed":
            raise ClientClosed("not open")
        if len(self._sends) >= self._pending_max:
            raise ClientFull("too many unanswered messages")
        entry = Send(type, body, qos, asyncio.get_running_loop().create_future())
        self._sends[entry] = None
        if self._state == "open":
            self._transmit(entry)
        seconds = self._timeout if timeout is None else timeout
        try:
            return await asyncio.wait_for(asyncio.shield(entry.future), seconds or None)
        except asyncio.TimeoutError:
            # After REC the other side has the message: the promise is kept, whenever COM comes.
            if entry.answer is not None:
                entry.settle()
                return entry.future.result()
            self._forget(entry)
            entry.future.cancel()
            raise SendTimeout(f"no answer to a message of type {type} in {seconds:g} s") from None
        except asyncio.CancelledError:
            if entry.answer is None:
                self._forget(entry)
            entry.future.cancel()
            raise

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message, acknowledged by being taken. Raises `TimeoutError`, and `ClientClosed` at the end."""
        self._finish_taken()
        try:
            # What is waited for is not taken inside: a message must not be lost with a wait that ends as it comes.
            await asyncio.wait_for(self._available(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no message in {timeout:g} s") from None
        packet, memory = await self._next()
        self._finish(packet, memory, b"")
        return _message(packet)

    def __aiter__(self) -> Client:
        """Messages as they come, until `close()`.

        A message is acknowledged when the next one is asked for, or the client is closed; not when an error leaves the
        client's `async with`: then it comes again, in a session.
        """
        return self

    async def __anext__(self) -> Message:
        self._finish_taken()
        try:
            packet, memory = await self._next()
        except ClientClosed:
            raise StopAsyncIteration from None
        self._taken = (packet, memory)
        return _message(packet)

    def _finish_taken(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None:
            self._finish(*taken, b"")

    # Out.

    def _send_once(self, type_: int, body: bytes) -> Reply:
        if self._state != "open" or self._line is None:
            raise ClientClosed("not connected; a QoS 0 message is not kept for later")
        if len(self._line.out) >= self._pending_max:
            raise ClientFull("the connection takes no more at present")
        self._line.write(Packet(Command.SEND, type=type_, body=body))
        return Reply()

    def _transmit(self, entry: Send) -> None:
        """Writes what the entry's state asks for, and again every `repeat` until it is answered or the line is gone."""
        if entry.repeat is not None:
            entry.repeat.cancel()
        entry.repeat = asyncio.get_running_loop().call_later(self._repeat, self._transmit, entry)
        # A line that is stuck gets no copies on top; TCP will bring the first one.
        if entry.written and self._line is not None and len(self._line.out) > STUCK:
            return None
        if entry.id is None:
            entry.id = self._memory.take_id(self._pending.__contains__)
            self._pending[entry.id] = entry
            if entry.qos == 2:
                self._memory.hold(entry.id, self._pending.__contains__)
        if entry.answer is not None:
            return self._write(Packet(Command.REL, entry.id))
        dup, entry.written = entry.written, True
        self._write(Packet(Command.SEND, entry.id, entry.body, entry.type, entry.qos, dup))

    def _forget(self, entry: Send) -> None:
        if entry.repeat is not None:
            entry.repeat.cancel()
        self._sends.pop(entry, None)
        if entry.id is not None and self._pending.get(entry.id) is entry:
            del self._pending[entry.id]

    def _write(self, packet: Packet) -> None:
        # Between the server's close and our hearing of it a write is lost; whoever promised repeats it.
        if self._line is not None:
            self._line.write(packet)

    # In.

    def _on_packet(self, line: Line, data: bytes | str) -> None:
        line.heard_at = time.monotonic()
        packet = Packet.decode(data.encode() if isinstance(data, str) else data)
        if packet is not None and packet.flag:
            packet = _refusal(packet, line)
        if packet is None:
            raise ProtocolViolated("malformed packet")
        if line.greets and (self._state != "open" or packet.type == GREETING_TYPE):
            return self._on_greeting(packet)
        match packet.command:
            case Command.SEND:
                self._on_message(packet)
            case Command.REL:
                self._on_release(packet)
            case Command.PING:
                self._write(Packet(Command.PONG))
            case Command.PONG:
                pass
            case _:
                self._on_answer(packet)
        return None

    def _on_greeting(self, packet: Packet) -> None:
        is_one = packet.command is Command.SEND and packet.type == GREETING_TYPE and self._state != "open"
        greeting = Greeting.read(packet.body) if is_one else None
        if greeting is None:
            raise ProtocolViolated("bad greeting")
        self._go_on(greeting)

    def _on_answer(self, packet: Packet) -> None:
        assert packet.id is not None
        entry = self._pending.get(packet.id)
        if packet.command is Command.ACK:
            if entry is not None and entry.qos == 1:
                entry.answer = packet
                self._forget(entry)
                entry.settle()
        elif packet.command is Command.REC:
            if entry is None or entry.qos != 2:
                # Given up here, but the server still holds the id: release it.
                return self._write(Packet(Command.REL, packet.id))
            entry.answer = entry.answer or packet
            self._transmit(entry)
        elif entry is None:
            self._memory.let_go(packet.id)
        elif entry.qos == 2 and entry.answer is not None:
            self._memory.let_go(packet.id)
            self._forget(entry)
            entry.settle()
        return None

    def _on_message(self, packet: Packet) -> None:
        if packet.id is None:
            return self._deliver_qos0(packet)
        received = self._memory.received[packet.qos]
        known = packet.id in received
        reply = received.get(packet.id)
        # Without DUP, the id of an answered QoS 1 message names a new one. QoS 2 ids are not free before REL.
        if known and (packet.qos == 2 or packet.dup or reply is None):
            if reply is not None:
                self._answer(packet, reply)
            return None
        if packet.qos == 2 and len(received) >= RECEIVED_MAX:
            return self._emit("error", ClientFull("too many messages without REL: one was not taken"))
        received.pop(packet.id, None)
        received[packet.id] = None
        self._enqueue(packet)
        return None

    def _on_release(self, packet: Packet) -> None:
        assert packet.id is not None
        if self._memory.received[2].pop(packet.id, None) is not None:
            self._memory.save()
        # An id that we do not know is answered too: the server repeats REL until it hears COM.
        self._write(Packet(Command.COM, packet.id))

    def _deliver_qos0(self, packet: Packet) -> None:
        if self._qos0_waiting >= self._inbox_max:
            for index, (old, _) in enumerate(self._inbox):
                if old.id is None:
                    del self._inbox[index]
                    self._qos0_waiting -= 1
                    self.dropped += 1
                    break
        self._qos0_waiting += 1
        self._enqueue(packet)

    def _enqueue(self, packet: Packet) -> None:
        self._inbox.append((packet, self._memory))
        self._inbox_wake.set()

    async def _available(self) -> None:
        while not self._inbox:
            if self._state == "closed":
                raise ClientClosed("not open")
            self._inbox_wake.clear()
            await self._inbox_wake.wait()

    async def _next(self) -> tuple[Packet, Memory]:
        await self._available()
        packet, memory = self._inbox.popleft()
        self._qos0_waiting -= packet.id is None
        return packet, memory

    async def _handle_messages(self) -> None:
        """Hands messages to their handler one after the other, so that their order is kept."""
        while True:
            packet, memory = await self._next()
            reply = b""
            for handler in self._handlers["message"]:
                try:
                    result = handler(_message(packet))
                    result = await result if inspect.isawaitable(result) else result
                    reply = reply or encode(result)
                except Exception as error:
                    self._emit("error", error)
            self._finish(packet, memory, reply)

    def _finish(self, packet: Packet, memory: Memory, reply: bytes) -> None:
        """The message is handled: its id is remembered, then the server is told."""
        if packet.id is None or memory is not self._memory or packet.id not in memory.received[packet.qos]:
            return
        memory.received[packet.qos][packet.id] = reply
        memory.forget_old_answers()
        memory.save()
        self._answer(packet, reply)

    def _answer(self, packet: Packet, reply: bytes) -> None:
        if self._state == "open":
            command = Command.ACK if packet.qos == 1 else Command.REC
            self._write(Packet(command, packet.id, reply))

    # The connection.

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except Exception as error:
            # A storage that fails, say: to go on without it could hand a message on twice.
            self._end(ClientClosed(f"{type(error).__name__}: {error}"))
            self._emit("error", error)
            self._emit("close", Closed(1006, str(error), None))

    async def _keep_connected(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._handlers["message"]:
                handling = asyncio.create_task(self._handle_messages(), name="rainbow messages")
                stack.callback(handling.cancel)
            while self._running is asyncio.current_task():
                closed = await self._attempt()
                if self._running is not asyncio.current_task():
                    return None
                self._detach()
                error = _final(closed)
                if error is not None:
                    self._end(error)
                    return self._emit("close", closed)
                delay = self._delay() if closed.retry_after is None else closed.retry_after
                self._state = "waiting"
                self._emit("close", Closed(closed.code, closed.reason, delay))
                await asyncio.sleep(delay)
        return None

    async def _attempt(self) -> Closed:
        """One connection, from its beginning to its end."""
        self._state = "connecting"
        try:
            url = _with_query(self._url, await _made(self._params))
            own = {"X-DEVICEID": self._device_id, "X-CLIENT-OS": self._os}
            headers = {**await _made(self._headers), **own}
            options: dict[str, Any] = {
                "open_timeout": 10,
                "close_timeout": 5,
                "compression": None,
                "max_size": None,
                "proxy": None,
            }
            options.update(self._connect_options)
            socket = await connect(url, subprotocols=[Subprotocol(PROTOCOL)], additional_headers=headers, **options)
        except InvalidStatus as error:
            status = error.response.status_code
            reason = (error.response.body or b"")[:200].decode(errors="replace").strip()
            self._last_failure = f"HTTP {status} {reason}".strip()
            return Closed(4401 if status in (401, 403) else 1006, self._last_failure, None)
        except (OSError, InvalidHandshake, TimeoutError, asyncio.TimeoutError) as error:
            self._last_failure = str(error) or type(error).__name__
            return Closed(1006, self._last_failure, None)
        except Exception as error:
            # `params` or `headers` failed: an attempt that failed, as if the line had.
            self._last_failure = f"{type(error).__name__}: {error}"
            self._emit("error", error)
            return Closed(1006, self._last_failure, None)
        return await self._serve(Line(socket))

    async def _serve(self, line: Line) -> Closed:
        self._line = line
        helpers = [asyncio.create_task(line.write_all()), asyncio.create_task(self._watch(line))]
        try:
            if not line.greets:
                self._go_on(Greeting())
            async for data in line.socket:
                self._on_packet(line, data)
            closed = Closed(line.socket.close_code or 1005, line.socket.close_reason or "", None)
        except ConnectionClosed as error:
            closed = Closed(error.rcvd.code, error.rcvd.reason, None) if error.rcvd else Closed(1006, "", None)
        except ProtocolViolated as error:
            self._emit("error", error)
            await line.socket.close(4002, str(error))
            closed = Closed(4002, str(error), None)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            if self._line is line:
                self._line = None
            line.socket.transport.abort()
        self._last_failure = f"closed with {closed.code} {closed.reason}".strip()
        if time.monotonic() - line.opened_at >= self._stable:
            self._attempts = 0
        if closed.code == 1009:
            self._reject_largest()
        return closed

    async def _watch(self, line: Line) -> None:
        """A line without greeting in time, or silent beyond its heartbeat, is dead."""
        # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with the greeting, and who
        # waits for the end of this task would wait for ever.
        give_up = asyncio.get_running_loop().call_later(GREETING_TIMEOUT_S, line.socket.transport.abort)
        try:
            await line.greeted.wait()
        finally:
            give_up.cancel()
        heartbeat = self._greeting.heartbeat
        while heartbeat:
            silence = time.monotonic() - line.heard_at
            if silence >= heartbeat + self._grace:
                return line.socket.transport.abort()
            if silence >= heartbeat:
                line.write(Packet(Command.PING))
            await asyncio.sleep(min(heartbeat, self._grace) / 4)
        return None

    def _go_on(self, greeting: Greeting) -> None:
        self._state, self._greeting = "open", greeting
        if self._line is not None:
            self._line.greeted.set()
        self._recall(greeting)
        if greeting.resumed:
            self._settle_ids()
        else:
            self._start_afresh()
        for entry in list(self._sends):
            self._transmit(entry)
        if self._opening is not None and not self._opening.done():
            self._opening.set_result(None)
        self._emit("open", greeting)

    def _recall(self, greeting: Greeting) -> None:
        """The memory that belongs to the session that the server has named."""
        key = greeting.session and f"{greeting.session}/{greeting.session_id or ''}"
        if not greeting.resumed or key is None:
            self._memory = Memory(key, self._storage, self._memory.last_id)
        elif self._memory.session != key:
            self._memory = Memory.restored(key, self._storage, self._random)
        else:
            return
        self._memory.begin()

    def _settle_ids(self) -> None:
        """What was half done when the line or the process went: ids that one side holds for the other."""
        for message_id, reply in self._memory.received[2].items():
            if reply is not None:
                self._write(Packet(Command.REC, message_id, reply))
        for message_id in self._memory.held:
            if message_id not in self._pending:
                self._write(Packet(Command.REL, message_id))

    def _start_afresh(self) -> None:
        """Ids of a connection that nobody resumes mean nothing any more: what is unanswered gets new ones."""
        self._pending.clear()
        for entry in list(self._sends):
            if entry.answer is not None:
                self._forget(entry)
                entry.settle()
            entry.id, entry.written = None, False

    def _detach(self) -> None:
        for entry in self._sends:
            if entry.repeat is not None:
                entry.repeat.cancel()

    def _end(self, error: ClientError) -> None:
        self._state = "closed"
        self._attempts = 0
        for entry in list(self._sends):
            self._forget(entry)
            if entry.answer is not None:
                entry.settle()
            else:
                entry.fail(error)
                # Whoever gave up waiting does not hear of it.
                entry.future.exception()
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(error)
            self._opening.exception()
        self._inbox_wake.set()

    def _reject_largest(self) -> None:
        """The server closes on a message that is too large: that one must not be sent again, and the others may."""
        written = [entry for entry in self._sends if entry.written and entry.answer is None]
        if written:
            culprit = max(written, key=lambda entry: len(entry.body))
            self._forget(culprit)
            culprit.fail(MessageTooLarge(f"the server does not take {len(culprit.body)} bytes"))

    def _delay(self) -> float:
        """Exponential backoff with full jitter: a server that comes back is not met by everyone at once."""
        delay: float = self._random() * min(self._backoff_max, self._backoff_min * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 30)
        return delay

    def _emit(self, event: Event, value: Any) -> None:
        for handler in self._handlers[event]:
            try:
                result = handler(value)
                if inspect.isawaitable(result):
                    task = asyncio.ensure_future(result)
                    self._event_tasks.add(task)
                    task.add_done_callback(self._event_tasks.discard)
            except Exception as error:
                # A handler's fault must not stop the connection.
                context = {"message": f"a handler of {event!r} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    _event_tasks: set[asyncio.Future[Any]] = set()  # noqa: RUF012


def _message(packet: Packet) -> Message:
    return Message(packet.body, packet.type, packet.qos, packet.id, packet.dup)


def _refusal(packet: Packet, line: Line) -> Packet | None:
    """Bit 0 counts in ACK and REC of `rainbow.2`, where a status comes before the body."""
    if not line.greets or packet.command not in (Command.ACK, Command.REC):
        return replace(packet, flag=False)
    return packet if len(packet.body) >= 2 else None


def _final(closed: Closed) -> ClientClosed | None:
    """The error that a close means when no attempt must follow."""
    if closed.code == 4401:
        return ConnectRefused(closed.reason)
    if closed.code == TAKEN_OVER:
        return ClientClosed("another connection of this session has taken over", code=closed.code)
    if 4500 <= closed.code <= 4999 and closed.code != BACKEND_AWAY:
        return ClientClosed(f"closed by the server: {closed.code} {closed.reason}".strip(), code=closed.code)
    return None


async def _made(extra: Extra) -> Mapping[str, str]:
    made = extra() if callable(extra) else extra
    return (await made if inspect.isawaitable(made) else made) or {}


def _connect_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(f"{url!r} is no ws(s) URL")
    path = parts.path if parts.path not in ("", "/") else "/connect/"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def _with_query(url: str, params: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *params.items()])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


EVENTS = ("open", "message", "close", "error")
TAKEN_OVER = 4409
#: In the range of 4000-4499 codes bring clients back; the server says "come back later" with this one.
BACKEND_AWAY = 4503
GREETING_TIMEOUT_S = 10
FLUSH_TIMEOUT_S = 1
#: No server has more QoS 2 messages in flight.
RECEIVED_MAX = 16384
#: Packets that wait to be written; beyond, repeats are left out.
STUCK = 64
