"""Timetokens: 17-digit counts of 100 ns since 1970, the order of every message of a network."""

from __future__ import annotations

__all__ = ["ALL_CACHED", "ALL_KEPT", "ANY_REGION", "TICKS_PER_S", "from_unix_ns", "to_unix_s"]

TICKS_PER_S = 10_000_000
ALL_CACHED = 1000
"""A cursor older than anything kept: a subscription that starts here gets all that the channel's tail still holds."""
ALL_KEPT = 10**16
"""A cursor before every network's first message, and yet an instant (in 2001): it reaches all of the log too."""
ANY_REGION = "1"
"""The region of a reader that has read from none yet and begins with a cursor of its own: a poll without a region is
taken as a first one, and answered at once."""


def from_unix_ns(nanoseconds: int) -> int:
    """The timetoken of an instant given in nanoseconds since 1970."""
    return nanoseconds // 100


def to_unix_s(timetoken: int) -> float:
    """Seconds since 1970."""
    return timetoken / TICKS_PER_S
