"""What placing a task needs to know of agents and their instances. Functions over a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, select

from blocks_network.server.store.schema import agents, instances
from blocks_network.wire import cards

__all__ = ["Provider", "find_provider", "instance_concurrency"]


@dataclass(frozen=True)
class Provider:
    """An agent as a sender of tasks meets it. `scaling` is what its instances said last at their connect.

    What each task asks of the card is read once.
    """

    agent_id: str
    agent_name: str
    org_id: str
    card: Mapping[str, Any]
    listing: str
    billing_mode: str
    scaling: Mapping[str, Any]
    forced_offline: bool

    @cached_property
    def task_kinds(self) -> list[str]:
        return cards.task_kinds(self.card)

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Those declared, by id."""
        return {str(item.get("id")): item for item in cards.inputs(self.card)}

    @cached_property
    def is_streaming(self) -> bool:
        return cards.is_streaming(self.card)

    @cached_property
    def consumer_key_required(self) -> bool:
        return cards.consumer_key_required(self.card)


def find_provider(connection: Connection, agent_name: str) -> Provider | None:
    columns = (
        agents.c.agent_id,
        agents.c.agent_name,
        agents.c.org_id,
        agents.c.card,
        agents.c.listing,
        agents.c.billing_mode,
        agents.c.scaling,
        agents.c.forced_offline,
    )
    row = connection.execute(select(*columns).where(agents.c.agent_name == agent_name)).first()
    if row is None:
        return None
    values = dict(row._mapping)
    values["card"], values["scaling"] = json.loads(values["card"]), json.loads(values["scaling"])
    return Provider(**values)


def instance_concurrency(connection: Connection, agent_id: str, instance_id: str) -> int | None:
    """How many tasks the instance takes at one time (0: no limit); None when it never connected for this agent."""
    asked = select(instances.c.concurrency).where(
        instances.c.instance_id == instance_id, instances.c.agent_id == agent_id
    )
    return connection.execute(asked).scalar()
