"""Keeps src/io/api/openapi.json true: tests/openapi/check.py SERVER

Validates the description that the server serves, judges scripted calls and the hooks that they cause by it, then lets
schemathesis make calls of its own (without chance, one worker, SECONDS at most for each of two configurations). Needs
what requirements.txt beside it names. Called by tests/run.sh.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jsonschema
from openapi_spec_validator import validate

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "clients/python/src"))
from rainbow.client import Client  # noqa: E402

ADMIN = {"Authorization": "Bearer openapi-admin-token"}
SECONDS = 15
DEADLINE_S = 20
#: As in 2014 every GET may be a POST, a refusal has status 200, and numbers that a page cannot read are its defaults.
UNCHECKED = (
    "unsupported_method,allow_header_conformance,ignored_auth,positive_data_acceptance,negative_data_rejection,"
    "missing_required_header"
)
#: What HTTP itself brings, and what a client sent.
PLAIN_HEADERS = {"host", "connection", "content-length", "content-type", "accept", "accept-encoding", "user-agent"}
SIGNED = {"timestamp", "nonce", "signature"}


class Business:
    """Lets everyone in, into `room`, and keeps what Rainbow asked."""

    def __init__(self) -> None:
        self.hooks: queue.Queue[tuple[str, str, str, dict[str, str]]] = queue.Queue()
        business = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                business.hooks.put((self.command, path.split("/")[1], query, headers))
                body = b'{"status": "success"}'
                self.send_response(200)
                if path == "/connect/":
                    self.send_header("RAINBOWCLIENTCHANNEL", "room")
                    self.send_header("RAINBOWCLIENTCOOKIE", "e30=")
                    if headers.get("x-deviceid") == "ann":
                        self.send_header("RAINBOWCLIENTSESSION", "ann")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextlib.contextmanager
def rainbow(binary: str, business: Business, strict: bool) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rainbow-openapi-") as work:
        file = Path(work) / "rainbow.toml"
        file.write_text(
            f'listen = "127.0.0.1"\nhttp_port = 0\nworkers = 1\nsecurity_token = "testtoken"\ncluster = "off"\n'
            f'admin_token = "openapi-admin-token"\nstrict_status = {str(strict).lower()}\n'
            f'connect_url = "{business.url}/connect/"\nforward_url = "{business.url}/message/{{message_type}}/"\n'
            f'close_url = "{business.url}/close/"\n[store]\nkind = "sqlite"\ndata_dir = "{work}/data"\n'
            'patience = "200ms"\n'
        )
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAINBOW_")}
        pipes: dict[str, Any] = {"stderr": subprocess.STDOUT, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([binary, "-f", file], env=environ, **pipes)
        try:
            told = ""
            for line in process.stdout or ():
                told += re.sub(r"\x1b\[[0-9;]*m", "", line)
                if found := re.search(r"listening.*?listen=(\S+:\d+)", told):
                    break
            else:
                sys.exit(f"the server has ended:\n{told}")
            threading.Thread(target=lambda: [None for _ in process.stdout or ()], daemon=True).start()
            yield f"http://{found[1]}"
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


class Judge:
    """Judges answers and hooks by the description."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.judged = 0

    def schema(self, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "components": self.description["components"]}
        jsonschema.Draft202012Validator(whole).validate(value)
        self.judged += 1

    def answer(self, method: str, path: str, response: httpx.Response, name: str) -> Any:
        """An answer of that status, and by that name among those that it may be."""
        answers = self.description["paths"][path][method]["responses"]
        answer = answers[str(response.status_code)]
        if "$ref" in answer:
            answer = self.description["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        content = answer["content"][response.headers["content-type"].partition(";")[0]]
        self.schema(content["schema"], response.json())
        self.schema({"$ref": f"#/components/schemas/{name}"}, response.json())
        return response.json()

    def hook(self, name: str, method: str, query: str, headers: dict[str, str], of_client: set[str]) -> None:
        hook = self.description["webhooks"][name][method.lower()]
        parameters = {entry["name"].lower(): entry for entry in hook["parameters"]}
        for header, value in headers.items():
            if header not in PLAIN_HEADERS | of_client:
                assert header in parameters, f"{name} has an undescribed header {header}"
                schema = parameters[header]["schema"]
                self.schema(schema, int(value) if schema.get("type") == "integer" else value)
        for header, entry in parameters.items():
            assert header in headers or not entry.get("required"), f"{name} lacks {header}"
        names = {pair.partition("=")[0] for pair in query.split("&")}
        assert names >= SIGNED, f"{name} is not signed: {query}"


async def scripted(url: str, judge: Judge, business: Business) -> None:
    """Each call with an answer that is no refusal, one that is, and each hook."""
    async with httpx.AsyncClient(base_url=url, headers=ADMIN, timeout=DEADLINE_S) as http:

        async def call(method: str, path: str, name: str, **request: Any) -> Any:
            return judge.answer(method, path, await http.request(method, path, **request), name)

        ann = Client(url.replace("http", "ws") + "/connect/", device_id="ann", os="test")
        bob = Client(url.replace("http", "ws") + "/connect/", device_id="bob", os="test")
        for client in (ann, bob):
            client.on("message", lambda message: {"heard": message.text})
            await client.open(DEADLINE_S)
        await bob.send(7, {"n": 1}, qos=2)
        sent = await call("post", "/send/", "Sent", params={"channel": "room", "qos": 1}, content=b"x")
        assert sent["connections"] == sent["targets"] == 2, sent
        to_ann = {"session": "ann", "message_id": "1", "wait": "stored"}
        await call("post", "/send/", "Sent", params=to_ann, content=b"x")
        await call("post", "/send/", "Refusal", params={"qso": 1})
        await call("post", "/broadcast/", "Sent", params={"channels": "room;;other"}, content=b"\0\xff")
        found = await call("get", "/channel/", "Channel", params={"channel": "room"})
        await call("get", "/channel/", "LargestChannels")
        state = await call("get", "/session/", "Session", params={"session": "ann"})
        await call("get", "/channel/", "LargestChannels", params={"find": "oo"})
        listed = await call("get", "/sessions/", "Sessions", params={"state": "online", "order": "oldest", "find": "an"})
        assert [one["session"] for one in listed["sessions"]] == ["ann"], listed
        await call("get", "/sessions/", "Refusal", params={"state": "gone"})
        await call("get", "/connection/", "Connection", params={"identity": state["identity"]})
        await call("get", "/connection/", "Refusal", params={"identity": "0" * 64})
        identity = next(name for name in found["identities"] if name != state["identity"])
        await call("post", "/sub/", "Done", json={"identity": identity, "channel": "late", "occupy": 1})
        await call("post", "/unsub/", "Done", json={"session": "ann", "channel": "late"})
        await call("post", "/sub/", "Refusal", json={"identity": "0" * 64, "channel": "late"})
        await call("post", "/sub/", "Refusal", content=b"[]")
        await call("post", "/kick/", "Kicked", json={"identity": identity, "reason": "bye"})
        await ann.close()
        await call("post", "/session/drop/", "Done", params={"session": "ann"})
        await call("get", "/session/", "Refusal", params={"session": "ann"})
        await call("get", "/info/", "Info")
        await call("get", "/info/", "Info", params={"brief": 1})
        await call("get", "/info/history/", "History", params={"span": "day"})
        await call("get", "/info/history/", "Refusal", params={"span": "year"})
        await call("post", "/updateconfig/", "Reloaded", params={"dry_run": 1})
        await call("post", "/updateconfig/", "Reloaded")
        await bob.close()
    seen: set[str] = set()
    while seen != {"connect", "message", "close"}:
        method, name, query, headers = await asyncio.to_thread(business.hooks.get, timeout=DEADLINE_S)
        judge.hook(name, method, query, headers, {"sec-websocket-protocol"})
        seen.add(name)


def schemathesis(url: str) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--workers", "1"]
    bounds = [
        "--max-time",
        str(SECONDS),
        "--max-examples",
        "40",
        "--request-timeout",
        "15",
        "--generation-deterministic",
    ]
    # The one ends the server, the other goes on for a minute.
    bounds += ["--exclude-path", "/drain/", "--exclude-path", "/trace/"]
    checks = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", UNCHECKED, "--request-timeout", "15"]
    headers = [f"--header={name}: {value}" for name, value in ADMIN.items()]
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([*command, *bounds, *checks, *headers], cwd=work, check=True, timeout=3 * SECONDS)


def main() -> None:
    binary = str(Path(sys.argv[1]).resolve())
    for strict in (False, True):
        business = Business()
        with rainbow(binary, business, strict) as url:
            description = httpx.get(f"{url}/openapi.json").json()
            validate(description)
            assert description == json.loads((ROOT / "src/io/api/openapi.json").read_text())
            judge = Judge(description)
            if not strict:
                asyncio.run(scripted(url, judge, business))
                print(f"{judge.judged} answers and headers of hooks are as described", flush=True)
            schemathesis(url)
        business.server.shutdown()


if __name__ == "__main__":
    main()
