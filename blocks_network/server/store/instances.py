"""Instances that have connected: the only uuids on a control channel that may get work. Functions over a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from blocks_network.server.store.schema import agents, instances

__all__ = ["note_instance"]


def note_instance(
    connection: Connection,
    *,
    agent_id: str,
    instance_id: str,
    concurrency: int,
    scaling: Mapping[str, Any],
    at_ms: int,
    keep: int,
) -> bool:
    """An instance that connects (again), and what it says of its agent's scaling. False when the agent is gone.

    `keep` instances of an agent are remembered, those that connected last.
    """
    of_agent = update(agents).where(agents.c.agent_id == agent_id).values(scaling=json.dumps(scaling))
    if connection.execute(of_agent).rowcount == 0:
        return False
    mine = (instances.c.agent_id == agent_id) & (instances.c.instance_id == instance_id)
    values = {"concurrency": concurrency, "connected_at_ms": at_ms}
    if connection.execute(update(instances).where(mine).values(values)).rowcount == 0:
        connection.execute(insert(instances).values(agent_id=agent_id, instance_id=instance_id, **values))
        _forget_oldest(connection, agent_id, keep)
    return True


def _forget_oldest(connection: Connection, agent_id: str, keep: int) -> None:
    of_agent = instances.c.agent_id == agent_id
    newest_first = select(instances.c.connected_at_ms).where(of_agent).order_by(instances.c.connected_at_ms.desc())
    oldest_kept = connection.execute(newest_first.offset(keep - 1).limit(1)).scalar()
    if oldest_kept is not None:
        connection.execute(delete(instances).where(of_agent, instances.c.connected_at_ms < oldest_kept))
