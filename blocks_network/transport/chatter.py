"""Keeps what the PubNub library's HTTP client says of each request out of the program's logs.

The library sends uploads, and everything of a PubNub object that a program made itself, through httpx, which tells
every request at info, with its query string: a line a poll, and tokens in it.
"""

from __future__ import annotations

import logging
import threading

from blocks_network import settings

__all__ = ["keep_out_request_lines"]

LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
FORWARD = "forward_transport"


class _NotOfHosts(logging.Filter):
    """Drops lines below WARNING that name one of our hosts. Other hosts' lines, and all levels, stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: frozenset[str] = frozenset()
        self._marks: tuple[str, ...] = ()

    def add(self, origin: str) -> None:
        self.origins |= {origin}
        host, _, port = origin.partition(":")
        connects = f"host='{host}' port={port}" if port else f"host='{host}'"
        self._marks = (*self._marks, f"//{origin}/", connects, f"hostname='{host}'")

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return True
        text = record.getMessage()
        if not any(mark in text for mark in self._marks):
            return True
        return FORWARD in {word.strip() for word in (settings.DEBUG_INTERNAL.read() or "").split(",")}


_LOCK = threading.Lock()
_FILTER = _NotOfHosts()


def keep_out_request_lines(origin: str) -> None:
    """`origin` is host:port, or a host. BLOCKS_DEBUG_INTERNAL=forward_transport lets the lines through."""
    if origin in _FILTER.origins:
        return
    with _LOCK:
        _FILTER.add(origin)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_FILTER)  # which adds it once
