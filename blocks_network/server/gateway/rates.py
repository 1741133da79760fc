"""How much one client may ask for: publishes a second for a token, polls at a time for a token and an address."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from blocks_network.server.gateway.reply import too_many
from blocks_network.server.limits import Limits

__all__ = ["PollCounts", "PublishRates"]

KEPT = 20_000
"""Buckets in memory; those that are full again are dropped first."""


class PublishRates:
    """A bucket for each token, refilled evenly; a second's worth may go at once. `clock` in seconds."""

    def __init__(self, per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._full_at: dict[str, float] = {}
        """When each bucket will be full again: the further ahead, the emptier it is."""

    def take(self, token_id: str, number: int = 1) -> None:
        """Refuses with 429 when the bucket holds less than `number`; then nothing is taken."""
        now = self._clock()
        full_at = max(self._full_at.get(token_id, now), now) + number / self._per_s
        if full_at - now > 1.0:
            raise too_many(math.ceil(full_at - now - 1.0), "Publish")
        if len(self._full_at) >= KEPT and token_id not in self._full_at:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        self._full_at[token_id] = full_at


class PollCounts:
    """Waiting polls, counted where they begin and where they end."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: dict[str, int] = {}
        self._by_token: dict[str, int] = {}

    def begin(self, address: str, token_id: str | None) -> None:
        """Refuses with 429 when either has as many as it may have; then neither is counted."""
        if self._by_address.get(address, 0) >= self._limits.polls_per_address:
            raise too_many(1, "Subscribe")
        if token_id is not None:
            if self._by_token.get(token_id, 0) >= self._limits.polls_per_token:
                raise too_many(1, "Subscribe")
            self._by_token[token_id] = self._by_token.get(token_id, 0) + 1
        self._by_address[address] = self._by_address.get(address, 0) + 1

    def end(self, address: str, token_id: str | None) -> None:
        _decrease(self._by_address, address)
        if token_id is not None:
            _decrease(self._by_token, token_id)


def _decrease(counts: dict[str, int], key: str) -> None:
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1
