"""Finds handlers in the installed applications' `rainbow` modules, and registers the checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import autodiscover_modules


class RainbowConfig(AppConfig):
    name = "rainbow.django"
    label = "rainbow"
    verbose_name = "Rainbow"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .checks import check_settings

        checks.register(check_settings, "rainbow")
        autodiscover_modules("rainbow")
