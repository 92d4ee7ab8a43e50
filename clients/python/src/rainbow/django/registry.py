"""The handlers of this site, and the decorators that enter them."""

from __future__ import annotations

from ..hooks import Registry

registry = Registry()
rainbow = registry.rainbow
rainbow_connect = registry.rainbow_connect
rainbow_close = registry.rainbow_close
rainbow_receipt = registry.rainbow_receipt
