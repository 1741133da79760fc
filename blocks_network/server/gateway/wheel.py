"""One timer for many deadlines: waiting polls share it, so that a wait costs no timer object of its own."""

from __future__ import annotations

import asyncio
import heapq
import logging
from typing import Protocol

__all__ = ["Timed", "Wheel"]

log = logging.getLogger(__name__)


class Timed(Protocol):
    """Something with a deadline. Hashable by identity."""

    def due(self) -> None:
        """Called in the loop, once, when the deadline has passed. Must not raise."""


class Wheel:
    """Deadlines in slots of `slot_s` seconds: something is due at its deadline or up to one slot later."""

    def __init__(self, *, slot_s: float) -> None:
        self._slot_s = slot_s
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []
        """A heap of the slots that exist."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, timed: Timed, at_s: float) -> int:
        """Due at `at_s` of the loop's clock. Returns the slot, for `discard`."""
        slot = int(at_s / self._slot_s) + 1
        there = self._slots.get(slot)
        if there is None:
            there = self._slots[slot] = set()
            heapq.heappush(self._order, slot)
            if self._order[0] == slot:
                self._arm()
        there.add(timed)
        return slot

    def discard(self, timed: Timed, slot: int) -> None:
        """Nothing happens when it was due already."""
        there = self._slots.get(slot)
        if there is not None:
            there.discard(timed)

    def stop(self) -> None:
        """Nothing becomes due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._order[0] * self._slot_s, self._turn)

    def _turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        while self._order and self._order[0] * self._slot_s <= now + self._slot_s / 16:  # timers may come early
            for timed in self._slots.pop(heapq.heappop(self._order)):
                try:
                    timed.due()
                except Exception:  # the edge to one of many: the deadlines of the others count as well
                    log.exception("something failed at its deadline")
        self._arm()
