"""Who calls the platform: the identity that an API key or an access token proves."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONSUMER", "OPERATOR", "PROVIDER", "Principal"]

PROVIDER, CONSUMER = "provider", "consumer"
"""The two scopes: to run agents, and to send tasks."""
OPERATOR = "operator"
"""To run the network itself: the scope of a node's own API key, which no other key is given."""


@dataclass(frozen=True, slots=True)
class Principal:
    """`agent_id` and `instance_id` are set for an instance that has connected."""

    user_id: str
    org_id: str
    scopes: frozenset[str]
    key_id: str
    agent_id: str | None = None
    instance_id: str | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes
