"""The line between client and server: it sees every packet, and can lose, delay, replace or cut.

A scenario sets `rule`: it is called with each `Unit` before it passes, and says what becomes of it. Only whole messages
pass, so that a cut is where the rule says.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from .wire import BINARY, CLOSE, DOWN, UP, Packet, Splitter, Unit, frame


@dataclass(frozen=True)
class Action:
    """What becomes of a unit. `keep`: how many of its bytes pass before the line is cut, None for all."""

    name: str
    passes: bool = True
    cuts: bool = False
    keep: int | None = None
    delay: float = 0
    payload: bytes | None = None


PASS = Action("")
DROP = Action("lost", passes=False)
#: Lost, and the line with it.
CUT = Action("lost, cut", passes=False, cuts=True)
#: It arrives, then the line is cut.
PASS_CUT = Action("passes, cut", cuts=True)
#: From here on nothing passes on this line, and nobody is told.
SILENCE = Action("silence", passes=False)


def late(seconds: float) -> Action:
    return Action(f"{seconds:g} s late", delay=seconds)


def part(count: int) -> Action:
    return Action(f"{count} bytes pass, cut", cuts=True, keep=count)


def instead(payload: bytes) -> Action:
    return Action("replaced", payload=payload)


class Notes(Protocol):
    """What the relay needs of the world."""

    changed: threading.Condition

    def note(self, text: str) -> None: ...


class Outlet:
    """One end of a line, for writing. What is late does not overtake, and makes nothing wait that it need not."""

    def __init__(self, sink: socket.socket) -> None:
        self._sink = sink
        self._changed = threading.Condition()
        self._late: deque[tuple[float, bytes]] = deque()
        self._is_running = False

    def send(self, raw: bytes, delay: float = 0) -> None:
        with self._changed:
            if delay or self._late:
                self._late.append((time.monotonic() + delay, raw))
                if not self._is_running:
                    self._is_running = True
                    threading.Thread(target=self._send_late, daemon=True).start()
                return
            self._sink.sendall(raw)

    def _send_late(self) -> None:
        with self._changed:
            while self._late:
                wait = self._late[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                with contextlib.suppress(OSError):
                    self._sink.sendall(self._late[0][1])
                self._late.popleft()
            self._is_running = False


class Line:
    """One connection of the client and the one to the server that belongs to it."""

    def __init__(self, number: int, client: socket.socket) -> None:
        self.number, self.client = number, client
        self.to_client = Outlet(client)
        self.server: socket.socket | None = None
        self.is_silent = False
        self.is_over = False
        self.began = time.monotonic()
        self.ended: float | None = None


class Relay:
    def __init__(self, world: Notes, plain: bool = False) -> None:
        self._world = world
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        #: Where the server listens; None while there is none.
        self.target: int | None = None
        #: Hides from the server that the client offers `rainbow.2`.
        self.plain = plain
        self.rule: Callable[[Unit], Action] = lambda _: PASS
        #: Everything that was seen, lost or not.
        self.units: list[Unit] = []
        self.lines: list[Line] = []
        #: What greetings say of the heartbeat, in place of the server's: a hasty client, a patient server.
        self.heartbeat: int | None = None
        #: Packets are not written into the transcript.
        self.is_quiet = False
        self._is_closed = False

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connect/"

    def listen(self) -> None:
        """Until now a connection is refused by the system."""
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in list(self.lines):
            self._end(line, "the kit closes it")

    def cut(self) -> None:
        """Ends every line there is."""
        for line in list(self.lines):
            if not line.is_over:
                self._end(line, "cut")

    def silence(self) -> None:
        """Nothing passes any more on the lines there are, and nobody is told. Later ones are whole."""
        with self._world.changed:
            for line in self.lines:
                line.is_silent = True
        self._world.note("line   silence")

    def inject(self, packet: Packet | bytes) -> None:
        """To the client, on the newest line, as if from the server."""
        line = self.lines[-1]
        payload = packet.encode() if isinstance(packet, Packet) else packet
        self._world.note(f"line   {line.number} ↓ {Packet.decode(payload) or payload.hex()}  (from the kit)")
        self._to_client(line, frame(BINARY, payload))

    def inject_close(self, code: int, reason: str = "") -> None:
        """A close frame to the client, then the end of the line."""
        line = self.lines[-1]
        self._world.note(f"line   {line.number} ↓ close {code} {reason}  (from the kit)")
        self._to_client(line, frame(CLOSE, code.to_bytes(2, "big") + reason.encode()))

    def seen(self, way: str, command: int, **fields: object) -> list[Unit]:
        """Packets of one kind and direction, lost or not."""
        return [unit for unit in self.units if unit.way == way and unit.is_(command, **fields)]

    def _to_client(self, line: Line, raw: bytes) -> None:
        with contextlib.suppress(OSError):
            line.to_client.send(raw)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(len(self.lines) + 1, client)
            with self._world.changed:
                self.lines.append(line)
            self._world.note(f"line   {line.number} begins")
            threading.Thread(target=self._join, args=(line,), daemon=True).start()

    def _join(self, line: Line) -> None:
        if self.target is None:
            return self._end(line, "there is no server")
        try:
            line.server = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError as error:
            return self._end(line, f"the server: {error}")
        line.server.settimeout(None)
        line.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pump, args=(line, DOWN, line.server, line.to_client), daemon=True).start()
        self._pump(line, UP, line.client, Outlet(line.server))

    def _pump(self, line: Line, way: str, source: socket.socket, sink: Outlet) -> None:
        splitter = Splitter()
        why = "ended by the client" if way == UP else "ended by the server"
        while not line.is_over:
            try:
                data = source.recv(262144)
            except OSError:
                data = b""
            if not data:
                break
            try:
                for raw, opcode, payload in splitter.feed(data):
                    unit = self._hastened(Unit(way, line.number, raw, opcode, payload, time.monotonic()))
                    if not self._handle(line, unit, sink):
                        return
            except Exception:
                self._world.note(f"line   {line.number}: the scenario's rule breaks down\n{traceback.format_exc()}")
                return self._end(line, "broken down")
        if not line.is_silent:
            self._end(line, why)

    def _hastened(self, unit: Unit) -> Unit:
        packet = unit.packet
        if self.heartbeat is None or packet is None or not unit.is_greeting:
            return unit
        body = json.dumps({**json.loads(packet.body), "heartbeat": self.heartbeat}).encode()
        payload = replace(packet, body=body).encode()
        return replace(unit, payload=payload, raw=frame(BINARY, payload))

    def _handle(self, line: Line, unit: Unit, sink: Outlet) -> bool:
        """Whether the line goes on."""
        with self._world.changed:
            self.units.append(unit)
            action = SILENCE if line.is_silent else self.rule(unit)
            line.is_silent |= action is SILENCE
        if not self.is_quiet:
            arrow = "↑" if unit.way == UP else "↓"
            self._world.note(f"line   {line.number} {arrow} {unit}" + (f"  [{action.name}]" if action.name else ""))
        if action.passes:
            try:
                sink.send(self._what_passes(unit, action), action.delay)
            except OSError:
                self._end(line, "broken")
                return False
        if action.cuts:
            self._end(line, "cut")
            return False
        return True

    def _what_passes(self, unit: Unit, action: Action) -> bytes:
        raw = unit.raw
        if action.payload is not None:
            raw = frame(unit.opcode or BINARY, action.payload, b"\0\0\0\0" if unit.way == UP else None)
        if unit.opcode is None and unit.way == UP and self.plain:
            raw = re.sub(rb"(?im)^sec-websocket-protocol:.*\r\n", b"", raw)
        return raw if action.keep is None else raw[: action.keep]

    def _end(self, line: Line, why: str) -> None:
        with self._world.changed:
            if line.is_over:
                return
            line.is_over = True
            line.ended = time.monotonic()
        self._world.note(f"line   {line.number} ends: {why}")
        for end in (line.client, line.server):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def nth(n: int, matches: Callable[[Unit], bool], action: Action) -> Callable[[Unit], Action]:
    """A rule: the n-th unit (from 1) that matches meets with the action, everything else passes."""
    count = 0

    def rule(unit: Unit) -> Action:
        nonlocal count
        if matches(unit):
            count += 1
            if count == n:
                return action
        return PASS

    return rule


__all__ = ["CUT", "DROP", "PASS", "PASS_CUT", "SILENCE", "Action", "Relay", "instead", "late", "nth", "part"]
