"""What this network offers beyond the hosted protocol, as its configuration document announces it."""

from __future__ import annotations

__all__ = ["FEATURES"]

FEATURES = frozenset(
    {
        "batch-calls",
        "batch-publish",
        "channel-group-sessions",
        "cursor",
        "durable-streams",
        "subscribe-stream",
        "webhooks",
    }
)
"""`NodeConfig.features` leaves some out. Clients of ours use a feature only where it is announced."""
