"""A chat in 2014's shape (types 0 and 1 up, 1001 and 1002 down), and what is new beside it."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from rainbow.django import (
    RainbowResponse,
    rainbow,
    rainbow_close,
    rainbow_connect,
    send,
    server,
    subscribe,
)

from .models import Line


@rainbow_connect
def connect(request: Any) -> RainbowResponse | None:
    if request.rainbow.device == "banned":
        request.rainbow.refuse("banned")
    if name := request.rainbow.query.get("session"):
        request.rainbow.session = name
        request.rainbow.sub("räume")
        return None
    return RainbowResponse({"status": "success"})


@rainbow_close
def close(request: Any) -> RainbowResponse:
    return RainbowResponse({"status": "success"})


@rainbow(msg_type=0)
def take_name(request: Any) -> RainbowResponse:
    response = RainbowResponse({"status": "ok", "identity": request.identity}, request)
    subscribe("room", request.identity)
    response.context["user"] = request.data["message"]
    send("room", 1001, {"name": request.data["message"], "identity": request.identity})
    return response


@rainbow(msg_type=1)
def say(request: Any) -> RainbowResponse:
    line = {"name": request.context["user"], "message": request.data["message"]}
    send("room", 1002, {**line, "identity": request.identity})
    return RainbowResponse({"status": "ok"}, request)


@rainbow(2)
def keep(request: Any) -> dict[str, Any]:
    Line.objects.create(text=request.data["text"])
    if request.data.get("fail"):
        raise RuntimeError("as the test wants it")
    if request.data.get("refuse"):
        request.rainbow.refuse("no such text", status=422)
    server().send("räume", request.data["text"], qos=0)
    return {"lines": Line.objects.count()}


@rainbow(3)
async def later(request: Any) -> HttpResponse:
    count = await Line.objects.acount()
    return HttpResponse(f"{count} lines", content_type="text/plain")
