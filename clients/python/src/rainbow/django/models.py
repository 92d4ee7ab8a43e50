"""Messages that have been processed, so that none is processed twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.utils import timezone


class ProcessedMessage(models.Model):
    """The answer to a forwarded message, written in the transaction of what its handler did."""

    key = models.CharField(max_length=255, primary_key=True)
    status = models.PositiveSmallIntegerField(default=0)
    content_type = models.CharField(max_length=255, default="")
    headers = models.JSONField(default=list)
    body = models.BinaryField(default=b"")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects: ClassVar[models.Manager[ProcessedMessage]] = models.Manager()

    class Meta:
        verbose_name = "processed message"

    def __str__(self) -> str:
        return self.key

    @classmethod
    def cleanup(cls, older_than: timedelta, *, using: str = "default", batch: int = 1000) -> int:
        """Deletes what is older, in batches; returns how many. A key must outlive every repeat of its message."""
        limit: datetime = timezone.now() - older_than
        total = 0
        while True:
            old = cls.objects.using(using).filter(created_at__lt=limit)
            keys = list(old.values_list("key", flat=True)[:batch])
            if not keys:
                return total
            cls.objects.using(using).filter(key__in=keys).delete()
            total += len(keys)
