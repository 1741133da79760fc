"""Placement: which instance gets a task. Pure; whoever calls it makes the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blocks_network.server.tasks.leases import Instance

__all__ = ["choose"]


def choose(instances: Iterable[Instance], now_ms: int, state_of: Callable[[str], Mapping[str, Any]]) -> Instance | None:
    """The instance with the smallest share of its places taken, among equals the one that waited longest.

    Only instances that are present, have connected, did not refuse just now and have a place. None when there is none.
    """
    best: Instance | None = None
    best_rank: tuple[float, int] = (0.0, 0)
    for instance in instances:
        if not instance.present or instance.concurrency is None or instance.cool_until_ms > now_ms:
            continue
        busy = instance.busy(now_ms, lambda at=instance: state_of(at.instance_id))  # type: ignore[misc]
        if instance.concurrency and busy >= instance.concurrency:
            continue
        # without a limit, the share of places is unknown: half full at one task, ever fuller, never full
        share = busy / instance.concurrency if instance.concurrency else busy / (busy + 1)
        rank = (share, instance.last_given)
        if best is None or rank < best_rank:
            best, best_rank = instance, rank
    return best
