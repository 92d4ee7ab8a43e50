#!/usr/bin/env python3
"""A small client in plain Python, for the kit's own test: `reference.py [--fault NAME]`.

Without a fault it passes every scenario. Each fault of FAULTS is one mistake that an author of a client may make;
selftest.py says which scenarios must catch it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from kit.wire import (
    ACK,
    BINARY,
    CLOSE,
    COM,
    ID_MAX,
    PING,
    REC,
    REL,
    SEND,
    WS_PING,
    WS_PONG,
    Packet,
    Splitter,
    frame,
)

FAULTS = {
    "qos0-as-qos1": "QoS 0 goes out as QoS 1",
    "qos0-twice": "a QoS 0 message is handed on twice",
    "first-with-dup": "the first SEND has DUP already",
    "no-rel": "a QoS 2 send ends with REC",
    "no-ack": "QoS 1 messages are not answered",
    "no-com": "REL is not answered",
    "no-com-for-unknown": "REL of an id that is not known is not answered",
    "no-rel-for-unknown": "REC of an id that is not known is not answered",
    "no-reply": "ACK and REC are empty",
    "acks-at-once": "ACK and REC go out before the handler has ended",
    "type-of-8-bits": "the message type is cut to a byte",
    "text-only": "bodies are taken for UTF-8",
    "ascii-only": "bodies are taken for ASCII",
    "cut-to-64k": "bodies end after 65,536 bytes",
    "sends-unordered": "sends overtake one another",
    "handles-unordered": "messages overtake one another",
    "ids-to-65535": "after 65534 comes 65535",
    "no-repeat": "nothing is repeated",
    "repeats-as-new": "a repeat has an id of its own",
    "forgets-received": "a repeat is handed on again",
    "qos1-ids-for-ever": "the id of a QoS 1 message is taken for a repeat without DUP, too",
    "dup-is-repeat": "whatever has DUP is taken for a repeat",
    "no-timeout": "a send waits for ever",
    "loses-sends": "the end of a line takes with it what was unanswered",
    "new-ids": "on a session that goes on, unanswered sends get new ids",
    "forgets-session": "the end of a line takes with it which ids were received",
    "ignores-greeting": "whether the session goes on is not looked at",
    "needs-greeting": "without `rainbow.2` it waits for a greeting all the same",
    "strict-greeting": "a greeting must have the fields of today, and no others",
    "writes-early": "sends are written before the greeting",
    "loses-one": "every 251st message is lost",
    "comes-back": "no close code is final",
    "4503-final": "every code from 4500 is final",
    "old-codes": "1008 and 1013 are final",
    "keeps-old-ids": "the ids of a session that was dropped still count",
    "no-storage": "nothing outlives the program",
    "no-params": "query parameters are left out",
    "params-once": "query parameters are made once",
    "close-comes-back": "after `close` it connects again",
    "close-without-code": "`close` ends the line without a close frame",
    "gives-up": "an attempt that fails is the last one",
    "no-limit": "the greeting's limit is not looked at",
    "repeats-1009": "what was too large is sent again",
    "refusal-is-answer": "a refused message is taken for an answered one",
    "flag-always": "bit 0 counts without `rainbow.2`, too",
    "ignores-malformed": "what is no packet is passed over",
    "no-ping": "no PING, and no line is ever dead",
    "waits-for-ever": "no answer to the upgrade, and no greeting, is waited for without end",
    "impatient": "PONG must come within 0.3 s",
    "wall-repeats": "repeats are due by a clock that may be set back",
    "wall-heartbeat": "silence is measured by a clock that may be set back",
    "no-jitter": "the wait has no random part",
    "no-backoff": "the wait does not grow",
    "ignores-told": "when the server wants it back is not looked at",
    "reset-at-open": "a connection ends the row of failures at once",
    "never-reset": "nothing ends the row of failures",
    "status-not-seen": "HTTP 401 is a failure like any other",
}
HEARTBEAT_GRACE_S = 8
ANSWER_S = 10
TEXTUAL = {"text-only": "utf-8", "ascii-only": "ascii"}
fault = ""
clock_offset = 0.0


def told_wait(reason: str) -> float | None:
    """How many seconds the reason of a close wants us to wait."""
    told = re.search(r"(?:^|; )retry_after=([0-9]{1,9}(?:\.[0-9]{1,9})?)\Z", reason)
    return min(float(told[1]), 60) if told else None


def wall() -> float:
    return time.time() + clock_offset


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(eq=False)
class Send:
    tag: str
    type: int
    qos: int
    body: bytes
    done: Callable[[bytes | None, dict[str, Any]], None]
    id: int | None = None
    written: bool = False
    answer: Packet | None = None
    repeat: asyncio.TimerHandle | None = None
    deadline: asyncio.TimerHandle | None = None
    due: float = 0


class Ids:
    """What a session remembers. `received` has our replies, None while a message is being handled."""

    def __init__(self, file: Path | None, session: str | None, is_resumed: bool) -> None:
        self.file, self.session = (None if fault == "no-storage" else file), session
        self.last = 0
        self.held: list[int] = []
        self.received: dict[int, dict[int, bytes | None]] = {1: {}, 2: {}}
        kept = self._read() if is_resumed else None
        if kept is not None:
            self.last, self.held = kept["last"], kept["held"]
            self.received[2] = dict.fromkeys(kept["received"], b"")

    def next(self, in_use: Callable[[int], bool]) -> int:
        while True:
            self.last = self.last % (ID_MAX + (fault == "ids-to-65535")) + 1
            if not in_use(self.last) and self.last not in self.held:
                return self.last

    def save(self) -> None:
        if self.file is not None and self.session is not None:
            received = [number for number, reply in self.received[2].items() if reply is not None]
            kept = {"session": self.session, "last": self.last, "held": self.held, "received": received}
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(kept))
            new.replace(self.file)

    def _read(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            kept: dict[str, Any] = json.loads(self.file.read_text()) if self.file else {}
            return kept if kept.get("session") == self.session else None
        return None


class Client:
    def __init__(self, command: dict[str, Any]) -> None:
        self.url, self.device, self.params = command["url"], command["device"], command["params"]
        self.offers = command["session"]
        self.file = Path(command["storage"]) if command["storage"] else None
        options = command["options"]
        self.repeat, self.timeout = options["repeat"] / 1000, options["timeout"] / 1000
        self.backoff_min, self.backoff_max = options["backoff_min"] / 1000, options["backoff_max"] / 1000
        self.stable = options["stable"] / 1000
        self.is_open = self.greets = False
        self.task: asyncio.Task[None] | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.sends: list[Send] = []
        self.ids = Ids(None, None, False)
        self.opening: list[str] = []
        self.attempts = 0
        self.limit: int | None = None
        self.heartbeat: float | None = None
        self.heard_at = 0.0
        self.handled = 0
        self.queue: asyncio.Queue[tuple[Packet, Ids]] = asyncio.Queue()
        self.reply = b""
        self.held: asyncio.Event | None = None
        self.each: list[dict[str, str]] | None = None
        self.handling = asyncio.create_task(self.handle_all())

    # Commands.

    def open(self, tag: str) -> None:
        self.opening.append(tag)
        if self.task is None:
            self.task = asyncio.create_task(self.run())

    def close(self) -> None:
        task, self.task = self.task, None
        writer, self.writer = self.writer, None
        if task is not None:
            task.cancel()
        if writer is not None:
            if fault != "close-without-code":
                writer.write(frame(CLOSE, (1000).to_bytes(2, "big"), os.urandom(4)))
            writer.close()
        self.is_open = False
        self.end("closed")
        tell("closed", code=1000, reason="", retry=None)
        if fault == "close-comes-back":
            self.task = asyncio.create_task(self.run())

    def send(self, tag: str, type_: int, qos: int, body: bytes, timeout: float | None, done: Any = None) -> None:
        done = done or (lambda body, error: self.report(tag, body, error))
        if fault in TEXTUAL:
            body = body.decode(TEXTUAL[fault], "replace").encode()
        if fault == "cut-to-64k":
            body = body[:65536]
        if self.limit is not None and len(body) + (5 if qos else 3) > self.limit and fault != "no-limit":
            return done(None, {"code": "too_large"})
        if qos == 0 and fault == "qos0-as-qos1":
            qos = 1
        if qos == 0:
            if not self.is_open:
                return done(None, {"code": "closed"})
            self.write(Packet(SEND, None, body, type_))
            return done(b"", {})
        if self.task is None:
            return done(None, {"code": "closed"})
        entry = Send(tag, type_, qos, body, done)
        self.sends.append(entry)
        loop = asyncio.get_running_loop()
        seconds = self.timeout if timeout is None else timeout / 1000
        if fault != "no-timeout":
            entry.deadline = loop.call_later(seconds, self.time_out, entry)
        if self.is_open or (fault == "writes-early" and self.writer is not None):
            if fault == "sends-unordered":
                loop.call_later(random.random() / 10, self.transmit, entry)
            else:
                self.transmit(entry)

    def report(self, tag: str, body: bytes | None, error: dict[str, Any]) -> None:
        if body is not None:
            tell("acknowledged", tag=tag, body=to_text(body))
        else:
            tell("rejected", tag=tag, **error)

    # Out.

    def write(self, packet: Packet) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(frame(BINARY, packet.encode(), os.urandom(4)))

    def transmit(self, entry: Send) -> None:
        if entry.repeat is not None:
            entry.repeat.cancel()
        if fault != "no-repeat":
            entry.due = wall() + self.repeat
            entry.repeat = asyncio.get_running_loop().call_later(self.repeat, self.repeat_it, entry)
        if entry.id is None or (fault == "repeats-as-new" and entry.written and entry.answer is None):
            entry.id = self.ids.next(lambda number: any(other.id == number for other in self.sends))
            if entry.qos == 2:
                self.ids.held.append(entry.id)
            self.ids.save()
        if entry.answer is not None:
            return self.write(Packet(REL, entry.id))
        dup = (entry.written and fault != "repeats-as-new") or fault == "first-with-dup"
        type_ = entry.type & 0xFF if fault == "type-of-8-bits" else entry.type
        entry.written = True
        self.write(Packet(SEND, entry.id, entry.body, type_, entry.qos, dup))

    def repeat_it(self, entry: Send) -> None:
        if fault == "wall-repeats" and wall() < entry.due - 60:
            entry.repeat = asyncio.get_running_loop().call_later(self.repeat, self.repeat_it, entry)
        else:
            self.transmit(entry)

    def time_out(self, entry: Send) -> None:
        if entry.answer is not None:
            self.settle(entry)
        else:
            self.forget(entry)
            entry.done(None, {"code": "timeout"})

    def forget(self, entry: Send) -> None:
        for timer in (entry.repeat, entry.deadline):
            if timer is not None:
                timer.cancel()
        if entry in self.sends:
            self.sends.remove(entry)

    def settle(self, entry: Send) -> None:
        self.forget(entry)
        answer = entry.answer
        assert answer is not None
        counts = self.greets or fault == "flag-always"
        if answer.flag and counts and fault != "refusal-is-answer":
            status = int.from_bytes(answer.body[:2], "big")
            entry.done(None, {"code": "refused", "status": status, "body": to_text(answer.body[2:])})
        else:
            entry.done(answer.body, {})

    # In.

    def on_packet(self, packet: Packet) -> None:
        if self.greets and not self.is_open:
            return self.on_greeting(packet)
        if packet.command == SEND:
            self.on_message(packet)
        elif packet.command == REL:
            known = self.ids.received[2].pop(packet.id or 0, None) is not None
            self.ids.save()
            if fault != "no-com" and (known or fault != "no-com-for-unknown"):
                self.write(Packet(COM, packet.id))
        elif packet.command in (ACK, REC, COM):
            self.on_answer(packet)

    def on_answer(self, packet: Packet) -> None:
        entry = next((one for one in self.sends if one.id == packet.id), None)
        if packet.command == ACK and entry is not None and entry.qos == 1:
            entry.answer = packet
            self.settle(entry)
        elif packet.command == REC and entry is not None and entry.qos == 2:
            entry.answer = entry.answer or packet
            if fault == "no-rel":
                return self.settle(entry)
            self.transmit(entry)
        elif packet.command == REC and fault != "no-rel-for-unknown":
            self.write(Packet(REL, packet.id))
        elif packet.command == COM:
            if packet.id in self.ids.held:
                self.ids.held.remove(packet.id)
                self.ids.save()
            if entry is not None and entry.answer is not None:
                self.settle(entry)

    def on_message(self, packet: Packet) -> None:
        if packet.id is None:
            for _ in range(2 if fault == "qos0-twice" else 1):
                self.queue.put_nowait((packet, self.ids))
            return
        received = self.ids.received[packet.qos]
        reply = received.get(packet.id)
        is_repeat = packet.id in received and (
            packet.qos == 2 or packet.dup or reply is None or fault == "qos1-ids-for-ever"
        )
        if fault == "dup-is-repeat" and packet.dup:
            is_repeat, reply = True, reply or b""
        if is_repeat and fault != "forgets-received":
            if reply is not None:
                self.answer(packet, reply)
            return
        received[packet.id] = None
        if fault == "acks-at-once":
            self.finish(packet, self.ids, self.reply)
        self.queue.put_nowait((packet, self.ids))

    async def handle_all(self) -> None:
        while True:
            packet, ids = await self.queue.get()
            if fault == "handles-unordered":
                asyncio.get_running_loop().call_later(random.random() / 10, self.hand_on, packet)
            elif fault != "loses-one" or (self.handled + 1) % 251:
                self.hand_on(packet)
            self.handled += 1
            if self.held is not None:
                await self.held.wait()
            if packet.id is not None and fault != "acks-at-once":
                self.finish(packet, ids, self.reply)

    def hand_on(self, packet: Packet) -> None:
        body = packet.body.decode(TEXTUAL[fault], "replace").encode() if fault in TEXTUAL else packet.body
        body = body[:65536] if fault == "cut-to-64k" else body
        tell("message", type=packet.type, qos=packet.qos, id=packet.id, dup=packet.dup, body=to_text(body))

    def finish(self, packet: Packet, ids: Ids, reply: bytes) -> None:
        if ids is self.ids and packet.id in ids.received[packet.qos]:
            ids.received[packet.qos][packet.id] = reply
            ids.save()
            self.answer(packet, reply)

    def answer(self, packet: Packet, reply: bytes) -> None:
        if self.is_open and not (fault == "no-ack" and packet.qos == 1):
            self.write(Packet(ACK if packet.qos == 1 else REC, packet.id, b"" if fault == "no-reply" else reply))

    # The connection.

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            self.is_open = False
            code, reason = await self.attempt()
            opened, self.is_open, self.writer = self.is_open, False, None
            for entry in self.sends:
                if entry.repeat is not None:
                    entry.repeat.cancel()
            if fault == "loses-sends" and opened:
                for entry in list(self.sends):
                    self.forget(entry)
            lasted = opened and time.monotonic() - began >= self.stable
            if (lasted or (opened and fault == "reset-at-open")) and fault != "never-reset":
                self.attempts = 0
            if code == 1009 and fault != "repeats-1009":
                self.reject_largest()
            if self.is_final(code, opened):
                self.task = None
                self.end("refused" if code == 4401 else "closed", reason)
                return tell("closed", code=code, reason=reason, retry=None)
            told = None if fault == "ignores-told" else told_wait(reason)
            wait = self.wait() if told is None else told
            tell("closed", code=code, reason=reason, retry=round(wait * 1000))
            await asyncio.sleep(wait)

    def is_final(self, code: int, opened: bool) -> bool:
        if fault == "gives-up" and not opened:
            return True
        if fault == "comes-back":
            return False
        is_final = code in (4401, 4409) or (4500 <= code <= 4999 and (code != 4503 or fault == "4503-final"))
        return is_final or (fault == "old-codes" and code in (1008, 1013))

    def wait(self) -> float:
        longest = min(self.backoff_max, self.backoff_min * 2**self.attempts)
        if fault != "no-backoff":
            self.attempts = min(self.attempts + 1, 30)
        return longest * (1 if fault == "no-jitter" else random.random())

    async def attempt(self) -> tuple[int, str]:
        parts = urlsplit(self.url)
        limit = None if fault == "waits-for-ever" else ANSWER_S
        try:
            reader, self_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError as error:
            return 1006, str(error)
        try:
            self.writer = self_writer
            self_writer.write(self.request(parts))
            return await self.read(reader, limit)
        except (OSError, asyncio.TimeoutError) as error:
            return 1006, str(error)
        except ValueError as error:
            return 4002, str(error)
        finally:
            self_writer.close()

    def request(self, parts: Any) -> bytes:
        if self.each is not None:
            self.params = self.each[0] if fault == "params-once" else self.each.pop(0)
        params = {} if fault == "no-params" else self.params
        query = urlencode({**params, "X-DEVICEID": self.device, "X-CLIENT-OS": "reference"})
        lines = [
            f"GET {parts.path}?{query} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(["Sec-WebSocket-Protocol: rainbow.2"] if self.offers else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def read(self, reader: asyncio.StreamReader, limit: float | None) -> tuple[int, str]:
        splitter, watch = Splitter(), None
        until = None if limit is None else time.monotonic() + limit
        try:
            while True:
                left = None if self.is_open or until is None else max(until - time.monotonic(), 0)
                data = await asyncio.wait_for(reader.read(262144), left)
                if not data:
                    return 1006, ""
                self.heard_at = wall()
                for raw, opcode, payload in splitter.feed(data):
                    ended = self.on_frame(raw, opcode, payload)
                    if ended is not None:
                        return ended
                    if self.is_open and watch is None:
                        watch = asyncio.create_task(self.watch())
        finally:
            if watch is not None:
                watch.cancel()

    def on_frame(self, raw: bytes, opcode: int | None, payload: bytes) -> tuple[int, str] | None:
        if opcode is None:
            return self.on_head(raw)
        if opcode == CLOSE:
            assert self.writer is not None
            self.writer.write(frame(CLOSE, payload[:2], os.urandom(4)))
            return int.from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode()
        if opcode == WS_PING:
            assert self.writer is not None
            self.writer.write(frame(WS_PONG, payload, os.urandom(4)))
        elif opcode == BINARY:
            packet = Packet.decode(payload)
            if packet is not None and packet.flag and self.greets and len(packet.body) < 2:
                packet = None
            if packet is not None:
                self.on_packet(packet)
            elif fault != "ignores-malformed":
                raise ValueError("malformed packet")
        return None

    def on_head(self, head: bytes) -> tuple[int, str] | None:
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            is_refused = status in (401, 403) and fault != "status-not-seen"
            return (4401 if is_refused else 1006), f"HTTP {status}"
        self.greets = b"sec-websocket-protocol: rainbow.2" in head.lower() or fault == "needs-greeting"
        if fault == "writes-early":
            for entry in self.sends:
                self.transmit(entry)
        if not self.greets:
            self.go_on({"session": None, "resumed": False, "waiting": 0})
        return None

    def on_greeting(self, packet: Packet) -> None:
        greeting = json.loads(packet.body)
        known = {"session", "session_id", "resumed", "waiting", "identity", "heartbeat", "message_bytes_max"}
        if fault == "strict-greeting" and set(greeting) != known:
            raise ValueError("bad greeting")
        if fault == "ignores-greeting":
            greeting = {**greeting, "session": None, "resumed": False}
        self.limit, self.heartbeat = greeting.get("message_bytes_max"), greeting.get("heartbeat")
        self.go_on(greeting)

    def go_on(self, greeting: dict[str, Any]) -> None:
        self.is_open = True
        resumed = greeting["resumed"] and greeting["session"] is not None
        key = greeting["session"] and f"{greeting['session']} {greeting.get('session_id')}"
        if not resumed or fault == "new-ids":
            for entry in list(self.sends):
                if entry.answer is not None:
                    self.settle(entry)
                entry.id, entry.written = None, False
        keeps = fault == "keeps-old-ids" and self.ids.session is not None
        if (not resumed or self.ids.session != key or fault == "forgets-session") and not keeps:
            last = self.ids.last
            self.ids = Ids(self.file, key, bool(resumed))
            if not resumed and fault != "no-storage":
                self.ids.last = last
            elif fault == "forgets-session":
                self.ids.last, self.ids.received = last, {1: {}, 2: {}}
            self.ids.save()
        if resumed:
            for number, reply in self.ids.received[2].items():
                if reply is not None:
                    self.write(Packet(REC, number, reply))
            for number in self.ids.held:
                if not any(entry.id == number for entry in self.sends):
                    self.write(Packet(REL, number))
        for entry in list(self.sends):
            self.transmit(entry)
        tell("opened", session=greeting["session"], resumed=bool(resumed), waiting=greeting["waiting"])
        for tag in self.opening:
            tell("acknowledged", tag=tag, body="")
        self.opening.clear()

    async def watch(self) -> None:
        asked: float | None = None
        while self.heartbeat is not None and fault != "no-ping":
            await asyncio.sleep(0.1)
            if fault != "wall-heartbeat" and wall() < self.heard_at:
                self.heard_at = wall()
            silence = wall() - self.heard_at
            if silence < self.heartbeat:
                asked = None
            elif asked is None:
                asked = time.monotonic()
                self.write(Packet(PING))
            elif time.monotonic() - asked > (0.3 if fault == "impatient" else HEARTBEAT_GRACE_S):
                assert self.writer is not None
                self.writer.transport.abort()
                return

    def reject_largest(self) -> None:
        written = [entry for entry in self.sends if entry.written and entry.answer is None]
        if written:
            largest = max(written, key=lambda entry: len(entry.body))
            self.forget(largest)
            largest.done(None, {"code": "too_large"})

    def end(self, code: str, reason: str = "") -> None:
        for entry in list(self.sends):
            if entry.answer is not None:
                self.settle(entry)
            else:
                self.forget(entry)
                entry.done(None, {"code": code, "reason": reason})
        for tag in self.opening:
            tell("rejected", tag=tag, code=code, reason=reason)
        self.opening.clear()
        self.attempts = 0


async def flood(client: Client, command: dict[str, Any]) -> None:
    room = asyncio.Semaphore(command["window"])

    for _ in range(command["count"]):
        await room.acquire()
        client.send("", command["type"], command["qos"], b"", None, lambda body, error: room.release())
    for _ in range(command["window"]):
        await room.acquire()
    tell("acknowledged", tag=command["tag"], body="")


class Program:
    """Commands before the first `open` are for the client that it makes."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.each: list[dict[str, str]] | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def do(self, command: dict[str, Any]) -> None:
        global clock_offset
        name, client = command["do"], self.client
        if name == "open":
            if client is None:
                client = self.client = Client(command)
                client.each = self.each
            return client.open(command["tag"])
        if name == "params":
            self.each = command["each"]
        elif name == "clock":
            clock_offset += command["add"] / 1000
        elif client is not None:
            done = self.do_with(client, name, command)
            if not done:
                return None
        return tell("done", command=name)

    def do_with(self, client: Client, name: str, command: dict[str, Any]) -> bool:
        """Whether it is to be confirmed."""
        match name:
            case "send":
                body = base64.b64decode(command["body"])
                client.send(command["tag"], command["type"], command["qos"], body, command.get("timeout"))
            case "close":
                client.close()
            case "flood":
                self.tasks.append(asyncio.create_task(flood(client, command)))
            case "reply":
                client.reply = command["text"].encode()
            case "hold":
                client.held = asyncio.Event()
            case "release":
                assert client.held is not None
                client.held.set()
                client.held = None
        return name in ("reply", "hold", "release", "sync")


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    program = Program()
    while line := await reader.readline():
        program.do(json.loads(line))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fault"]:
        fault = sys.argv[2]
        assert fault in FAULTS, fault
    asyncio.run(main())
