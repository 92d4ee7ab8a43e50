"""The chat with FastAPI. One command: clients/examples/start.sh fastapi"""

import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse

from rainbow import AsyncRainbow
from rainbow.fastapi import RainbowRouter

HERE = Path(__file__).parent
PORT = int(os.environ.get("EXAMPLE_PORT", "8000"))
SAY, LINE, CAME = 1, 2, 3

app, router = FastAPI(), RainbowRouter(token="testtoken")
server = AsyncRainbow(f"http://127.0.0.1:{os.environ.get('EXAMPLE_RAINBOW_PORT', '1984')}", token="testtoken")


@router.rainbow_connect
async def connect(request):
    name = request.query.get("name", "Guest")
    request.cookie = {"name": name, "device": request.device}
    # What is said while this device is away waits for it.
    request.session = f"chat:{request.device}"
    request.sub("room")
    await server.send("room", {"name": name}, msgtype=CAME, qos=0)


@router.rainbow(SAY)
async def say(request):
    line = {"name": request.cookie["name"], "text": request.data["text"], "by": request.cookie["device"]}
    # The author is in the room and waits for this answer: the call must not wait for the author.
    # The key makes a repeat of the call harmless.
    await server.send("room", line, msgtype=LINE, wait="stored", message_id=request.idempotency_key)
    return {"status": "ok"}


@router.rainbow_close
def close(request):
    print(f"{request.cookie['name']} has gone", flush=True)


app.include_router(router, prefix="/rainbow")


@app.get("/")
def page():
    return FileResponse(HERE / "chat.html")


@app.get("/rainbow.js")
def client():
    return FileResponse(HERE / "../js/rainbow.js", media_type="text/javascript")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
