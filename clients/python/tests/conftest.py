"""Django's settings for all tests, a database that they share, and what `tests.server` starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DIRECTORY = tempfile.TemporaryDirectory(prefix="rainbow-python-")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_site.settings")
os.environ.setdefault("DJANGO_DATABASE", str(Path(DIRECTORY.name) / "db.sqlite3"))


@pytest.fixture(scope="session")
def django_database() -> Iterator[None]:
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    yield
    from rainbow.django import conf

    conf.forget()
    connections.close_all()


@pytest.fixture
def django_site(django_database: None) -> Iterator[None]:
    """An empty database. Transactions really commit."""
    from rainbow.django.models import ProcessedMessage
    from tests.django_site.chat.models import Line

    Line.objects.all().delete()
    ProcessedMessage.objects.all().delete()
    yield
    from django.db import connections

    connections.close_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.server import binary

    if binary() is None:
        terminalreporter.section("NO SERVER", "!", red=True)
        terminalreporter.line(
            "rainbow-server was not found: nothing was tried against it. cargo build, or RAINBOW_SERVER."
        )
