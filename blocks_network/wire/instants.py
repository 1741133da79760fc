"""Instants as people and programs read them: ISO 8601 in UTC with milliseconds."""

from __future__ import annotations

from datetime import datetime, timezone

__all__ = ["instant_text"]


def instant_text(at_ms: float) -> str:
    """`at_ms` is Unix milliseconds: `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
