"""One thread that calls functions at their time: held-back messages, ends of tasks, gaps in streams."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Timers"]

log = logging.getLogger(__name__)

MOST_S = 86_400.0
"""One wait at most: the platform refuses those of centuries, which a task may ask for."""


class Timers:
    """Calls are quick and never block: they run one after another on the timers' thread."""

    def __init__(self, whose: str) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"blocks-timers-{whose}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def after(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Calls `call` once, `delay_s` from now; returns the way to withdraw it."""
        with self._changed:
            number = next(self._numbers)
            self._calls[number] = call
            heapq.heappush(self._due, (time.monotonic() + max(0.0, delay_s), number))
            if self._due[0][1] == number:
                self._changed.notify()

        def withdraw() -> None:
            with self._changed:
                self._calls.pop(number, None)

        return withdraw

    def stop(self) -> None:
        """What is not yet due is never called."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        if not self._thread.ident:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            try:
                call()
            except Exception:
                log.exception("a timer's call failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(min(self._due[0][0] - now, MOST_S) if self._due else None)
                    continue
                _, number = heapq.heappop(self._due)
                call = self._calls.pop(number, None)
                if call is not None:
                    return call
            return None
