"""Who is told that a stream failed, received its last frame, or ended: each once, late ones at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from blocks_network.stream.errors import StreamError

__all__ = ["Endings"]

log = logging.getLogger(__name__)

MAX_UNHEARD = 16
"""Errors that came before anybody listened, kept for the first who does: a reader may meet a gap at once."""


class Endings:
    """The callbacks of one stream. They run without a lock on the thread that brings the news; faults are logged."""

    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id
        self._lock = threading.Lock()
        self._on_end: list[Callable[[], None]] | None = []
        self._on_inbound_done: list[Callable[[], None]] | None = []
        self._on_error: list[Callable[[StreamError], None]] = []
        self._fatal: StreamError | None = None
        self._unheard: deque[StreamError] = deque(maxlen=MAX_UNHEARD)

    def on_end(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._on_end is not None:
                self._on_end.append(callback)
                return
        self._call(callback)

    def on_inbound_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._on_inbound_done is not None:
                self._on_inbound_done.append(callback)
                return
        self._call(callback)

    def on_error(self, callback: Callable[[StreamError], None]) -> None:
        with self._lock:
            self._on_error.append(callback)
            news = [*self._unheard] if self._fatal is None else [*self._unheard, self._fatal]
            self._unheard.clear()
        for error in news:
            self._call(callback, error)

    def failed(self, error: StreamError) -> None:
        with self._lock:
            callbacks = list(self._on_error)
            if error.fatal:
                self._fatal = self._fatal or error
            elif not callbacks:
                self._unheard.append(error)
        if not callbacks:
            log.log(logging.WARNING if error.fatal else logging.INFO, "stream %s: %s", self._stream_id, error.error)
        for callback in callbacks:
            self._call(callback, error)

    def inbound_done(self) -> None:
        with self._lock:
            callbacks, self._on_inbound_done = self._on_inbound_done or [], None
        for callback in callbacks:
            self._call(callback)

    def ended(self) -> None:
        with self._lock:
            callbacks, self._on_end = self._on_end or [], None
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[..., None], *news: Any) -> None:
        try:
            callback(*news)
        except Exception:
            log.exception("a callback of stream %s failed", self._stream_id)
