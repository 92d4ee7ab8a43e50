"""Both signature schemes, both ways: 2014's (SHA-1 over token, timestamp and nonce) and Standard Webhooks.

Rainbow adds a header `webhook-target` (`POST /send/?channel=a`) to the second one. Where it is sent it is the first
part of what is signed: `target.id.timestamp.body`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from .errors import BadSignature

WINDOW_S = 10
_NONCE = re.compile(r"[0-9.\-]{1,64}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,20}", re.ASCII)
_WEBHOOK_ID = re.compile(r"[!-\-/-~]{1,256}", re.ASCII)
_SIGNATURES_MAX = 16


def sign_2014(token: str, timestamp: str, nonce: str) -> str:
    """40 lower-case hex digits: SHA-1 over the three strings, sorted as bytes and joined."""
    parts = sorted(text.encode() for text in (token, timestamp, nonce))
    return hashlib.sha1(b"".join(parts)).hexdigest()


def query_2014(token: str, *, now: float | None = None) -> dict[str, str]:
    """The three query parameters of a signed call."""
    timestamp = str(int(time.time() if now is None else now))
    nonce = str(secrets.randbelow(10**12))
    return {"timestamp": timestamp, "nonce": nonce, "signature": sign_2014(token, timestamp, nonce)}


class WebhookKey:
    """A Standard Webhooks secret: `whsec_` and 24 to 64 bytes in base64."""

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        prefix, _, encoded = secret.strip().partition("_")
        if prefix != "whsec":
            raise ValueError("a webhook secret begins with whsec_")
        encoded = encoded.rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("a webhook secret is whsec_ and base64") from None
        if not 24 <= len(key) <= 64:
            raise ValueError(f"a webhook secret has 24 to 64 bytes, this one has {len(key)}")
        self._key = key

    def __repr__(self) -> str:
        return "WebhookKey(...)"

    def mac(self, target: str | None, webhook_id: str, timestamp: str, body: bytes) -> bytes:
        head = f"{webhook_id}.{timestamp}."
        signed = head if target is None else f"{target}.{head}"
        return hmac.digest(self._key, signed.encode() + body, "sha256")

    def headers(
        self, target: str | None, body: bytes, *, webhook_id: str | None = None, now: float | None = None
    ) -> dict[str, str]:
        """The headers of a signed request."""
        webhook_id = webhook_id or f"msg_{secrets.token_hex(16)}"
        timestamp = str(int(time.time() if now is None else now))
        mac = base64.b64encode(self.mac(target, webhook_id, timestamp, body)).decode()
        headers = {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{mac}"}
        if target is not None:
            headers["webhook-target"] = target
        return headers


@dataclass(frozen=True)
class Verifier:
    """Checks that a hook comes from Rainbow. Any of the schemes that have a key here will do.

    `require_webhook` accepts Standard Webhooks only. `insecure` accepts everything: for a closed network, or a test.
    """

    token: str | None = field(default=None, repr=False)
    webhook_keys: Sequence[WebhookKey] = ()
    window_s: int = WINDOW_S
    require_webhook: bool = False
    insecure: bool = False
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not (self.token or self.webhook_keys or self.insecure):
            raise ValueError("pass token or webhook_secrets, as they stand in Rainbow's configuration")
        if self.require_webhook and not self.webhook_keys:
            raise ValueError("require_webhook needs webhook_secrets")

    def verify(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `BadSignature`. `target` is path and query as in the request line; header names are lower-case."""
        if self.insecure:
            return None
        if self.webhook_keys and "webhook-signature" in headers:
            return self._verify_webhook(f"{method} {target}", headers, body)
        if self.require_webhook or not self.token:
            raise BadSignature("no webhook signature")
        return self._verify_2014(target)

    def _verify_2014(self, target: str) -> None:
        query: dict[str, str] = {}
        for name, value in parse_qsl(target.partition("?")[2], keep_blank_values=True):
            # The client's own parameters come first; Rainbow appends the signature, so the last one counts.
            query[name] = value
        timestamp, nonce = query.get("timestamp", ""), query.get("nonce", "")
        self._check_time(timestamp)
        # Where one part ends and the next begins is not signed, so a nonce must not be able to hold letters.
        if not _NONCE.fullmatch(nonce):
            raise BadSignature("nonce is not a number")
        expected = sign_2014(self.token or "", timestamp, nonce)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").lower().encode()):
            raise BadSignature("signature does not match")

    def _verify_webhook(self, here: str, headers: Mapping[str, str], body: bytes) -> None:
        webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        target = headers.get("webhook-target")
        if not _WEBHOOK_ID.fullmatch(webhook_id):
            raise BadSignature("webhook-id is not one")
        if target is not None and target != here:
            raise BadSignature("webhook-target is not this request's method and target")
        self._check_time(timestamp)
        expected = [key.mac(target, webhook_id, timestamp, body) for key in self.webhook_keys]
        for entry in headers["webhook-signature"].split()[:_SIGNATURES_MAX]:
            version, _, encoded = entry.partition(",")
            if version != "v1":
                continue
            try:
                sent = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            if any(hmac.compare_digest(mac, sent) for mac in expected):
                return
        raise BadSignature("signature does not match")

    def _check_time(self, timestamp: str) -> None:
        if not _SECONDS.fullmatch(timestamp):
            raise BadSignature("timestamp is not a number of seconds")
        distance = abs(int(timestamp) - int(self.clock()))
        if distance > self.window_s:
            raise BadSignature(f"timestamp is {distance} s away, more than {self.window_s} s")
