"""What `manage.py check` says about the settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.urls import NoReverseMatch, reverse

from ..signing import WebhookKey
from . import conf


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    return [*_check_url(), *_check_keys(), *_check_database(), *_check_names(), *_check_urls()]


def _check_url() -> Iterator[CheckMessage]:
    url = conf.get("RAINBOW_SERVER_URL")
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        yield Error(f"RAINBOW_SERVER_URL is no http(s) URL: {url!r}", hint="http://127.0.0.1:1984", id="rainbow.E001")


def _check_keys() -> Iterator[CheckMessage]:
    if not conf.get("RAINBOW_TOKEN") and not conf.get("RAINBOW_WEBHOOK_SECRET"):
        yield Error(
            "Neither RAINBOW_TOKEN nor RAINBOW_WEBHOOK_SECRET is set: hooks cannot be checked, calls not be signed.",
            hint="Use security_token, or one of webhook_secrets, of Rainbow's configuration.",
            id="rainbow.E002",
        )
    for name in ("RAINBOW_WEBHOOK_SECRET", "RAINBOW_WEBHOOK_SECRET_OLD"):
        try:
            if conf.get(name):
                WebhookKey(conf.get(name))
        except ValueError as error:
            yield Error(f"{name}: {error}.", id="rainbow.E003")
    if conf.get("RAINBOW_REQUIRE_WEBHOOK") and not conf.get("RAINBOW_WEBHOOK_SECRET"):
        yield Error("RAINBOW_REQUIRE_WEBHOOK needs RAINBOW_WEBHOOK_SECRET.", id="rainbow.E004")
    token = conf.get("RAINBOW_TOKEN")
    if token and len(token) < 16 and not settings.DEBUG:
        yield Warning(
            f"RAINBOW_TOKEN has {len(token)} characters; it can be guessed.",
            hint="python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            id="rainbow.W001",
        )


def _check_database() -> Iterator[CheckMessage]:
    name = conf.get("RAINBOW_DATABASE")
    if conf.get("RAINBOW_EXACTLY_ONCE") and name not in settings.DATABASES:
        yield Error(f"RAINBOW_DATABASE is {name!r}, which is not in DATABASES.", id="rainbow.E005")


def _check_names() -> Iterator[CheckMessage]:
    for name in dir(settings):
        if name.startswith("RAINBOW_") and name not in conf.DEFAULTS:
            near = difflib.get_close_matches(name, conf.DEFAULTS, 1)
            yield Warning(f"{name} is no setting.", hint=f"{near[0]}?" if near else None, id="rainbow.W002")


def _check_urls() -> Iterator[CheckMessage]:
    try:
        reverse("rainbow:connect")
    except NoReverseMatch:
        yield Warning(
            "The hooks have no URLs.",
            hint='path("rainbow/", include("rainbow.django.urls"))',
            id="rainbow.W003",
        )
