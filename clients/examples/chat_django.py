"""The chat with Django, all of it in one file. One command: clients/examples/start.sh django"""

import os
from pathlib import Path

from django.conf import settings
from django.core.management import call_command, execute_from_command_line
from django.http import FileResponse
from django.urls import include, path

HERE = Path(__file__).parent
DATA = os.environ.get("EXAMPLE_DATA", ".")
PORT = os.environ.get("EXAMPLE_PORT", "8000")

settings.configure(
    DEBUG=True,
    SECRET_KEY="only for an example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rainbow.django"],
    # A message's key is stored with what its handler does: a repeat is answered, and not handled again.
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{DATA}/chat.sqlite3"}},
    RAINBOW_SERVER_URL=f"http://127.0.0.1:{os.environ.get('EXAMPLE_RAINBOW_PORT', '1984')}",
    RAINBOW_TOKEN="testtoken",
)

from rainbow.django import rainbow, rainbow_close, rainbow_connect, server  # noqa: E402

SAY, LINE, CAME = 1, 2, 3


@rainbow_connect
def connect(request):
    name = request.rainbow.query.get("name", "Guest")
    request.rainbow.cookie = {"name": name, "device": request.rainbow.device}
    # What is said while this device is away waits for it.
    request.rainbow.session = f"chat:{request.rainbow.device}"
    request.rainbow.sub("room")
    server().send("room", {"name": name}, msgtype=CAME, qos=0)


@rainbow(SAY)
def say(request):
    line = {"name": request.context["name"], "text": request.data["text"], "by": request.context["device"]}
    # The author is in the room and waits for this answer: the call must not wait for the author.
    # The key makes a repeat of the call harmless.
    server().send("room", line, msgtype=LINE, wait="stored", message_id=request.rainbow.idempotency_key)
    return {"status": "ok"}


@rainbow_close
def close(request):
    print(f"{request.context['name']} has gone", flush=True)


def page(request):
    return FileResponse((HERE / "chat.html").open("rb"))


def client(request):
    return FileResponse((HERE / "../js/rainbow.js").open("rb"), content_type="text/javascript")


urlpatterns = [
    path("", page),
    path(
        "rainbow.js",
        client,
    ),
    path("rainbow/", include("rainbow.django.urls")),
]

if __name__ == "__main__":
    import django

    django.setup()
    call_command("migrate", verbosity=0)
    execute_from_command_line(["manage.py", "runserver", "--noreload", f"127.0.0.1:{PORT}"])
