"""Presence changes become messages on `-pnpres` channels: in their order, never stored."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from blocks_network.server.bus import Bus, BusFull, Draft
from blocks_network.server.gateway.names import PRESENCE
from blocks_network.server.presence import Change, Presence

__all__ = ["PresenceEvents", "event_of"]

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Events handed to the bus together, so that a mass timeout lets others in between."""


class PresenceEvents:
    """Follows presence from `start` to `stop`. One task publishes, for as long as there is something to publish."""

    def __init__(self, bus: Bus, presence: Presence) -> None:
        self._bus, self._presence = bus, presence
        self._waiting: deque[Draft] = deque()
        self._publishing: asyncio.Task[None] | None = None
        self._unfollow: Callable[[], None] | None = None

    async def start(self) -> None:
        self._unfollow = self._presence.follow(self._hear)

    async def stop(self) -> None:
        """What has happened is still told. May be repeated."""
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        if self._publishing is not None:
            await self._publishing

    def _hear(self, change: Change) -> None:
        self._waiting.append(event_of(change))
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().create_task(self._publish())

    async def _publish(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    await self._bus.publish_all(batch)
                except BusFull as full:
                    log.warning("%d presence events were not told: %s", len(batch), full)
        finally:
            self._publishing = None


def event_of(change: Change) -> Draft:
    """The event as clients read it: numbers are integers, and its meta repeats it for filters."""
    at_s = change.at_ms // 1000
    payload: dict[str, Any] = {
        "action": change.action,
        "uuid": change.uuid,
        "timestamp": at_s,
        "precise_timestamp": change.at_ms,
        "occupancy": change.occupancy,
    }
    meta: dict[str, Any] = {
        "pn_action": change.action,
        "pn_channel": change.channel,
        "pn_ispresence": 1,
        "pn_occupancy": change.occupancy,
        "pn_precise_timestamp": change.at_ms,
        "pn_timestamp": at_s,
        "pn_uuid": change.uuid,
    }
    if change.action == "state-change" or (change.action == "join" and change.state is not None):
        state = dict(change.state or {})
        payload["data"] = state
        meta |= {f"pn_state_{key}": value for key, value in state.items()}
    return Draft(
        change.keyset,
        change.channel + PRESENCE,
        msgspec.json.encode(payload),
        meta=msgspec.json.encode(meta),
        stored=False,
    )
