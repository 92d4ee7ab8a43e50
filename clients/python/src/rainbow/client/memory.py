"""What a client remembers of one session: ids in use, in both directions. A storage makes it survive the process."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..packet import ID_MAX


class Storage(Protocol):
    """Where a session's ids are kept. `save` returns when they are safe."""

    def load(self) -> str | None: ...
    def save(self, text: str) -> None: ...


class FileStorage:
    """A file of its own for each client: `FileStorage("bot.rainbow")`. Written anew and renamed, so never half."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> str | None:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def save(self, text: str) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


class Memory:
    """`received[qos]` maps the server's ids to our answer, None while it is being made."""

    def __init__(self, session: str | None, storage: Storage | None, last_id: int) -> None:
        #: Names the session that the ids belong to.
        self.session = session
        self.last_id = last_id
        #: Ids of our QoS 2 messages that the server may hold until it hears REL.
        self.held: dict[int, None] = {}
        self.received: dict[int, dict[int, bytes | None]] = {1: {}, 2: {}}
        self._storage = storage if session is not None else None
        self._reserved_id = last_id

    @classmethod
    def restored(cls, session: str, storage: Storage | None, random: Callable[[], float]) -> Memory:
        """For a session that goes on, with what is known of it here."""
        kept = _read(storage, session)
        # Of a session that is not known here any id may be in use; two lives that begin at 1 would meet at once.
        memory = cls(session, storage, kept["last"] if kept else int(random() * ID_MAX))
        if kept:
            memory.held = dict.fromkeys(kept["held"])
            # Replies are not kept: a repeat after a restart is answered with an empty one.
            memory.received = {
                1: dict.fromkeys(kept["answered"], b""),
                2: dict.fromkeys(kept["received"], b""),
            }
        return memory

    def take_id(self, is_pending: Callable[[int], bool]) -> int:
        """The next id that is free on both sides."""
        while True:
            self.last_id = self.last_id % ID_MAX + 1
            if self.last_id == self._reserved_id or self._reserved_id == 0:
                self._reserve()
            if not is_pending(self.last_id) and self.last_id not in self.held:
                return self.last_id

    def hold(self, message_id: int, is_pending: Callable[[int], bool]) -> None:
        self.held[message_id] = None
        for old in list(self.held):
            if len(self.held) <= HELD_MAX:
                break
            if not is_pending(old):
                del self.held[old]
        self.save()

    def let_go(self, message_id: int) -> None:
        if message_id in self.held:
            del self.held[message_id]
            self.save()

    def forget_old_answers(self) -> None:
        answers = self.received[1]
        for old in [message_id for message_id, reply in answers.items() if reply is not None]:
            if len(answers) <= ANSWERS_MAX:
                return
            del answers[old]

    def save(self) -> None:
        if self._storage is None:
            return
        done = {
            qos: [message_id for message_id, reply in ids.items() if reply is not None]
            for qos, ids in self.received.items()
        }
        last = self._reserved_id
        kept = {"session": self.session, "last": last, "held": list(self.held), "received": done[2]}
        self._storage.save(json.dumps({**kept, "answered": done[1][-ANSWERS_KEPT:]}))

    def begin(self) -> None:
        """Writes down that this session is ours, before any of its ids is used."""
        self._reserve()

    def _reserve(self) -> None:
        """Ids are reserved in blocks, so that not every send is a write."""
        self._reserved_id = (self.last_id + ID_BLOCK - 1) % ID_MAX + 1
        self.save()


def _read(storage: Storage | None, session: str) -> dict[str, Any] | None:
    try:
        kept = json.loads((storage and storage.load()) or "null")
    except ValueError:
        return None
    if not isinstance(kept, dict) or kept.get("session") != session or not _is_id(kept.get("last")):
        return None
    lists = [kept.get(name) for name in ("held", "answered", "received")]
    return kept if all(isinstance(ids, list) and all(map(_is_id, ids)) for ids in lists) else None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= ID_MAX


#: Answers to QoS 1 messages that are kept for repeats: far fewer than ids, so that an id's next use is none.
ANSWERS_MAX = 1024
ANSWERS_KEPT = 256
HELD_MAX = 1024
ID_BLOCK = 256
