"""The views behind `rainbow.django.urls`."""

from __future__ import annotations

import inspect
import json
from typing import Any

from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ..errors import Refused
from ..hooks import CLOSE, CONNECT, MESSAGE, RECEIPT, Answer, Hook, Incoming, check, unknown_type
from ..wsgi import target
from . import conf
from .exactly_once import answer_once
from .registry import registry


@csrf_exempt
def connect(request: HttpRequest) -> HttpResponse:
    return _respond(request, CONNECT)


@csrf_exempt
def message(request: HttpRequest, message_type: int) -> HttpResponse:
    return _respond(request, MESSAGE, message_type)


@csrf_exempt
def close(request: HttpRequest) -> HttpResponse:
    return _respond(request, CLOSE)


@csrf_exempt
def receipt(request: HttpRequest) -> HttpResponse:
    return _respond(request, RECEIPT)


def _respond(request: HttpRequest, kind: str, message_type: int | None = None) -> HttpResponse:
    hook = Hook(kind, _incoming(request), message_type)
    answer = check(conf.verifier(), hook) or _check_command(hook)
    if answer is None:
        answer = answer_once(hook, lambda: _run(request, hook))
    response = HttpResponse(answer.body, status=answer.status, content_type=answer.content_type)
    for name, value in answer.headers:
        # Django takes header values for Latin-1; UTF-8 travels in disguise.
        response[name] = value.encode().decode("latin-1")
    return response


def _run(request: HttpRequest, hook: Hook) -> Answer:
    handler = registry.find(hook)
    if handler is None:
        return unknown_type(hook)
    # As in 2014, and `rainbow`, which acts on the client.
    context = hook.cookie
    extra = {"rainbow": hook, "identity": hook.identity, "msg_type": hook.message_type}
    request.__dict__.update(extra, data=_json(hook.body), context=context)
    try:
        result = async_to_sync(handler)(request) if inspect.iscoroutinefunction(handler) else handler(request)
        if request.__dict__["context"] is not context:
            hook.cookie = request.__dict__["context"]
        return hook.answer(_from_django(result))
    except Refused as refused:
        return hook.refusal(refused)


def _from_django(result: Any) -> Any:
    if not isinstance(result, HttpResponse):
        return result
    skipped = ("content-type", "content-length")
    headers = tuple((name, value) for name, value in result.items() if name.lower() not in skipped)
    return Answer(result.status_code, result.content, headers, result.get("Content-Type", "application/json"))


def _check_command(hook: Hook) -> Answer | None:
    """Answers `rainbow_check`, so that no handler hears of it."""
    if hook.kind == CONNECT and conf.is_check_token(hook.query.get("rainbow_check", "")):
        hook.cookie = {"rainbow_check": True}
        hook.sub(f"rainbow_check:{hook.device}")
        return hook.answer(None)
    is_check = isinstance(hook.cookie, dict) and hook.cookie.get("rainbow_check") is True
    return hook.answer({"rainbow_check": "ok"}) if is_check else None


def _incoming(request: HttpRequest) -> Incoming:
    environ = {"PATH_INFO": "", **request.META}
    raw = target(environ) if "RAW_URI" in environ or "REQUEST_URI" in environ else request.get_full_path()
    return Incoming.of(request.method or "", raw, request.headers.items(), request.body)


def _json(body: bytes) -> Any:
    """None for what is no JSON; `request.rainbow.data` refuses it instead."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None
