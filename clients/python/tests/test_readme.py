"""What README.md tells its reader to type, typed: each framework as a process of its own behind the real server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from rainbow import Hook, Hooks, Rainbow
from rainbow.client import Client
from rainbow.testing import FakeRainbow
from tests.server import DEADLINE_S, TOKEN, free_port, needs_server, process, rainbow_server, wsgi_server

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(heading: str) -> list[str]:
    """The Python of a section."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found


@contextmanager
def business(
    directory: Path, command: list[str], port: int, rainbow_port: int, hooks: str, begun: str
) -> Iterator[str]:
    """Runs a business server in a directory, and Rainbow before it; yields Rainbow's URL."""
    for file in directory.rglob("*.py"):
        text = file.read_text().replace("8000", str(port)).replace("1984", str(rainbow_port))
        file.write_text(text)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    environ["PYTHONUNBUFFERED"] = "1"
    with process(command, environ, directory) as wait_for:
        wait_for(re.compile(begun))
        with rainbow_server(f"http://127.0.0.1:{port}/{hooks}", port=rainbow_port) as url:
            yield url


def talk(url: str, directory: Path) -> None:
    """A message both ways, by the README's client."""
    script = blocks("A client")[0].replace("127.0.0.1:1984", url.removeprefix("http://"))
    (directory / "bot.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "bot.py"], cwd=directory, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.stdout == "{'you said': {'text': 'hello'}} 2 {'text': 'hello'}\n", done.stderr


@needs_server
def test_django(tmp_path: Path) -> None:
    settings, urls, handlers = blocks("Django")
    run = {"cwd": tmp_path, "check": True, "timeout": DEADLINE_S, "capture_output": True}
    run["env"] = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", "."], **run)  # type: ignore[call-overload]
    subprocess.run([sys.executable, "manage.py", "startapp", "chat"], **run)  # type: ignore[call-overload]
    for name, text in (("mysite/settings.py", settings), ("mysite/urls.py", urls)):
        (tmp_path / name).write_text((tmp_path / name).read_text() + text)
    (tmp_path / "chat/rainbow.py").write_text(handlers)
    subprocess.run([sys.executable, "manage.py", "migrate"], **run)  # type: ignore[call-overload]
    port, rainbow_port = free_port(), free_port()
    command = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
    with business(tmp_path, command, port, rainbow_port, "rainbow/", "Starting .*development server") as url:
        talk(url, tmp_path)
        subprocess.run([sys.executable, "manage.py", "rainbow_check"], **run)  # type: ignore[call-overload]


@needs_server
def test_fastapi(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(blocks("FastAPI")[0])
    port, rainbow_port = free_port(), free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    with business(tmp_path, command, port, rainbow_port, "rainbow/", "Uvicorn running") as url:
        talk(url, tmp_path)


@needs_server
def test_wsgi(tmp_path: Path) -> None:
    code = blocks("Flask, and whatever else speaks WSGI")[0]
    (tmp_path / "business.py").write_text(code.replace("make_server(", 'print("begun") or make_server('))
    port, rainbow_port = free_port(), free_port()
    command = [sys.executable, "business.py"]
    # The line "begun" comes before the port is open; Rainbow asks again until it is.
    with business(tmp_path, command, port, rainbow_port, "", "begun") as url:
        _await_business(url)
        talk(url, tmp_path)


def _await_business(url: str) -> None:
    async def connect() -> None:
        client = Client(url, device_id="first", backoff_min=0.05, backoff_max=0.2)
        await client.open(DEADLINE_S)
        await client.close()

    asyncio.run(connect())


@needs_server
def test_calls() -> None:
    from rainbow import Hooks
    from tests.server import wsgi_server

    with wsgi_server(Hooks(token="testtoken").wsgi) as hooks, rainbow_server(hooks) as url:
        code = blocks("Calls")[0].replace("http://127.0.0.1:1984", url)
        # Without a store, the server takes no message_id, and says so.
        first, last = code.rsplit("\n", 2)[0], code.rsplit("\n", 2)[1]
        names: dict[str, object] = {}
        exec(first, names)
        with pytest.raises(Exception, match="store"):
            exec(last, names)
        assert isinstance(names["rainbow"], Rainbow)
        names["rainbow"].close()


def test_your_own_tests(rainbow_fake: FakeRainbow) -> None:
    names: dict[str, object] = {}
    exec(blocks("Flask, and whatever else speaks WSGI")[0].rsplit("make_server(", 1)[0], names)
    exec(blocks("Your own tests")[0], names)
    test = names["test_chat"]
    assert callable(test)
    test(rainbow_fake)
    names["server"].close()  # type: ignore[attr-defined]


@needs_server
def test_the_five_lines_of_all_clients(tmp_path: Path) -> None:
    """Those of clients/README.md, with this package's WSGI application behind the server."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    hooks = Hooks(token=TOKEN)

    @hooks.rainbow_connect
    def connect(request: Hook) -> None:
        request.rainbow.sub("room")

    @hooks.rainbow(1)
    def said(request: Hook) -> str:
        calls.submit(answer, request.data)
        return "welcome"

    def answer(data: object) -> None:
        with Rainbow(url, token=TOKEN) as server:
            server.send("room", {"hello": data}, qos=0)

    with ThreadPoolExecutor(1) as calls, wsgi_server(hooks.wsgi) as where, rainbow_server(where) as url:
        head, body = lines.split("\n\n")
        indented = "".join(f"    {line}\n" for line in body.splitlines())
        script = f"import asyncio\n{head}\nasync def main():\n{indented}\nasyncio.run(main())\n"
        (tmp_path / "five.py").write_text(script.replace("127.0.0.1:1984", url.removeprefix("http://")))
        done = subprocess.run(
            [sys.executable, "five.py"], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    assert done.stdout == "welcome\n{'hello': {'text': 'hello'}}\n", done.stderr
