#!/usr/bin/env python3
"""RBWStreamTransport against servers that break the protocol, names, and TLS; and README.md, as its reader types it.

Drives build/conformance, the program of the conformance kit. RAINBOW_BIN names a rainbow-server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "clients/conformance"))

from kit.business import Answer, Business  # noqa: E402
from kit.server import Server  # noqa: E402

DEADLINE_S = 20
GREETING = {"session": None, "resumed": False, "waiting": 0, "heartbeat": 20, "message_bytes_max": 1 << 20}
#: GNUstep puts a space behind the colon, and prints a dictionary in its own way.
HEARD = r'heard: \{"text": ?"hello"\}'
SAID = r"said\W+welcome"
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(first: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    if length < 126:
        return bytes([first, length]) + payload
    return bytes([first, 126]) + struct.pack(">H", length) + payload


def greeting() -> bytes:
    return b"\x10\xff\xff" + json.dumps(GREETING).encode()


def upgraded(request: str) -> bytes:
    """The answer that opens the line."""
    key = re.search(r"(?i)sec-websocket-key: (\S+)", request)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1((key[1] + MAGIC).encode()).digest()).decode()
    head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    head += [f"Sec-WebSocket-Accept: {accept}", "Sec-WebSocket-Protocol: rainbow.2", "", ""]
    return "\r\n".join(head).encode()


class Line:
    """A connection that a client made, answered with 101."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE_S)
        self.socket = connection
        self._buffer = b""
        self.request = self._until(b"\r\n\r\n").decode()

    def accept(self) -> Line:
        self.socket.sendall(upgraded(self.request))
        return self

    def read(self) -> tuple[int, bytes] | None:
        """A frame of the client's, which must be masked; None at the end."""
        try:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._exactly(2))
            assert second & 0x80, "not masked"
            mask = self._exactly(4)
            return first, bytes(byte ^ mask[at % 4] for at, byte in enumerate(self._exactly(length)))
        except (EOFError, ConnectionError):
            return None

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        data, _, self._buffer = self._buffer.partition(end)
        return data

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data


