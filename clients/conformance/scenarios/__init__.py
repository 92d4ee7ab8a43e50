"""What a client of Rainbow must do, by chapters."""

from . import backoff, closing, cuts, heartbeat, limits, messages, repeats, sessions

__all__ = ["backoff", "closing", "cuts", "heartbeat", "limits", "messages", "repeats", "sessions"]
