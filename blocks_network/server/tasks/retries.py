"""Retry policies: whether a task that had started may run again, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FAILED", "INSTANCE_LOST", "RetryPolicy"]

INSTANCE_LOST, FAILED = "instance_lost", "failed"
CAUSES = (INSTANCE_LOST, FAILED)
MAX_ATTEMPTS = 10
MAX_BACKOFF_S = 3600
MIN_PAUSE_MS = 250
"""After a failed run at the least: its last events are on the bus by then, and are not taken for the next run's."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_attempts` runs in all, `backoff_s` seconds before the second, doubling.

    `on` says after what; both causes, where the wire is silent.
    """

    max_attempts: int = 1
    backoff_s: float = 0.0
    on: frozenset[str] = frozenset()

    @classmethod
    def from_wire(cls, wire: object) -> RetryPolicy:
        """Reads `{"maxAttempts", "backoffSec"?, "on"?}`. ValueError names the field that is wrong."""
        if not isinstance(wire, Mapping):
            raise ValueError("retryPolicy is not an object")
        attempts = wire.get("maxAttempts", 1)
        if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= MAX_ATTEMPTS:
            raise ValueError(f"retryPolicy.maxAttempts is not a whole number in 1..{MAX_ATTEMPTS}")
        backoff = wire.get("backoffSec", 0)
        if isinstance(backoff, bool) or not isinstance(backoff, (int, float)) or not 0 <= backoff <= MAX_BACKOFF_S:
            raise ValueError(f"retryPolicy.backoffSec is not a number in 0..{MAX_BACKOFF_S}")
        causes = wire.get("on", list(CAUSES))
        if not isinstance(causes, list) or not all(cause in CAUSES for cause in causes):
            raise ValueError(f"retryPolicy.on is not a list of {' and '.join(CAUSES)}")
        return cls(attempts, float(backoff), frozenset(causes))

    @classmethod
    def from_text(cls, text: str | None) -> RetryPolicy:
        """Reads what `to_text` wrote; None is the policy of one attempt."""
        return cls() if text is None else cls.from_wire(json.loads(text))

    def to_wire(self) -> dict[str, Any]:
        return {"maxAttempts": self.max_attempts, "backoffSec": self.backoff_s, "on": sorted(self.on)}

    def to_text(self) -> str:
        return json.dumps(self.to_wire())

    def longest_pause_ms(self, attempt: int) -> int:
        """What may have been the pause before run number `attempt`."""
        return max(
            (pause for cause in self.on if (pause := self.again_in_ms(cause, attempt - 1)) is not None), default=0
        )

    def again_in_ms(self, cause: str, attempt: int) -> int | None:
        """The pause before another run when run number `attempt` ended by `cause`; None when that was the last."""
        if cause not in self.on or attempt >= self.max_attempts:
            return None
        pause = min(self.backoff_s * 2 ** (attempt - 1), MAX_BACKOFF_S)
        return max(int(pause * 1000), MIN_PAUSE_MS if cause == FAILED else 0)
