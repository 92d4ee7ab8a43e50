"""Signatures: the known ones of both schemes, and what must not pass."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rainbow import BadSignature, Verifier, WebhookKey
from rainbow.signing import query_2014, sign_2014

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330
BODY = b'{"test": 2432232314}'
#: The example of the Standard Webhooks specification.
EXAMPLE = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(NOW),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def verifier(now: int = NOW, **options: object) -> Verifier:
    return Verifier(webhook_keys=[WebhookKey(SECRET)], clock=lambda: now, **options)  # type: ignore[arg-type]


VECTORS = json.loads((Path(__file__).parents[2] / "vectors/signatures.json").read_text())


def judge(vector: dict[str, Any], verifier: Verifier, body: bytes = b"") -> None:
    request = (vector.get("method", "GET"), vector["target"], vector.get("headers", {}), body)
    if vector["valid"]:
        verifier.verify(*request)
    else:
        with pytest.raises(BadSignature):
            verifier.verify(*request)


def test_signatures_of_the_vectors() -> None:
    for vector in VECTORS["sign_2014"]:
        assert sign_2014(vector["token"], vector["timestamp"], vector["nonce"]) == vector["signature"]


@pytest.mark.parametrize("vector", VECTORS["targets_2014"], ids=lambda vector: vector["name"])
def test_targets_of_the_vectors(vector: dict[str, Any]) -> None:
    judge(vector, Verifier(VECTORS["token"], window_s=VECTORS["window"], clock=lambda: VECTORS["now"] + 0.9))


@pytest.mark.parametrize("vector", VECTORS["webhooks"], ids=lambda vector: vector["name"])
def test_webhooks_of_the_vectors(vector: dict[str, Any]) -> None:
    keys = [WebhookKey(VECTORS["secret"])]
    verifier = Verifier(webhook_keys=keys, window_s=VECTORS["window"], clock=lambda: VECTORS["now"] + 0.9)
    judge(vector, verifier, bytes.fromhex(vector["body"]))


def test_the_2014_signature_sorts_its_parts_as_strings() -> None:
    # printf %s 14000000007testtoken | sha1sum
    assert sign_2014("testtoken", "1400000000", "7") == "c227f3d6b8340bc2fb49282d95b9d5c18065d61f"
    assert sign_2014("a", "b", "c") == sign_2014("c", "a", "b")


def test_a_2014_signature_holds_within_its_window() -> None:
    query = query_2014("testtoken", now=NOW)
    target = "/connect/?" + "&".join(f"{name}={value}" for name, value in query.items())
    for now in (NOW - 10, NOW, NOW + 10):
        Verifier("testtoken", clock=lambda now=now: now).verify("GET", target, {}, b"")  # type: ignore[misc]
    for now in (NOW - 11, NOW + 11):
        with pytest.raises(BadSignature):
            Verifier("testtoken", clock=lambda now=now: now).verify("GET", target, {}, b"")  # type: ignore[misc]
    with pytest.raises(BadSignature):
        Verifier("testtokem", clock=lambda: NOW).verify("GET", target, {}, b"")


def test_a_clients_own_signature_parameters_do_not_count() -> None:
    good = query_2014("testtoken", now=NOW)
    forged = "/connect/?timestamp=0&nonce=1&signature=x&" + "&".join(f"{n}={v}" for n, v in good.items())
    Verifier("testtoken", clock=lambda: NOW).verify("GET", forged, {}, b"")


@pytest.mark.parametrize("nonce", ["", "testtoken7", "7" * 65, "7x"])
def test_a_nonce_is_a_number(nonce: str) -> None:
    signature = sign_2014("testtoken", str(NOW), nonce)
    target = f"/?timestamp={NOW}&nonce={nonce}&signature={signature}"
    with pytest.raises(BadSignature, match="nonce"):
        Verifier("testtoken", clock=lambda: NOW).verify("GET", target, {}, b"")


def test_the_webhook_specifications_example_verifies() -> None:
    verifier().verify("POST", "/anything", EXAMPLE, BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_other"},
        {"webhook-id": "with.stop"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": "+1614265330"},
        {"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": "v1,!"},
        {"webhook-target": "POST /anything"},
    ],
)
def test_a_changed_webhook_does_not_verify(change: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        verifier().verify("POST", "/anything", EXAMPLE | change, BODY)


def test_body_and_window_are_covered() -> None:
    with pytest.raises(BadSignature):
        verifier().verify("POST", "/", EXAMPLE, BODY + b" ")
    with pytest.raises(BadSignature):
        verifier(NOW + 11).verify("POST", "/", EXAMPLE, BODY)


def test_the_target_is_covered_where_it_is_sent() -> None:
    headers = WebhookKey(SECRET).headers("POST /send/?channel=a", BODY, now=NOW)
    verifier().verify("POST", "/send/?channel=a", headers, BODY)
    with pytest.raises(BadSignature, match="target"):
        verifier().verify("POST", "/send/?channel=b", headers, BODY)
    del headers["webhook-target"]
    with pytest.raises(BadSignature):
        verifier().verify("POST", "/send/?channel=a", headers, BODY)


def test_one_of_several_signatures_and_keys_is_enough() -> None:
    other = WebhookKey("whsec_" + base64.b64encode(b"k" * 24).decode())
    several = EXAMPLE | {"webhook-signature": "v1,AAAA " + EXAMPLE["webhook-signature"]}
    Verifier(webhook_keys=[other, WebhookKey(SECRET)], clock=lambda: NOW).verify("POST", "/", several, BODY)
    with pytest.raises(BadSignature):
        Verifier(webhook_keys=[other], clock=lambda: NOW).verify("POST", "/", several, BODY)


def test_a_verifier_without_keys_is_not_made_by_accident() -> None:
    with pytest.raises(ValueError, match="token"):
        Verifier()
    with pytest.raises(ValueError, match="whsec_"):
        WebhookKey("secret")
    with pytest.raises(ValueError, match="24"):
        WebhookKey("whsec_AAAA")
    assert "testtoken" not in repr(Verifier("testtoken")) and SECRET[6:] not in repr(WebhookKey(SECRET))


def test_a_webhook_can_be_required() -> None:
    query = query_2014("testtoken", now=NOW)
    target = "/?" + "&".join(f"{name}={value}" for name, value in query.items())
    both = Verifier("testtoken", [WebhookKey(SECRET)], require_webhook=True, clock=lambda: NOW)
    with pytest.raises(BadSignature, match="no webhook"):
        both.verify("GET", target, {}, b"")
