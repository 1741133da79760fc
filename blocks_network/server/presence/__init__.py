"""Presence: who is on a channel, since when, with what state. A seam; `embedded` is the default.

The gateway writes it (joins, heartbeats, leaves, state), placement and here-now read it, and its changes become the
events of `-pnpres` channels. It belongs to (keyset, channel, uuid).

Rules:

1. `touch` joins where the uuid is absent. The timeout runs from the last touch, never from an open poll.
2. State that is set before the join is kept for the timeout and attached at the join. It is replaced, never merged,
   and ends with leave or timeout.
3. `follow` callbacks run in the loop, in the order of the changes, after the change can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["Change", "Occupant", "Presence"]

DEFAULT_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Occupant:
    """Somebody on a channel. `state` is the JSON object they set, None when they set none."""

    uuid: str
    state: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened on a channel; `occupancy` is the number of occupants after it."""

    keyset: str
    channel: str
    action: Literal["join", "leave", "timeout", "state-change"]
    uuid: str
    occupancy: int
    at_ms: int
    state: Mapping[str, Any] | None


class Presence(Protocol):
    """See the module's docstring for the contract."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def touch(
        self,
        keyset: str,
        channels: Iterable[str],
        uuid: str,
        *,
        timeout_s: int | None = None,
        state: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """The uuid is here: joins or prolongs. `timeout_s` None keeps the last one named (300 at first).

        `state` maps channel names to state objects, as requests carry it.
        """

    def leave(self, keyset: str, channels: Iterable[str], uuid: str) -> None:
        """The uuid has left these channels; nothing happens where it is absent."""

    def set_state(self, keyset: str, channels: Iterable[str], uuid: str, state: Mapping[str, Any]) -> None: ...

    def state_of(self, keyset: str, channel: str, uuid: str) -> Mapping[str, Any]:
        """Empty when there is none."""

    def occupants(self, keyset: str, channel: str) -> list[Occupant]:
        """In the order of their joins."""

    def channels_of(self, keyset: str, uuid: str) -> list[str]: ...

    def occupied_channels(self, keyset: str) -> list[str]: ...

    def follow(self, heard: Callable[[Change], None]) -> Callable[[], None]:
        """Calls `heard` for every change of every channel. Returns the way to stop."""
