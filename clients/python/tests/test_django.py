"""Django: decorators in 2014's shape, exactly-once with the database, checks, commands."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import httpx
import pytest

from rainbow.client import ConnectRefused, MessageRefused
from rainbow.testing import FakeRainbow

pytestmark = pytest.mark.usefixtures("django_site")


def test_the_2014_chat_runs(rainbow_django: FakeRainbow) -> None:
    ann, bob = rainbow_django.connect(device="ann"), rainbow_django.connect(device="bob")
    assert ann.send(0, {"message": "Ann"}).json() == {"status": "ok", "identity": ann.identity}
    bob.send(0, {"message": "Bob"})
    assert bob.send(1, {"message": "hi"}).json() == {"status": "ok"}
    told = [(message.type, message.json()) for message in ann.received]
    assert told == [
        (1001, {"name": "Ann", "identity": ann.identity}),
        (1001, {"name": "Bob", "identity": bob.identity}),
        (1002, {"name": "Bob", "message": "hi", "identity": bob.identity}),
    ]
    ann.close()


def test_the_2014_functions_do_not_raise(rainbow_django: FakeRainbow) -> None:
    from rainbow.django import send, subscribe, unsubscribe

    assert send("nobody", 1, {}, qos=1) == (0, 0, None)
    subscribe("room", "0" * 64)
    unsubscribe("room", "0" * 64)
    rainbow_django.overrides["send"] = lambda _: httpx.Response(200, json={"status": 1, "msg": "no"})
    assert send("room", 1, {}) == (None, 1, "no")


def test_connecting_names_a_session_and_may_be_refused(rainbow_django: FakeRainbow) -> None:
    ann = rainbow_django.connect(query={"session": "ann"})
    assert ann.session == "ann" and ann.channels == {"räume"}
    with pytest.raises(ConnectRefused, match="banned"):
        rainbow_django.connect(device="banned")


def test_a_repeat_finds_its_answer_and_does_nothing(rainbow_django: FakeRainbow) -> None:
    ann = rainbow_django.connect(query={"session": "ann"})
    assert ann.send(2, {"text": "one"}).json() == {"lines": 1}
    assert ann.repeat().json() == {"lines": 1}
    assert ann.send(2, {"text": "two"}).json() == {"lines": 2}
    assert [message.text for message in ann.received] == ["one", "two"]


def test_repeats_at_the_same_time_are_processed_once(rainbow_django: FakeRainbow) -> None:
    from tests.django_site.chat.models import Line

    ann = rainbow_django.connect(query={"session": "ann"})
    ann._last = (2, b'{"text": "one"}', "the key")
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(_repeat(ann))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Line.objects.count() == 1
    # One that had to wait for too long failed; Rainbow would ask again.
    assert {"lines": 1} in answers and all(answer in ({"lines": 1}, None) for answer in answers)


def _repeat(client: Any) -> Any:
    from django.db import OperationalError, connections

    try:
        return client.repeat().json()
    except OperationalError:
        return None
    finally:
        connections.close_all()


def test_what_failed_or_was_refused_leaves_nothing(rainbow_django: FakeRainbow) -> None:
    from rainbow.django.models import ProcessedMessage
    from rainbow.testing.fake import HookFailed
    from tests.django_site.chat.models import Line

    ann = rainbow_django.connect(query={"session": "ann"})
    with pytest.raises(HookFailed):
        ann.send(2, {"text": "one", "fail": True})
    with pytest.raises(MessageRefused) as refused:
        ann.send(2, {"text": "one", "refuse": True})
    assert refused.value.status == 422
    assert (Line.objects.count(), ProcessedMessage.objects.count()) == (0, 0)


def test_without_a_key_every_message_counts(rainbow_django: FakeRainbow) -> None:
    ann = rainbow_django.connect(query={"session": "ann"})
    ann.send(2, {"text": "one"}, qos=0)
    assert ann.repeat().json() == {"lines": 2}


def test_an_asynchronous_handler_and_an_http_response(rainbow_django: FakeRainbow) -> None:
    ann = rainbow_django.connect()
    assert ann.send(3).text == "0 lines"
    with pytest.raises(MessageRefused):
        ann.send(77)


def test_old_keys_are_forgotten(rainbow_django: FakeRainbow) -> None:
    from django.core.management import call_command
    from django.utils import timezone

    from rainbow.django.models import ProcessedMessage

    ann = rainbow_django.connect(query={"session": "ann"})
    ann.send(2, {"text": "one"})
    ProcessedMessage.objects.create(key="old", created_at=timezone.now() - timedelta(days=31))
    call_command("rainbow_cleanup", verbosity=0)
    assert ProcessedMessage.objects.count() == 1 and not ProcessedMessage.objects.filter(key="old").exists()


def test_an_unsigned_hook_is_refused(rainbow_django: FakeRainbow) -> None:
    rainbow_django.token = "another"
    response = rainbow_django.hook("POST", "message/1/", {"RAINBOWCLIENTIDENTITY": "1"}, b"{}")
    assert response.status_code == 401 and response.headers["RAINBOWREQUESTINVALID"] == "60001"


@pytest.mark.parametrize(
    ("changed", "ids"),
    [
        ({}, []),
        ({"RAINBOW_SERVER_URL": "127.0.0.1:1984"}, ["rainbow.E001"]),
        ({"RAINBOW_TOKEN": ""}, ["rainbow.E002"]),
        ({"RAINBOW_WEBHOOK_SECRET": "whsec_!"}, ["rainbow.E003"]),
        ({"RAINBOW_REQUIRE_WEBHOOK": True}, ["rainbow.E004"]),
        ({"RAINBOW_DATABASE": "other"}, ["rainbow.E005"]),
        ({"DEBUG": False}, ["rainbow.W001"]),
        ({"RAINBOW_TOKN": "x"}, ["rainbow.W002"]),
        ({"ROOT_URLCONF": "tests.django_site.no_urls"}, ["rainbow.W003"]),
    ],
)
def test_settings_are_checked(changed: dict[str, Any], ids: list[str]) -> None:
    from django.core.checks import run_checks
    from django.test import override_settings

    with override_settings(**changed):
        found = run_checks(tags=["rainbow"])
    assert [message.id for message in found] == ids


def test_the_migration_is_complete() -> None:
    from django.core.management import call_command

    call_command("makemigrations", "rainbow", check=True, dry_run=True, verbosity=0)
