"""The client program under test: a process that takes commands and gives events, a line of JSON each (README.md)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World

#: Short times, so that scenarios are short. Milliseconds.
OPTIONS = {"repeat": 300, "timeout": 15_000, "backoff_min": 20, "backoff_max": 200, "stable": 1_000}


@dataclass(frozen=True)
class Event:
    name: str
    fields: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def body(self) -> bytes:
        return base64.b64decode(self.fields.get("body") or "")

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)


class Client:
    def __init__(self, world: World, command: list[str], device: str, storage: Path | None) -> None:
        self._world = world
        self.device, self.storage = device, storage
        self.events: list[Event] = []
        self.ended = False
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    # Commands.

    def do(self, command: str, **fields: Any) -> None:
        line = json.dumps({"do": command, **fields})
        self._world.note(f"{self.device:<6} {line[:160]}")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def set(self, command: str, **fields: Any) -> None:
        """A command that changes how the program behaves from now on: it says when that is so."""
        count = len(self.all("done", command=command)) + 1
        self.do(command, **fields)
        self.expect("done", count, command=command)

    def open(self, tag: str = "open", params: dict[str, str] | None = None, **options: Any) -> Client:
        self.do(
            "open",
            tag=tag,
            url=self._world.relay.url,
            device=self.device,
            session=not self._world.relay.plain,
            storage=str(self.storage) if self.storage else None,
            params=params or {},
            options={**OPTIONS, **options},
        )
        return self

    def send(self, tag: str, body: bytes | str, type: int = 1, qos: int = 1, timeout: int | None = None) -> None:
        data = base64.b64encode(body.encode() if isinstance(body, str) else body).decode()
        more = {} if timeout is None else {"timeout": timeout}
        self.do("send", tag=tag, type=type, qos=qos, body=data, **more)

    def close(self) -> None:
        self.do("close")

    # Events.

    def all(self, name: str, **fields: Any) -> list[Event]:
        return [
            event
            for event in self.events
            if event.name == name and all(event.fields.get(key) == value for key, value in fields.items())
        ]

    def expect(self, name: str, count: int = 1, within: float | None = None, **fields: Any) -> Event:
        """The count-th event of that name, with these fields, since the beginning."""
        what = f"{self.device}: {count} × {name} {fields or ''}".strip()
        self._world.until(what, lambda: len(self.all(name, **fields)) >= count or self.ended, within)
        found = self.all(name, **fields)
        if len(found) < count:
            self._world.fail(f"the client program has ended before: {what}")
        return found[count - 1]

    def acknowledged(self, tag: str, within: float | None = None) -> bytes:
        """The answer to a send; its rejection fails the scenario at once."""
        self._world.until(
            f"{self.device}: {tag} is acknowledged",
            lambda: self.all("acknowledged", tag=tag) or self.all("rejected", tag=tag) or self.ended,
            within,
        )
        if not self.all("acknowledged", tag=tag):
            self._world.fail(f"{tag} is not acknowledged: {[event.fields for event in self.all('rejected', tag=tag)]}")
        return self.all("acknowledged", tag=tag)[0].body

    def opened(self, count: int = 1, within: float | None = None) -> Event:
        return self.expect("opened", count, within)

    def heard(self, **fields: Any) -> list[bytes]:
        """Bodies of all messages that were handed on before now."""
        if self._process.poll() is None:
            self.set("sync")
        else:
            self._world.until(f"{self.device}: the last events", lambda: self.ended)
        return self.bodies(**fields)

    def bodies(self, **fields: Any) -> list[bytes]:
        """Of the messages whose events have come."""
        return [event.body for event in self.all("message", **fields)]

    # The process.

    def signal(self, number: signal.Signals) -> None:
        self._world.note(f"{self.device:<6} {number.name}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """No farewell: what it had in memory is lost."""
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                fields = json.loads(line)
                event = Event(fields.pop("event"), fields)
            except (ValueError, KeyError, AttributeError):
                self._world.note(f"{self.device:<6} not an event: {line[:200]!r}")
                continue
            with self._world.changed:
                self.events.append(event)
            shown = {name: value for name, value in fields.items() if name != "body"}
            body = f" {event.body[:60]!r}" if "body" in fields else ""
            self._world.note(f"{self.device:<6} → {event.name} {json.dumps(shown)}{body}")
        with self._world.changed:
            self.ended = True
            self._world.changed.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._world.note(f"{self.device:<6} stderr: {line.decode(errors='replace').rstrip()[:300]}")
