"""Looks at spans as a collector gets them: tests/otlp/check.py SERVER

SERVER is built with `--features otlp`. A collector and a business server of ours stand here; what arrives is decoded by
OpenTelemetry's own schema. Needs what requirements.txt beside it names. Called by tests/run.sh.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

DEADLINE_S = 20
TRACE, STEP = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that arrive, with what is said of their origin."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.spans: queue.Queue[tuple[dict[str, Any], Span]] = queue.Queue()
        self.requests: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), self.handler())
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            collector.spans.put((values(resource.resource.attributes), span))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def take(self, count: int) -> dict[str, Span]:
        """So many spans by their names, and the origin of the last one in `origin`."""
        found = {}
        for _ in range(count):
            self.origin, span = self.spans.get(timeout=DEADLINE_S)
            assert span.name not in found, f"{span.name} twice"
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
            found[span.name] = span
        return found

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.server_port}"


class Business(ThreadingHTTPServer):
    """Lets everyone in; answers messages of type 500 with an error. Keeps the `traceparent` of each hook."""

    def __init__(self) -> None:
        self.hooks: queue.Queue[tuple[str, str | None]] = queue.Queue()
        business = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                path = self.path.partition("?")[0]
                business.hooks.put((path, self.headers.get("traceparent")))
                body = b'{"status": "success"}'
                self.send_response(500 if path == "/message/500" else 200)
                self.send_header("RAINBOWCLIENTCHANNEL", "room")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def hook(self, path: str) -> str | None:
        """The next one, which is of this path; its `traceparent`."""
        found, parent = self.hooks.get(timeout=DEADLINE_S)
        assert found == path, (found, path)
        return parent


def values(attributes: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in attributes}


class Server:
    environment: dict[str, str] = {}

    def __init__(self, binary: str, directory: Path, business: Business, **keys: object) -> None:
        url = f"http://127.0.0.1:{business.server_port}"
        settings = {
            "listen": "127.0.0.1", "http_port": 0, "workers": 1, "cluster": "off", "log_format": "json",
            "admin_token": "t",
            "connect_url": f"{url}/connect", "forward_url": url + "/message/{message_type}",
            "close_url": f"{url}/close", **keys,
        }
        config = directory / "rainbow.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAINBOW_", "OTEL_"))}
        env["OTEL_EXPORTER_OTLP_HEADERS"] = "x-tenant=ours"
        env |= self.environment
        self.process = subprocess.Popen([binary, "-f", str(config)], env=env, stderr=subprocess.PIPE, text=True)
        self.log: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self.read_log, daemon=True).start()
        host, _, port = self.logged("listening")["listen"].rpartition(":")
        self.address = (host, int(port))

    def read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.put(json.loads(line))

    def logged(self, message: str) -> dict[str, Any]:
        """The next line of the log that says so."""
        while message not in (line := self.log.get(timeout=DEADLINE_S))["message"]:
            pass
        return line

    def call(self, path: str, parent: str | None = None, body: bytes | None = None) -> bytes:
        headers = {"Authorization": "Bearer t"} | ({"traceparent": parent} if parent else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.address[1]}{path}", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.read()

    def metric(self, name: str) -> float:
        lines = self.call("/metrics").decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).rsplit(" ", 1)[1])

    def counts(self, name: str, expected: int) -> None:
        """It counts when the collector has answered, of which that knows nothing."""
        end = time.monotonic() + DEADLINE_S
        while (found := self.metric(name)) < expected and time.monotonic() < end:
            time.sleep(0.01)
        assert found == expected, (name, found)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=DEADLINE_S) == 0, "it did not drain"


class Client:
    """Just enough of WebSocket and of packets."""

    def __init__(self, server: Server, parent: str | None) -> None:
        self.socket = socket.create_connection(server.address, timeout=DEADLINE_S)
        head = [
            "GET /connect/ HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "X-DEVICEID: d",
            "X-CLIENT-OS: t",
        ]
        self.socket.sendall("\r\n".join(head + ([f"traceparent: {parent}"] if parent else []) + ["", ""]).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.socket.recv(1)
        assert b" 101 " in answer, answer

    def send(self, message_type: int, qos: int) -> None:
        """A SEND with id 1, masked with zeros."""
        packet = struct.pack(">BH", 0x10 | qos << 1, message_type) + (struct.pack(">H", 1) if qos else b"") + b"hello"
        self.socket.sendall(bytes([0x82, 0x80 | len(packet), 0, 0, 0, 0]) + packet)


@contextlib.contextmanager
def started(binary: str, **keys: object) -> Iterator[tuple[Server, Business]]:
    with tempfile.TemporaryDirectory() as directory:
        business = Business()
        server = Server(binary, Path(directory), business, **keys)
        try:
            yield server, business
        finally:
            server.process.kill()
            business.shutdown()


def parent_of(span: Span) -> str:
    """What it hands on, as a `traceparent`."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"


