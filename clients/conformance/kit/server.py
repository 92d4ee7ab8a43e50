"""The real rainbow-server as a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .relay import Notes

TOKEN = "conformance"
START_S = 20
SIGNAL = {"stop": signal.SIGTERM, "kill": signal.SIGKILL}
STARTS = 3
PAUSE_S = 1


class PortTaken(RuntimeError):
    pass


class Server:
    """Started again, it keeps its data and gets another port."""

    def __init__(self, world: Notes, binary: Path, folder: Path, business_port: int, keys: dict[str, Any]) -> None:
        self._world, self._binary, self._folder = world, binary, folder
        self._keys, self._business = keys, f"http://127.0.0.1:{business_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: list[str] = []
        self._has_ended = False
        self.port: int | None = None

    def start(self) -> int:
        """The port. A free one may be taken before the server has it, and a busy machine may have none for a moment."""
        for _ in range(STARTS - 1):
            try:
                return self._start()
            except PortTaken:
                time.sleep(PAUSE_S)
        return self._start()

    def _start(self) -> int:
        file = self._folder / "rainbow.toml"
        file.write_text(self._configuration())
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAINBOW_")}
        # Other servers on this machine would be its peers.
        environ["RAINBOW_CLUSTER"] = "off"
        self._process = subprocess.Popen(
            [str(self._binary), "-f", str(file)],
            env=environ,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.port, self._has_ended, self._output = None, False, []
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        with self._world.changed:
            self._world.changed.wait_for(lambda: self.port or self._has_ended, START_S)
        if self.port is None:
            self.end()
            said = "\n".join(self._output)
            raise (PortTaken if "Address already in use" in said else RuntimeError)(
                f"rainbow-server did not start:\n{said}"
            )
        self._world.note(f"server listens on {self.port}")
        return self.port

    def end(self, how: str = "kill") -> None:
        """ "stop" lets it say goodbye, "kill" does not."""
        if self._process is None:
            return
        self._world.note(f"server {how}")
        if self._process.poll() is None:
            self._process.send_signal(SIGNAL[how])
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def call(self, path: str, body: bytes = b"", **query: Any) -> dict[str, Any]:
        """A call of the business server's, with 2014's signature."""
        assert self.port is not None
        stamp, nonce = str(int(time.time())), str(random.randrange(10**9))
        signature = hashlib.sha1("".join(sorted([TOKEN, stamp, nonce])).encode()).hexdigest()
        signed = {**query, "timestamp": stamp, "nonce": nonce, "signature": signature}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", f"{path}?{urlencode(signed)}", body)
            text = connection.getresponse().read()
        answer = json.loads(text)
        assert isinstance(answer, dict)
        return answer

    def _configuration(self) -> str:
        store = {"kind": "none", **self._keys.get("store", {})}
        settings = {
            "listen": "127.0.0.1",
            "http_port": 0,
            "workers": 1,
            "cores": random.choice(sorted(os.sched_getaffinity(0))),
            "security_token": TOKEN,
            # Other tests' servers on this machine have the same token.
            "cluster": "off",
            "connect_url": f"{self._business}/connect/",
            "forward_url": f"{self._business}/message/{{message_type}}/",
            "close_url": f"{self._business}/close/",
            "ack_timeout": "400ms",
            "ping_interval": "20s",
            "pong_timeout": "20s",
            "close_timeout": "1s",
            "retry_backoff_min": "20ms",
            "retry_backoff_max": "200ms",
            "shutdown_timeout": "2s",
            **{name: value for name, value in self._keys.items() if name != "store"},
        }
        settings["cores"] = str(settings["cores"])
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        return (
            "\n".join([*lines, "[store]", *(f"{name} = {json.dumps(value)}" for name, value in store.items())]) + "\n"
        )

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            line = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode(errors="replace")).rstrip()
            found = re.search(r"listening.*?listen=\S+:(\d+)", line)
            with self._world.changed:
                self._output.append(line)
                if found and process is self._process:
                    self.port = int(found.group(1))
                self._world.changed.notify_all()
            if "WARN" in line or "ERROR" in line or "panicked" in line:
                self._world.note(f"server {line[:300]}")
        with self._world.changed:
            self._has_ended |= process is self._process
            self._world.changed.notify_all()
