"""Settings of this site, read when they are needed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.signals import setting_changed
from django.dispatch import receiver

from ..api import Rainbow
from ..signing import Verifier, WebhookKey

#: Every setting with its default.
DEFAULTS: dict[str, Any] = {
    "RAINBOW_SERVER_URL": "http://127.0.0.1:1984",
    "RAINBOW_TOKEN": "",
    "RAINBOW_WEBHOOK_SECRET": "",
    # An older secret that is still accepted while the operator changes it.
    "RAINBOW_WEBHOOK_SECRET_OLD": "",
    "RAINBOW_REQUIRE_WEBHOOK": False,
    "RAINBOW_SIGNATURE_WINDOW": 10,
    # Whether a forwarded message is processed once, together with what its handler does to the database.
    "RAINBOW_EXACTLY_ONCE": True,
    "RAINBOW_DATABASE": "default",
    # Where clients connect; only `rainbow_check` needs it. Empty: /connect/ of the server's URL.
    "RAINBOW_CLIENT_URL": "",
    # 2014's only format; accepted, and without effect.
    "RAINBOW_DATA_FORMAT": "json",
}


def get(name: str) -> Any:
    value = getattr(settings, name, DEFAULTS[name])
    return DEFAULTS[name] if value is None else value


@lru_cache(maxsize=1)
def server() -> Rainbow:
    """The server that the settings name."""
    url, token, secret = get("RAINBOW_SERVER_URL"), get("RAINBOW_TOKEN"), get("RAINBOW_WEBHOOK_SECRET")
    return Rainbow(url, token=token or None, webhook_secret=secret or None)


@lru_cache(maxsize=1)
def verifier() -> Verifier:
    secrets = (get("RAINBOW_WEBHOOK_SECRET"), get("RAINBOW_WEBHOOK_SECRET_OLD"))
    keys = tuple(WebhookKey(secret) for secret in secrets if secret)
    token, window = get("RAINBOW_TOKEN") or None, get("RAINBOW_SIGNATURE_WINDOW")
    return Verifier(token, keys, window, get("RAINBOW_REQUIRE_WEBHOOK"))


def client_url() -> str:
    url: str = get("RAINBOW_CLIENT_URL") or get("RAINBOW_SERVER_URL").rstrip("/") + "/connect/"
    return url


# `rainbow_check` comes as a client. Nobody else can make its token.


def make_check_token() -> str:
    return signing.dumps("check", salt=SALT)


def is_check_token(token: str) -> bool:
    try:
        return bool(signing.loads(token, salt=SALT, max_age=60) == "check")
    except signing.BadSignature:
        return False


def forget() -> None:
    """Closes the connections to the server; settings are read again."""
    if server.cache_info().currsize:
        server().close()
    server.cache_clear()
    verifier.cache_clear()


@receiver(setting_changed)
def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith("RAINBOW_"):
        forget()


SALT = "rainbow.django.check"
#: Message type of `rainbow_check`.
CHECK_TYPE = 65533
