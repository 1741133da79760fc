"""Timers: one heap and one armed timer of the loop for everything that becomes due.

An entry is never taken out: whoever it calls looks whether it is still wanted. Instants are Unix ms, so that they can
be stored and set again after a restart.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

__all__ = ["NeverBack", "Timers"]

log = logging.getLogger(__name__)

LONGEST_S = 30.0
"""The armed timer never sleeps longer, so that a step of the wall clock is noticed."""


STEP_S = 1.0
"""By how much the wall clock may fall behind the steady one before that is a step, and not their difference in pace."""


class NeverBack:
    """The wall clock, but for steps back: there it goes on at its pace, and waits for the wall to catch up again.

    So what was to come in a second comes in a second, whatever somebody does to the machine's clock. Steps forward
    are followed: a machine that has slept finds what has become due meanwhile.
    """

    def __init__(self, wall: Callable[[], float] | None = None, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall or time.time, steady
        self._ahead_s = 0.0
        self._last_s, self._looked_s = self._wall(), steady()

    def __call__(self) -> float:
        """Unix seconds."""
        looked_s = self._steady()
        expected_s = self._last_s + looked_s - self._looked_s
        wall_s = self._wall() + self._ahead_s
        if wall_s < expected_s - STEP_S:
            self._ahead_s += expected_s - wall_s
            wall_s = expected_s
        elif self._ahead_s and wall_s > expected_s + STEP_S:
            caught_up_s = min(self._ahead_s, wall_s - expected_s)
            self._ahead_s -= caught_up_s
            wall_s -= caught_up_s
        self._last_s, self._looked_s = wall_s, looked_s
        return wall_s


class Timers:
    """Belongs to one event loop. `clock` gives Unix seconds; the machine's own is taken without its steps back. Calls
    are quick and do not raise."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = NeverBack() if clock is time.time else clock
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed: asyncio.TimerHandle | None = None
        self._armed_for_ms = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        self._loop = None
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def at(self, at_ms: int, act: Callable[[Any], None], subject: Any) -> None:
        """Calls `act(subject)` once, at `at_ms` or soon after."""
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, act, subject))
        if self._loop is not None and (self._armed is None or at_ms < self._armed_for_ms):
            self._arm()

    def run_due(self) -> int:
        """Calls what is due now; returns how many calls that were."""
        calls, now_ms = 0, self.now_ms()
        while self._heap and self._heap[0][0] <= now_ms:
            _, _, act, subject = heapq.heappop(self._heap)
            calls += 1
            act(subject)
        return calls

    def _arm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        if self._loop is None or not self._heap:
            return
        self._armed_for_ms = self._heap[0][0]
        delay_s = min(max(self._armed_for_ms / 1000 - self._clock(), 0.001), LONGEST_S)
        self._armed = self._loop.call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._armed = None
        try:
            self.run_due()
        finally:
            self._arm()
