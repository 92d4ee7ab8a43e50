from __future__ import annotations

from typing import ClassVar

from django.db import models


class Line(models.Model):
    text = models.CharField(max_length=200)

    objects: ClassVar[models.Manager[Line]] = models.Manager()
