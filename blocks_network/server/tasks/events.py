"""Events on task channels as the network reads them: just the fields that move a task's state.

An instance marks each of its events (`eventId` in the meta, RUN.NUMBER), so that one that is sent again, because its
answer got lost, can be told from a new one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import msgspec

from blocks_network.wire.events import TERMINAL_STATES

__all__ = ["Heard", "Mark", "hear", "mark_of"]

RUN_CHARS, NUMBER_CHARS = 64, 18
REMEMBERED, REMEMBERED_BYTES = 512, 512
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
        """A field that is stored; a NUL, which PostgreSQL stores in no text, is replaced."""
        value = getattr(self, name)
        return value.replace("\x00", "\ufffd") if isinstance(value, str) else None


class Mark(msgspec.Struct, frozen=True):
    """Which event of which run it is. `attempt` is 0 where the instance does not say."""

    run: str
    number: int
    attempt: int


class _Meta(msgspec.Struct, rename="camel", frozen=True):
    event_id: Any = None
    attempt: Any = None


_decoder = msgspec.json.Decoder(Heard)
_meta_decoder = msgspec.json.Decoder(_Meta)


def mark_of(meta: bytes | None) -> Mark | None:
    """None for an event without a mark: the network's own, and those of runtimes that set none."""
    if meta is None:
        return None
    return _marked(meta) if len(meta) <= REMEMBERED_BYTES else _marked.__wrapped__(meta)


@lru_cache(maxsize=REMEMBERED)
def _marked(meta: bytes) -> Mark | None:
    """Asked before an event is published, and once more when it is."""
    try:
        told = _meta_decoder.decode(meta)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(told.event_id, str):
        return None
    run, _, number = told.event_id.rpartition(".")
    if not run or len(run) > RUN_CHARS or not _is_number(number):
        return None
    return Mark(run, int(number), int(told.attempt) if _is_number(told.attempt) else 0)


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= NUMBER_CHARS


def hear(payload: bytes) -> Heard | None:
    """None for a payload that is no JSON object."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
