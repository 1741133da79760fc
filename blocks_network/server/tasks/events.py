"""Events on task channels as the network reads them: just the fields that move a task's state."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from blocks_network.wire.events import TERMINAL_STATES

__all__ = ["Heard", "hear"]

AGENT_EVENTS = frozenset({"progress", "artifact", "terminal", "system"})


class Heard(msgspec.Struct, rename="camel", frozen=True):
    """One event. Fields of a wrong type are read as given: `type` decides what is looked at."""

    type: Any = None
    state: Any = None
    status: Any = None
    error: Any = None
    reason: Any = None
    completion_reason: Any = None

    @property
    def is_terminal(self) -> bool:
        return self.type == "terminal" and isinstance(self.state, str) and self.state in TERMINAL_STATES

    @property
    def is_refusal(self) -> bool:
        """The instance had no place for the task; it did not start."""
        return self.is_terminal and self.state == "failed" and self.error == "agent_at_capacity"

    @property
    def turn(self) -> Literal["paused", "resumed"] | None:
        if self.type == "system" and self.status in ("paused", "resumed"):
            return self.status  # type: ignore[no-any-return]  # compared just above
        return None

    @property
    def by_an_agent(self) -> bool:
        """Of a type that instances publish."""
        return isinstance(self.type, str) and self.type in AGENT_EVENTS

    def text(self, name: str) -> str | None:
        value = getattr(self, name)
        return value if isinstance(value, str) else None


_decoder = msgspec.json.Decoder(Heard)


def hear(payload: bytes) -> Heard | None:
    """None for a payload that is no JSON object."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