def what_a_parent_has_sampled_is_collected(binary: str) -> None:
    collector, parent = Collector(), f"00-{TRACE}-{STEP}-01"
    with started(binary, otlp_endpoint=collector.url, otlp_ratio=0) as (server, business):
        # Nobody collects these: they come first, so that they would be found before the others.
        unsampled = Client(server, f"00-{TRACE}-{STEP}-00")
        assert business.hook("/connect") == f"00-{TRACE}-{STEP}-00", "it goes on as it came"
        unsampled.send(7, 0)
        assert business.hook("/message/7") == f"00-{TRACE}-{STEP}-00"
        of_no_trace = Client(server, None)
        assert business.hook("/connect") is None
        of_no_trace.send(7, 0)
        assert business.hook("/message/7") is None
        server.call("/send/?channel=room&msgtype=1&qos=0", None, b"x")

        client = Client(server, parent)
        spans = collector.take(2)
        connect, hook = spans["GET /connect/"], spans["hook connect"]
        assert connect.trace_id.hex() == hook.trace_id.hex() == TRACE
        assert connect.parent_span_id.hex() == STEP and hook.parent_span_id == connect.span_id
        assert (connect.kind, hook.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
        assert values(connect.attributes)["http.response.status_code"] == 101
        assert values(hook.attributes)["http.response.status_code"] == 200
        assert business.hook("/connect") == parent_of(hook), "the business server is below the hook"
        assert collector.origin["service.name"] == "rainbow-server" and collector.origin["service.instance.id"]
        request = collector.requests[0]
        assert (request["path"], request["content-type"]) == ("/v1/traces", "application/x-protobuf"), request
        assert request["x-tenant"] == "ours", "OTEL_EXPORTER_OTLP_HEADERS"

        client.send(7, 1)
        forward = collector.take(1)["hook forward"]
        assert forward.trace_id.hex() == TRACE and forward.parent_span_id.hex() == STEP
        assert business.hook("/message/7") == parent_of(forward)
        attributes = values(forward.attributes)
        assert attributes["rainbow.message_type"] == 7 and len(attributes["rainbow.identity"]) == 64, attributes
        assert forward.status.code == Status.STATUS_CODE_UNSET

        client.send(500, 0)
        failed = collector.take(1)["hook forward"]
        assert failed.status.code == Status.STATUS_CODE_ERROR and values(failed.attributes)["error.type"] == "500"
        assert business.hook("/message/500") == parent_of(failed)

        server.call("/send/?channel=room&msgtype=1&qos=0", parent, b"x")
        call = collector.take(1)["POST /send/"]
        attributes = values(call.attributes)
        assert call.parent_span_id.hex() == STEP and call.kind == Span.SPAN_KIND_SERVER
        assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/send/", 200), attributes

        client.socket.close()
        close = collector.take(1)["hook close"]
        assert close.parent_span_id.hex() == STEP and business.hook("/close") == parent_of(close)
        server.counts("rainbow_spans_exported_total", 6)
        assert collector.spans.empty(), "what no parent has sampled"


def the_ratio_decides_where_a_trace_begins(binary: str) -> None:
    collector = Collector()
    with started(binary, otlp_endpoint=f"{collector.url}/", otlp_ratio=1, connect_url="") as (server, _):
        for path in ("/info/", "/metrics", "/readyz"):
            server.call(path)
        server.call("/broadcast/?msgtype=1", None, b"{}")
        call = collector.take(1)["POST /broadcast/"]
        assert call.parent_span_id == b"" and len(call.trace_id) == 16 and any(call.trace_id)
        # A kick is in the audit, which names its trace; its span is sent although the server ends at once.
        server.call("/kick/", None, b'{"channel": "room"}')
        server.stop()
        kick = collector.take(1)["POST /kick/"]
        audited = server.logged("Kick")
        assert audited["trace_id"] == kick.trace_id.hex(), audited


def what_the_collector_does_not_take_is_counted(binary: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It listens and never answers.
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with started(binary, otlp_endpoint=url, otlp_ratio=1, connect_url="") as (server, _):
            server.call("/broadcast/?msgtype=1", None, b"{}")
            server.logged("the collector does not take spans")
            assert server.metric('rainbow_spans_dropped_total{reason="export_failed"}') == 1
            assert server.metric('rainbow_spans_dropped_total{reason="queue_full"}') == 0


def a_collector_behind_https_is_trusted_by_the_systems_certificates(binary: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ca, leaf = [["-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"] for name in ("ca", "localhost")]
        for command in (
            ["req", "-x509", *ca, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"],
            ["req", *leaf, "-keyout", "leaf.key", "-out", "leaf.csr", "-addext", "subjectAltName=DNS:localhost"],
            ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
             "-out", "leaf.pem", "-copy_extensions", "copy"],
        ):
            subprocess.run(["openssl", *command], cwd=directory, check=True, capture_output=True)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(f"{directory}/leaf.pem", f"{directory}/leaf.key")
        collector = Collector(tls)
        Server.environment = {"SSL_CERT_FILE": f"{directory}/ca.pem"}
        with started(binary, otlp_endpoint=collector.url, otlp_ratio=1, connect_url="") as (server, _):
            server.call("/broadcast/?msgtype=1", None, b"{}")
            assert collector.take(1)["POST /broadcast/"].kind == Span.SPAN_KIND_SERVER
        Server.environment = {}
        with started(binary, otlp_endpoint=collector.url, otlp_ratio=1, connect_url="") as (server, _):
            server.call("/broadcast/?msgtype=1", None, b"{}")
            server.logged("the collector does not take spans")
            assert collector.spans.empty(), "nobody vouches for it"


def main() -> None:
    for check in (
        what_a_parent_has_sampled_is_collected,
        the_ratio_decides_where_a_trace_begins,
        what_the_collector_does_not_take_is_counted,
        a_collector_behind_https_is_trusted_by_the_systems_certificates,
    ):
        check(sys.argv[1])
        print(check.__name__.replace("_", " "), flush=True)


main()
