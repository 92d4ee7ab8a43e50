"""All that a scenario plays with, and its transcript."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .business import Business
from .client import Client
from .relay import Relay
from .server import Server
from .wire import COM, DOWN, UP

#: Durable sessions. Nothing here is about power cuts: the disk may be slow, the scenarios need not be.
STORE = {"kind": "sqlite", "durability": "memory", "commit_delay": "0s", "patience": "20s", "data_dir": "data"}


PATIENCE_S = 10


class Failed(Exception):
    """The client (or the scenario) is not as it must be."""


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    play: Callable[[World], Any]
    #: What the client must be able to do beyond the minimum (README.md).
    needs: tuple[str, ...] = ()
    deadline: float = 30
    #: The client is one without `rainbow.2`, as in 2014.
    plain: bool = False
    #: The server and the line are there from the beginning.
    starts: bool = True
    #: The greeting's, seconds; None for the server's own, 20.
    heartbeat: int | None = None
    #: Keys of the server's configuration.
    server: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, about: str, **more: Any) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """Enters a function as a scenario. What it returns is shown beside its time."""

    def enter(play: Callable[[World], Any]) -> Callable[[World], Any]:
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(name, about, play, **more)
        return play

    return enter


class World:
    def __init__(self, scenario: Scenario, binary: Path, command: list[str]) -> None:
        self.changed = threading.Condition()
        self.transcript: list[str] = []
        self.clients: list[Client] = []
        self.without: frozenset[str] = frozenset()
        #: How long a busy machine may take for what takes no time.
        self.patience: float = PATIENCE_S
        self._began, self._deadline = time.monotonic(), time.monotonic() + scenario.deadline
        self._command = command
        self._folder = tempfile.TemporaryDirectory(prefix="rainbow-kit-")
        self.folder = Path(self._folder.name)
        self._calls = ThreadPoolExecutor(8)
        self.relay = Relay(self, scenario.plain)
        self.relay.heartbeat = scenario.heartbeat
        self.business = Business(self, with_session=not scenario.plain)
        store = {} if scenario.plain else STORE
        keys = {**scenario.server, "store": {**store, **scenario.server.get("store", {})}}
        self.server = Server(self, binary, self.folder, self.business.port, keys)

    def start(self) -> None:
        self.relay.target = self.server.start()
        self.relay.listen()

    def restart(self, how: str) -> None:
        """The server dies and comes back, with its data."""
        self.relay.target = None
        self.server.end(how)
        self.relay.target = self.server.start()

    def client(self, device: str = "ann", *, storage: bool = False) -> Client:
        """A client program that has not opened yet. With storage, it goes on where the device's last program ended."""
        client = Client(self, self._command, device, self.folder / f"{device}.storage" if storage else None)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.end()
        self.relay.close()
        self.server.end()
        self.business.close()
        self._calls.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    # Calls of the business server.

    def call(self, path: str, body: bytes = b"", **query: Any) -> Future[dict[str, Any]]:
        """Under way; a call of QoS 1 and 2 ends when the client has answered."""

        def made() -> dict[str, Any]:
            answer = self.server.call(path, body, **query)
            self.note(f"call   {path} {query} is answered {answer}")
            return answer

        self.note(f"call   {path} {query} {body[:60]!r}")
        return self._calls.submit(made)

    def say(
        self, body: bytes | str, qos: int = 1, type: int = 7, channel: str = "room", **more: Any
    ) -> Future[dict[str, Any]]:
        """A message to the clients."""
        data = body.encode() if isinstance(body, str) else body
        return self.call("/send/", data, channel=channel, qos=qos, msgtype=type, **{"timeout": 20, **more})

    def store(self, body: bytes | str, qos: int = 1, session: str = "ann", type: int = 7) -> dict[str, Any]:
        """A message for a session: when this returns it is stored, or has been acknowledged."""
        data = body.encode() if isinstance(body, str) else body
        answer = self.call("/send/", data, session=session, qos=qos, msgtype=type, wait="stored").result(20)
        self.check(answer.get("status") == 0, f"the message is taken: {answer}")
        return answer

    # Judging.

    def until(self, what: str, condition: Callable[[], Any], within: float | None = None) -> None:
        """Waits until it is so, for `patience` if nothing else is said."""
        within = self.patience if within is None else within
        limit = min(within, self._deadline - time.monotonic())
        with self.changed:
            if not self.changed.wait_for(condition, max(limit, 0)):
                self.fail(f"not within {within:g} s: {what}")

    def never(self, what: str, condition: Callable[[], Any], during: float) -> None:
        with self.changed:
            if self.changed.wait_for(condition, during):
                self.fail(what)

    def check(self, holds: Any, what: str) -> None:
        if not holds:
            self.fail(f"not so: {what}")

    def equal(self, found: Any, wanted: Any, what: str) -> None:
        if found != wanted:
            self.fail(f"{what}: {found!r}, not {wanted!r}")

    def fail(self, why: str) -> None:
        raise Failed(why)

    def packets(self) -> list[str]:
        """What was seen of both ways, but greetings and heartbeats: ["↑SEND", "↓ACK"]."""
        arrows = {UP: "↑", DOWN: "↓"}
        return [
            arrows[unit.way] + unit.packet.name
            for unit in self.relay.units
            if unit.packet is not None and unit.packet.command <= COM and not unit.is_greeting
        ]

    def note(self, text: str) -> None:
        with self.changed:
            self.transcript.append(f"{time.monotonic() - self._began:8.3f}  {text}")
            self.changed.notify_all()
