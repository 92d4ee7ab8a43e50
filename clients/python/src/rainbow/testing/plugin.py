"""Fixtures for pytest; loaded by itself where this package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .fake import FakeRainbow


@pytest.fixture
def rainbow_fake() -> Iterator[FakeRainbow]:
    """A fake Rainbow that all calls of this test go to."""
    with FakeRainbow() as fake:
        yield fake


@pytest.fixture
def rainbow_django(rainbow_fake: FakeRainbow) -> FakeRainbow:
    """A fake Rainbow before this Django site: signs by its settings, and calls its hooks through its URLs."""
    from django.core.wsgi import get_wsgi_application
    from django.urls import reverse

    from rainbow.django import conf

    rainbow_fake.token = conf.get("RAINBOW_TOKEN") or None
    rainbow_fake.webhook_secret = conf.get("RAINBOW_WEBHOOK_SECRET") or None
    prefix = reverse("rainbow:connect").removesuffix("connect/")
    rainbow_fake.serve(wsgi=get_wsgi_application(), prefix=prefix)
    return rainbow_fake