class Listener:
    """Each connection is served by a function on a thread."""

    def __init__(self, serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._serve, self._context = serve, context
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._serve(connection)
        except (OSError, EOFError):
            pass
        finally:
            connection.close()

    def close(self) -> None:
        self._socket.close()


class Program:
    """build/conformance, under the kit's commands."""

    def __init__(self, url: str, **environ: str) -> None:
        self._changed = threading.Condition()
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [HERE / "build/conformance"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environ}
        )
        threading.Thread(target=self._read, daemon=True).start()
        options = {"repeat": 300, "timeout": 5000, "backoff_min": 10, "backoff_max": 50, "stable": 1000}
        self.do("open", tag="open", url=url, device="d", session=True, storage=None, params={}, options=options)

    def do(self, name: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": name, **fields}).encode() + b"\n")
        self._process.stdin.flush()

    def expect(self, name: str, count: int = 1) -> dict[str, Any]:
        """The count-th event of that name."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if event["event"] == name]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self.has_ended(), DEADLINE_S)
        assert len(found()) >= count, f"no {name} ({self._process.poll()}): {self.events[-10:]}"
        return found()[count - 1]

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        self._process.wait()
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE_S)
        self._process.stdout.close()


class HostileServers(unittest.TestCase):
    def serve(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Program:
        listener = Listener(serve)
        self.addCleanup(listener.close)
        program = Program(f"ws://{host}:{listener.port}/connect/")
        self.addCleanup(program.end)
        return program

    def test_fragments_and_pings_between_them(self) -> None:
        pongs: list[tuple[int, bytes] | None] = []

        def serve(connection: socket.socket) -> None:
            line = Line(connection).accept()
            data = greeting()
            parts = [frame(0x02, data[:5]), frame(0x89, b"between"), frame(0x00), frame(0x80, data[5:])]
            for byte in b"".join(parts):
                connection.sendall(bytes([byte]))
            pongs.append(line.read())
            connection.sendall(frame(0x82, b"\x10\x00\x07" + b"x" * 60000))
            line.read()

        program = self.serve(serve)
        self.assertEqual(len(base64.b64decode(program.expect("message")["body"])), 60000)
        self.assertEqual(pongs, [(0x8A, b"between")])

    def test_a_name(self) -> None:
        """`localhost` is ::1 too on many machines, where the listener is not."""

        def serve(connection: socket.socket) -> None:
            line = Line(connection).accept()
            connection.sendall(frame(0x82, greeting()))
            line.read()

        self.serve(serve, "localhost").expect("opened")

    def test_a_name_that_is_not_known_and_a_port_where_nobody_is(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
        for host in ("no-such-host.invalid", "127.0.0.1", "[::1]"):
            program = Program(f"ws://{host}:{port}/connect/")
            self.addCleanup(program.end)
            closed = program.expect("closed", 3)
            self.assertEqual(closed["code"], 1006)
            self.assertIsNotNone(closed["retry"])

    def test_frames_that_are_not_allowed(self) -> None:
        broken = {
            "c200": 1002,
            "828000000000": 1002,
            "8300": 1002,
            "0900": 1002,
            "897e007e": 1002,
            "8000": 1002,
            "827e0001": 1002,
            "827f8000000000000000": 1002,
            "827f0000000100000000": 1009,
            "8102c0af": 1007,
            "88020000": 1002,
            "880403e8c0af": 1007,
        }
        left = list(broken)
        codes: dict[str, int] = {}

        def serve(connection: socket.socket) -> None:
            line = Line(connection).accept()
            connection.sendall(frame(0x82, greeting()))
            if not left:
                line.read()
                return
            data = left.pop(0)
            connection.sendall(bytes.fromhex(data))
            closing = line.read()
            assert closing is not None and closing[0] == 0x88
            codes[data] = int.from_bytes(closing[1][:2], "big")

        program = self.serve(serve)
        for count in range(1, len(broken) + 1):
            closed = program.expect("closed", count)
            self.assertEqual(closed["code"], 1006)
        program.expect("opened", len(broken) + 1)
        self.assertEqual(codes, broken)

    def test_what_is_no_answer(self) -> None:
        answers = [
            b"",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"\x00\xff" * 100 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 101 " + b"x" * 100000,
        ]
        left = list(answers)

        def serve(connection: socket.socket) -> None:
            line = Line(connection)
            if left:
                connection.sendall(left.pop(0))
                return
            line.accept()
            connection.sendall(frame(0x82, greeting()))
            line.read()

        program = self.serve(serve)
        program.expect("opened")
        self.assertEqual([event["code"] for event in program.events if event["event"] == "closed"], [1006] * len(answers))

    def test_ends_of_every_kind(self) -> None:
        def reset(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        kinds: list[tuple[Callable[[socket.socket], None], int]] = [
            (lambda connection: connection.sendall(frame(0x88, b"\x0f\xa0why")), 4000),
            (lambda connection: connection.sendall(frame(0x88)), 1005),
            (lambda connection: None, 1006),
            (reset, 1006),
            (lambda connection: connection.sendall(frame(0x82, b"x" * 100)[:50]), 1006),
        ]
        left = list(kinds)

        def serve(connection: socket.socket) -> None:
            line = Line(connection).accept()
            connection.sendall(frame(0x82, greeting()))
            if not left:
                line.read()
                return
            time.sleep(0.05)
            left.pop(0)[0](connection)

        program = self.serve(serve)
        for count, (_, code) in enumerate(kinds, 1):
            self.assertEqual(program.expect("closed", count)["code"], code)
        program.expect("opened", len(kinds) + 1)

    def test_noise_in_place_of_frames(self) -> None:
        rounds = 200

        def serve(connection: socket.socket) -> None:
            Line(connection).accept()
            connection.sendall(frame(0x82, greeting()) + os.urandom(300))
            connection.sendall(frame(0x82, os.urandom(20)))

        self.serve(serve).expect("closed", rounds)

    def test_a_server_that_asks_for_ever_and_reads_nothing(self) -> None:
        """Its pings are not all answered: what waits to be written has a bound."""
        ping = frame(0x89, b"p" * 125) * 100
        pings = 3000
        heard, read = threading.Event(), [0]
        done = threading.Event()

        def serve(connection: socket.socket) -> None:
            # Little fits in between.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            Line(connection).accept()
            connection.sendall(frame(0x82, greeting()))
            for _ in range(pings):
                connection.sendall(ping)
            connection.sendall(frame(0x82, b"\x10\x00\x07" + b"after"))
            heard.wait(DEADLINE_S)
            connection.settimeout(1)
            try:
                while data := connection.recv(1 << 16):
                    read[0] += len(data)
            except TimeoutError:
                done.set()
            heard.wait(DEADLINE_S)

        program = self.serve(serve)
        program.expect("message")
        heard.set()
        self.assertTrue(done.wait(DEADLINE_S))
        # The client's bound, and what the two kernels hold.
        self.assertLess(read[0], pings * len(ping) / 3)


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.certificate("localhost")

    @classmethod
    def certificate(cls, name: str) -> None:
        """Signed by itself, so it is its own authority."""
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=cls.folder, check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "localhost.pem", self.folder / "localhost.key")
        return context

    def listen(self) -> int:

        def serve(connection: socket.socket) -> None:
            line = Line(connection).accept()
            connection.sendall(frame(0x82, greeting()))
            connection.sendall(frame(0x82, b"\x10\x00\x07" + b"y" * 60000))
            while (got := line.read()) is not None:
                if got[0] == 0x82 and got[1][0] >> 4 == 1:
                    connection.sendall(frame(0x82, b"\x20" + got[1][3:5] + got[1][5:]))

        listener = Listener(serve, self.context())
        self.addCleanup(listener.close)
        return int(listener.port)

    def program(self, host: str, **environ: str) -> Program:
        program = Program(f"wss://{host}:{self.listen()}/connect/", **environ)
        self.addCleanup(program.end)
        return program

    def test_messages_both_ways(self) -> None:
        program = self.program("localhost", RBW_CA_FILE=str(self.folder / "localhost.pem"))
        program.expect("opened")
        self.assertEqual(len(base64.b64decode(program.expect("message")["body"])), 60000)
        body = base64.b64encode(b"z" * 50000).decode()
        program.do("send", tag="a", type=1, qos=1, body=body)
        # `open` is acknowledged first.
        self.assertEqual(program.expect("acknowledged", 2)["body"], body)

    def test_session_tickets_and_the_greeting_in_one_piece(self) -> None:
        """TLS's own messages come before the application's, and nothing comes after them that would wake the client."""
        context = self.context()

        def serve(connection: socket.socket) -> None:
            connection.settimeout(DEADLINE_S)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = context.wrap_bio(incoming, outgoing, server_side=True)

            def until(step: Callable[[], Any]) -> Any:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        # The tickets, which are the last to be made in a handshake, wait for more.
                        connection.sendall(outgoing.read())
                        incoming.write(connection.recv(1 << 16))

            until(session.do_handshake)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                try:
                    request += session.read(1 << 14)
                except ssl.SSLWantReadError:
                    incoming.write(connection.recv(1 << 16))
            session.write(upgraded(request.decode()))
            session.write(frame(0x82, greeting()))
            connection.sendall(outgoing.read())
            connection.recv(1)

        listener = Listener(serve)
        self.addCleanup(listener.close)
        trusted = str(self.folder / "localhost.pem")
        program = Program(f"wss://localhost:{listener.port}/connect/", RBW_CA_FILE=trusted)
        self.addCleanup(program.end)
        program.expect("opened")
        self.assertFalse([event for event in program.events if event["event"] == "closed"])

    def test_a_certificate_that_nobody_vouches_for(self) -> None:
        program = self.program("localhost")
        self.assertIn("NOT trusted", program.expect("closed", 2)["reason"])
        self.assertFalse([event for event in program.events if event["event"] == "opened"])

    def test_a_certificate_of_another_host(self) -> None:
        program = self.program("127.0.0.1", RBW_CA_FILE=str(self.folder / "localhost.pem"))
        self.assertIn("does not match", program.expect("closed", 2)["reason"])
        self.assertFalse([event for event in program.events if event["event"] == "opened"])


class Notes:
    """What the kit's servers need to know of the world."""

    def __init__(self) -> None:
        self.changed = threading.Condition()

    def note(self, text: str) -> None:
        with self.changed:
            self.changed.notify_all()


class Readme(unittest.TestCase):
    """From a fresh clone: install, the first program, a message both ways."""

    def test_the_first_program(self) -> None:
        text = (HERE / "README.md").read_text()
        code = re.search(r"```objc\n(#import.*?)```", text, re.DOTALL)
        assert code is not None
        self.try_program(code[1])

    def test_the_five_lines_beside_those_of_the_other_clients(self) -> None:
        text = (HERE.parent / "README.md").read_text()
        code = re.search(r"```objc\n(.*?)```", text, re.DOTALL)
        assert code is not None
        run = "[[NSRunLoop currentRunLoop] run];"
        self.try_program(f"#import <Rainbow/Rainbow.h>\nint main(void) {{ @autoreleasepool {{\n{code[1]}{run} }} }}\n")

    def try_program(self, code: str) -> None:
        """Typed as `hello.m` and built as the README says, it hears an answer and a message of the business server."""
        install = re.search(r"```sh\n(apt-get.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
        assert install is not None
        # What apt-get installs is here, or nothing would have been built.
        commands = [line for line in install[1].splitlines() if not line.startswith("apt-get")]
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        clone = Path(folder.name)
        shutil.copytree(HERE, clone / "clients/objc", ignore=shutil.ignore_patterns("build"))
        port = self.start_servers(clone)
        self.assertIn("127.0.0.1:1984", code)
        (clone / "hello.m").write_text(code.replace("127.0.0.1:1984", f"127.0.0.1:{port}"))
        subprocess.run(["sh", "-euc", "\n".join(commands)], cwd=clone, check=True, capture_output=True)
        printed = self.output_of(clone / "hello")
        self.assertRegex(printed, HEARD)
        self.assertRegex(printed, SAID)

    def start_servers(self, folder: Path) -> int:
        """A business server that answers each message, and sends one to everybody."""
        notes = Notes()
        business = Business(notes, with_session=True)
        self.addCleanup(business.close)
        server = Server(notes, binary(), folder, business.port, {"store": {"kind": "sqlite", "data_dir": "data"}})
        port = server.start()
        self.addCleanup(server.end)

        def answer(hook: Any) -> Answer:
            more = {"channel": "room", "msgtype": 2, "qos": 1, "timeout": 10}
            threading.Thread(target=server.call, args=("/send/", b'{"said": "welcome"}'), kwargs=more).start()
            return Answer(b"heard: " + hook.body)

        business.on_message = answer
        return port

    def output_of(self, path: Path) -> str:
        """Up to both lines that must come."""
        program = subprocess.Popen([path], stderr=subprocess.PIPE, text=True)
        watch = threading.Timer(DEADLINE_S, program.kill)
        watch.start()
        assert program.stderr is not None
        printed = ""
        for line in program.stderr:
            printed += line
            if re.search(HEARD, printed) and re.search(SAID, printed):
                break
        watch.cancel()
        program.kill()
        program.wait()
        program.stderr.close()
        return printed


def binary() -> Path:
    named = os.environ.get("RAINBOW_BIN")
    candidates = [Path(named)] if named else [ROOT / f"target/{kind}/rainbow-server" for kind in ("release", "debug")]
    found = next((path for path in candidates if path.is_file()), None)
    assert found is not None, "no rainbow-server: cargo build, or name it by RAINBOW_BIN"
    return found


if __name__ == "__main__":
    unittest.main()
