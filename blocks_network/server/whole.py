"""Answers that leave in one call, from anywhere in the loop, and not as two messages of ASGI that a task has to send.

The listener offers a `SendWhole` with each request. Who finds none, or is told no, sends as ASGI has it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any

__all__ = ["SendWhole", "head_of", "offer", "send_whole_of"]

SendWhole = Callable[[int, bytes, bytes], bool]
"""(status, header lines, body). True when it is sent, or nobody is there any more to read it."""
_KEY = "blocks.whole"


def offer(scope: MutableMapping[str, Any], send_whole: SendWhole) -> None:
    """Puts it into the scope of a request."""
    scope[_KEY] = send_whole


def send_whole_of(scope: MutableMapping[str, Any]) -> SendWhole | None:
    """What the listener has offered with the request."""
    found: SendWhole | None = scope.get(_KEY)
    return found


@lru_cache(maxsize=256)
def head_of(*headers: tuple[bytes, bytes]) -> bytes:
    """Header lines, each with its end: of those that many answers share, and not the length."""
    lines = [b"%b: %b" % header for header in headers]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise ValueError("a header holds the end of a line")
    return b"".join(line + b"\r\n" for line in lines)
