"""`manage.py rainbow_cleanup`: forgets messages that were processed long ago. For a daily timer."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand

from rainbow.django import conf
from rainbow.django.models import ProcessedMessage


class Command(BaseCommand):
    help = "Deletes the keys of messages that were processed long ago."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days",
            type=float,
            default=30,
            help="how old they must be: longer than sessions live (store.session_expiry_max); default 30",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        age, using = timedelta(days=options["days"]), conf.get("RAINBOW_DATABASE")
        count = ProcessedMessage.cleanup(age, using=using)
        if options["verbosity"] > 0:
            self.stdout.write(f"{count} keys deleted")
