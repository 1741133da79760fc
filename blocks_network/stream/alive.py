"""Whether a writer is still there: an idle one says so now and then, and its reader hears when it no longer does.

Published writers say nothing of the kind and are not watched; published readers pass over what ours say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["PROMISE", "PULSE_S", "SILENCE_S", "Pulse", "WriterWatch"]

PULSE_S = 10.0
"""How often an idle writer says that it is there."""
SILENCE_S = 35.0
"""After how long a writer that had promised to do so counts as gone: three times, and what the network may take."""
PROMISE = "alive"
"""In the meta of a frame: its writer will say so for as long as it is there."""
MAX_WATCHED = 1024

After = Callable[[float, Callable[[], None]], Callable[[], None]]
"""`after(delay_s, call)` calls once, and returns the way to withdraw it."""


class Pulse:
    """Calls `say` every PULSE_S, from `start` to `stop`."""

    def __init__(self, after: After, say: Callable[[], None]) -> None:
        self._after, self._say = after, say
        self._lock = threading.Lock()
        self._withdraw: Callable[[], None] | None = None
        self._stopped = False

    def start(self) -> None:
        with self._lock:
            if not self._stopped:
                self._withdraw = self._after(PULSE_S, self._beat)

    def stop(self) -> None:
        with self._lock:
            self._stopped, withdraw = True, self._withdraw
        if withdraw is not None:
            withdraw()

    def _beat(self) -> None:
        self._say()
        self.start()


class WriterWatch:
    """`gone(sender)` is called once a silence, without a lock, on the timers' thread or the one that says `left`.

    `deaf()`: the reader itself hears nothing at present, so that a silence says nothing of its writers.
    """

    def __init__(self, after: After, *, gone: Callable[[str], None], deaf: Callable[[], bool]) -> None:
        self._after, self._gone, self._deaf = after, gone, deaf
        self._lock = threading.Lock()
        self._heard_s: dict[str, float] = {}
        self._withdraw: Callable[[], None] | None = None
        self._stopped = False

    def heard(self, sender: str) -> None:
        """A writer that gives the promise sent something."""
        with self._lock:
            if sender in self._heard_s or len(self._heard_s) < MAX_WATCHED:
                self._heard_s[sender] = time.monotonic()
            if self._withdraw is None and not self._stopped:
                self._withdraw = self._after(SILENCE_S, self._due)

    def ended(self, sender: str) -> None:
        """A writer has told its end, as streams have it."""
        with self._lock:
            self._heard_s.pop(sender, None)

    def left(self, sender: str) -> None:
        """A writer says that it goes."""
        with self._lock:
            known = self._heard_s.pop(sender, None) is not None
        if known:
            self._gone(sender)

    def stop(self) -> None:
        with self._lock:
            self._stopped, withdraw = True, self._withdraw
        if withdraw is not None:
            withdraw()

    def _due(self) -> None:
        now = time.monotonic()
        deaf = self._deaf()
        with self._lock:
            if self._stopped:
                return
            if deaf:
                self._heard_s = dict.fromkeys(self._heard_s, now)
            silent = [sender for sender, heard_s in self._heard_s.items() if now - heard_s >= SILENCE_S]
            for sender in silent:
                del self._heard_s[sender]
            self._withdraw = None
            if self._heard_s:
                self._withdraw = self._after(min(self._heard_s.values()) + SILENCE_S - now, self._due)
        for sender in silent:
            self._gone(sender)
