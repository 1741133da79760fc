"""Answers that leave by a call, from anywhere in the loop, and not as messages of ASGI that a task has to send.

The listener offers an `Answering` with each request. Who finds none, or is told no, sends as ASGI has it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, Protocol

__all__ = ["Answering", "answering_of", "head_of", "offer", "withdraw"]

_KEY = "blocks.answering"


class Answering(Protocol):
    """How one request is answered. `head` are header lines (see `head_of`) without those that say how long it is."""

    def whole(self, status: int, head: bytes, body: bytes) -> bool:
        """A whole answer. True when it is sent, or nobody is there any more to read it."""

    def begin(self, status: int, head: bytes, piece: bytes) -> bool:
        """The first piece of an answer without a foreseeable end. False: it has to be a whole one; nothing is sent."""

    def more(self, piece: bytes) -> bool:
        """Sends the next one. False when the client has not taken those before: nothing is sent."""

    def end(self) -> None:
        """The answer is complete. May be repeated."""


def offer(scope: MutableMapping[str, Any], answering: Answering) -> None:
    """Puts it into the scope of a request."""
    scope[_KEY] = answering


def withdraw(scope: MutableMapping[str, Any]) -> None:
    """The request is over."""
    scope.pop(_KEY, None)


def answering_of(scope: MutableMapping[str, Any]) -> Answering | None:
    """What the listener has offered with the request."""
    found: Answering | None = scope.get(_KEY)
    return found


@lru_cache(maxsize=256)
def head_of(*headers: tuple[bytes, bytes]) -> bytes:
    """Header lines, each with its end: of those that many answers share, and not the length."""
    lines = [b"%b: %b" % header for header in headers]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise ValueError("a header holds the end of a line")
    return b"".join(line + b"\r\n" for line in lines)
