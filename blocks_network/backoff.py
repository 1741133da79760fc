"""One retry schedule for all: exponential, jittered, capped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Backoff"]


_CHANCE = random.Random()  # noqa: S311 - spreads load, guards nothing; a program's own seed is left alone


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays before the second, third, ... attempt, in seconds.

    `jitter` is the share of each delay that is random, so that many clients do not come back at the same instant.
    """

    first_s: float = 0.1
    factor: float = 2.0
    cap_s: float = 10.0
    jitter: float = 0.2

    def delay(self, attempt: int) -> float:
        """The pause after failed attempt number `attempt` (from 1)."""
        exponent = min(attempt - 1, 64)  # beyond that the cap holds anyway, and a float overflows
        base = min(self.cap_s, self.first_s * self.factor**exponent)
        return base * (1 - self.jitter * _CHANCE.random())

    def delays(self, attempts: int) -> Iterator[float]:
        """The pauses between `attempts` attempts: one fewer than attempts."""
        for attempt in range(1, attempts):
            yield self.delay(attempt)
