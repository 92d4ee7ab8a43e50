"""Each forwarded message is processed once: its key is written in one transaction with what the handler does.

A repeat finds the key, and gets the same answer without the handler. A handler that fails, or refuses, leaves neither a
key nor anything else behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from django.db import IntegrityError, transaction

from ..hooks import Answer, Hook
from . import conf


def answer_once(hook: Hook, produce: Callable[[], Answer]) -> Answer:
    if hook.idempotency_key is None or not conf.get("RAINBOW_EXACTLY_ONCE"):
        return produce()
    from .models import ProcessedMessage

    key, using = _fitting(hook.idempotency_key), conf.get("RAINBOW_DATABASE")
    known = _find(key, using)
    if known is not None:
        return known
    try:
        with transaction.atomic(using=using):
            # A repeat that comes at the same time waits here until this transaction ends.
            row = ProcessedMessage.objects.using(using).create(key=key)
            answer = produce()
            if answer.status >= 400:
                raise _NotKept(answer)
            row.status, row.content_type = answer.status, answer.content_type
            row.headers, row.body = [list(header) for header in answer.headers], answer.body
            row.save(using=using)
            return answer
    except _NotKept as failed:
        return failed.answer
    except IntegrityError:
        known = _find(key, using)
        if known is None:
            raise
        return known


class _NotKept(Exception):
    """Rolls the transaction back."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def _find(key: str, using: str) -> Answer | None:
    from .models import ProcessedMessage

    row = ProcessedMessage.objects.using(using).filter(key=key).first()
    if row is None:
        return None
    headers = tuple((name, value) for name, value in row.headers)
    return Answer(row.status, bytes(row.body), headers, row.content_type)


def _fitting(key: str) -> str:
    return key if len(key) <= 255 else "sha256:" + hashlib.sha256(key.encode()).hexdigest()
