"""Runs what users register: the callbacks of one client's sessions, and their timers, on a few threads of its own."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Callbacks", "Timer"]

log = logging.getLogger(__name__)

MAX_THREADS = 32
"""Sessions whose callbacks run at the same time. Beyond it, sessions wait for their turn, in order."""
IDLE_S = 10.0
"""A thread without work for so long ends; the next work starts another."""


class Timer:
    """One call to come; `cancel` takes it back."""

    __slots__ = ("_work", "cancelled")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.cancelled = False

    def cancel(self) -> None:
        """Idempotent. A call that has begun goes on."""
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self._work()


class Callbacks:
    """A pool that grows while all its threads are busy, so that a slow callback delays its own session alone.

    A session hands over one piece of work at a time (its `Delivery` sees to that), which keeps its events in order.
    Threads are daemons: they hold nothing that a process could lose by ending.
    """

    def __init__(self, whose: str, *, max_threads: int = MAX_THREADS) -> None:
        self._whose, self._max_threads = whose, max_threads
        self._changed = threading.Condition()
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._threads = 0
        self._idle = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Runs `work` soon, on some thread of the pool."""
        with self._changed:
            self._ready.append(work)
            self._staff()

    def later(self, delay_s: float, work: Callable[[], None]) -> Timer:
        """Runs `work` after `delay_s` seconds, unless it is cancelled before."""
        timer = Timer(work)
        with self._changed:
            heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
            self._staff()
        return timer

    def _staff(self) -> None:
        """With the lock held: a thread that waits takes the news; else a new one, up to the limit."""
        if self._idle:
            self._changed.notify()
        if self._idle < len(self._ready) + bool(self._timers) and self._threads < self._max_threads:
            self._threads += 1
            name = f"blocks-callbacks-{self._whose}-{next(self._numbers)}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            try:
                work()
            except Exception:
                log.exception("the delivery of a session's events broke off")

    def _next(self) -> Callable[[], None] | None:
        """The next work; None when this thread is not needed any more."""
        with self._changed:
            patience = time.monotonic() + IDLE_S
            while True:
                now = time.monotonic()
                while self._timers and (self._timers[0][2].cancelled or self._timers[0][0] <= now):
                    self._ready.append(heapq.heappop(self._timers)[2].fire)
                if self._ready:
                    work = self._ready.popleft()
                    if self._ready or self._timers:
                        self._staff()  # somebody has to look after what is left while this thread works
                    return work
                due = self._timers[0][0] if self._timers else None
                if due is None and now >= patience:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait((due if due is not None else patience) - now)
                self._idle -= 1
