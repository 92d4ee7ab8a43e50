"""The real server, business servers behind it, and a line that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

ROOT = Path(__file__).parents[3]
TOKEN = "testtoken"
DEADLINE_S = 30


@functools.cache
def binary() -> Path | None:
    named = os.environ.get("RAINBOW_SERVER")
    candidates = [Path(named)] if named else [ROOT / f"target/{kind}/rainbow-server" for kind in ("debug", "release")]
    return next((path for path in candidates if path.is_file()), None)


needs_server = pytest.mark.skipif(binary() is None, reason="rainbow-server was not found")


@contextlib.contextmanager
def rainbow_server(hooks: str, *, port: int = 0, store: str = "none", data: str = "", **keys: Any) -> Iterator[str]:
    """Runs the server until the end of the block; yields its HTTP URL. `hooks`: where connect/ and the rest hang."""
    path = binary()
    assert path is not None
    with tempfile.TemporaryDirectory(prefix="rainbow-python-") as directory:
        settings = {
            "listen": '"127.0.0.1"',
            "http_port": port,
            "workers": 1,
            "security_token": f'"{TOKEN}"',
            # Other tests' servers on this machine have the same token.
            "cluster": '"off"',
            "connect_url": f'"{hooks}connect/"',
            "forward_url": f'"{hooks}message/{{message_type}}/"',
            "close_url": f'"{hooks}close/"',
            "ack_timeout": '"300ms"',
            "shutdown_timeout": '"3s"',
            **keys,
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        text += f'[store]\nkind = "{store}"\ndata_dir = "{data or directory + "/data"}"\npatience = "300ms"\n'
        file = Path(directory) / "rainbow.toml"
        file.write_text(text)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAINBOW_")}
        with process([str(path), "-f", str(file)], environ) as wait_for:
            found = wait_for(re.compile(r"listening.*?listen=(\S+:\d+)"))
            yield f"http://{found.group(1)}"


@contextlib.contextmanager
def process(
    command: list[str], environ: dict[str, str], directory: Path = ROOT / "clients/python"
) -> Iterator[Callable[[re.Pattern[str]], re.Match[str]]]:
    """Runs a process; yields what waits for a line of its output."""
    process = subprocess.Popen(
        command, env=environ, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    heard = threading.Condition()

    def read(stream: Any) -> None:
        for line in stream:
            with heard:
                lines.append(re.sub(r"\x1b\[[0-9;]*m", "", line))
                heard.notify_all()
        with heard:
            lines.append("ended\n")
            heard.notify_all()

    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()

    def wait_for(pattern: re.Pattern[str]) -> re.Match[str]:
        def find() -> re.Match[str] | bool | None:
            found = next((match for line in lines if (match := pattern.search(line))), None)
            return found or (bool(lines) and lines[-1] == "ended\n") or None

        with heard:
            found = heard.wait_for(find, DEADLINE_S)
        assert isinstance(found, re.Match), "".join(lines)
        return found

    try:
        yield wait_for
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        reader.join(10)
        process.stdout.close()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def wsgi_server(app: Any) -> Iterator[str]:
    """A WSGI application over HTTP; yields its URL."""
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join(10)


@contextlib.contextmanager
def asgi_server(app: Any) -> Iterator[str]:
    """An ASGI application under uvicorn; yields its URL."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextlib.contextmanager
def django_server(rainbow_url: str, port: int) -> Iterator[str]:
    """The Django site under its own development server, as a process."""
    environ = {**os.environ, "DJANGO_RAINBOW": rainbow_url, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "django", "runserver", "--noreload", f"127.0.0.1:{port}"]
    with process(command, environ) as wait_for:
        wait_for(re.compile(r"Starting .*development server"))
        yield f"http://127.0.0.1:{port}/"


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Line:
    """A TCP line to the server that can be cut, or made silent."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._to = (host, int(port))
        self._pairs: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()
        #: Cuts the line after so many more reads in one direction, "up" or "down".
        self.cut_after: dict[str, int] = {}
        self.url = ""
        self.opened = 0

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/connect/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def cut(self) -> None:
        for pair in self._pairs:
            pair.cancel()

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told. Connections made later are whole."""
        self._silent |= self._pairs

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self.opened += 1
        there: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            there_reader, there = await asyncio.open_connection(*self._to)
            pumps = [
                asyncio.create_task(self._pump(task, reader, there, "up")),
                asyncio.create_task(self._pump(task, there_reader, writer, "down")),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._pairs.discard(task)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, line: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        while data := await reader.read(65536):
            if line in self._silent:
                await asyncio.Event().wait()
            if way in self.cut_after:
                self.cut_after[way] -= 1
                if self.cut_after[way] <= 0:
                    del self.cut_after[way]
                    return
            writer.write(data)
            await writer.drain()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for what other tasks bring about."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)
