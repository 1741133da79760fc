"""report_status: at most one message a second travels, the newest is never lost, and the handler never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from blocks_network.agent.events import TaskEvents
from blocks_network.agent.timers import Timers
from blocks_network.errors import TaskEndedError
from blocks_network.transport.publisher import PublisherFull

__all__ = ["StatusReports"]

THROTTLE_S = 1.0


class StatusReports:
    """The status messages of one task."""

    def __init__(self, events: TaskEvents, timers: Timers) -> None:
        self._events, self._timers = events, timers
        self._lock = threading.Lock()
        self._sent_at = float("-inf")
        self._kept: str | None = None
        self._withdraw: Callable[[], None] | None = None
        self._ended = False

    def report(self, message: object) -> None:
        """Does nothing once the task has ended."""
        with self._lock:
            if self._ended:
                return
            self._kept = str(message)
            if self._withdraw is not None:
                return
            wait_s = self._sent_at + THROTTLE_S - time.monotonic()
            if wait_s > 0:
                self._withdraw = self._timers.after(wait_s, self._due)
            else:
                self._send_kept()

    def end(self) -> None:
        """Sends what is kept back. Nothing is reported after it."""
        with self._lock:
            self._ended = True
            if self._withdraw is not None:
                self._withdraw()
                self._withdraw = None
            if self._kept is not None:
                self._events.status(self._kept)
                self._kept = None

    def _due(self) -> None:
        with self._lock:
            self._withdraw = None
            if not self._ended and self._kept is not None:
                self._send_kept()

    def _send_kept(self) -> None:
        """With the lock held, without ever waiting: what the full buffer does not take stays kept."""
        assert self._kept is not None
        try:
            self._events.status(self._kept, timeout_s=0)
        except PublisherFull:
            self._withdraw = self._timers.after(THROTTLE_S, self._due)
        except TaskEndedError:
            self._ended = True
        else:
            self._kept, self._sent_at = None, time.monotonic()
