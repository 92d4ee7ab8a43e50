"""Hooks as a WSGI application: for Flask, gunicorn, mod_wsgi and whatever else speaks PEP 3333."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .hooks import Answer, Hook, Incoming, route

if TYPE_CHECKING:
    from .hooks import Hooks

BODY_MAX = 64 << 20


def application(hooks: Hooks) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = _answer(hooks, environ)
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        # WSGI's texts are bytes in disguise: UTF-8 travels as Latin-1.
        headers += [(name, value.encode().decode("latin-1")) for name, value in answer.headers]
        start_response(f"{answer.status} {_phrase(answer.status)}", headers)
        return [answer.body]

    return app


def _answer(hooks: Hooks, environ: dict[str, Any]) -> Answer:
    found = route(environ.get("PATH_INFO", ""))
    if found is None:
        return Answer(404, b'{"status": "error", "msg": "no such hook"}')
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > BODY_MAX:
        return Answer(413)
    body = environ["wsgi.input"].read(int(length)) if int(length) else b""
    kind, message_type = found
    return hooks.handle(Hook(kind, incoming(environ, body), message_type))


def incoming(environ: dict[str, Any], body: bytes) -> Incoming:
    """The request of a WSGI environment."""
    headers = [(name[5:].replace("_", "-"), value) for name, value in environ.items() if name.startswith("HTTP_")]
    return Incoming.of(environ["REQUEST_METHOD"], target(environ), headers, body)


def target(environ: dict[str, Any]) -> str:
    """The request line's target: as the server saw it where it says so, else put together again."""
    for name in ("RAW_URI", "REQUEST_URI"):
        raw = environ.get(name)
        if isinstance(raw, str) and raw.startswith("/"):
            return raw
    path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), safe=SAFE, encoding="latin-1")
    query = environ.get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


#: What a path may hold as it is (RFC 3986).
SAFE = "/:@!$&'()*+,;=-._~"
