"""The threads behind the streams of one owner: its sender and its timers, started when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from blocks_network.stream.sender import Sender
from blocks_network.transport.timers import Timers

__all__ = ["StreamThreads"]


class StreamThreads:
    """One for an agent's instance, one for a consumer's client, one for a StreamClient that stands alone."""

    def __init__(self, whose: str) -> None:
        self.sender = Sender(whose)
        self._timers = Timers(f"streams-{whose}")
        self._lock = threading.Lock()
        self._timing = False

    def after(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Calls `call` once, `delay_s` from now, on the timers' thread; returns the way to withdraw it."""
        with self._lock:
            if not self._timing:
                self._timing = True
                self._timers.start()
        return self._timers.after(delay_s, call)

    def finish(self) -> None:
        """Sends what was accepted, within its limits, and then ends. Nothing new is taken."""
        self.sender.finish()
        self._timers.stop()

    def stop(self) -> None:
        """Ask them to end; `join` waits. Streams have to be ended before: what is not sent is lost."""
        self.sender.stop()
        self._timers.stop()

    def join(self, timeout_s: float) -> bool:
        """True when all have ended, each within `timeout_s`."""
        return self.sender.join(timeout_s) & self._timers.join(timeout_s)
