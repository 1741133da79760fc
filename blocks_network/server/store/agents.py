"""The registry's entries and the instances that have connected. Functions over a connection."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from blocks_network.server.store.orgs import ensure_org
from blocks_network.server.store.schema import agents, instances

__all__ = [
    "AgentRow",
    "NameTaken",
    "find_agent",
    "find_agent_by_id",
    "list_agents",
    "put_agent",
    "put_instance",
    "remove_agent",
    "set_forced_offline",
]


class NameTaken(Exception):
    """Another org has an agent of this name."""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent. `card` is whole, with `runtime`; `scaling` is what its instances said last at their connect."""

    agent_id: str
    agent_name: str
    org_id: str
    user_id: str
    card: Mapping[str, Any]
    listing: str
    billing_mode: str
    price_per_task: float | None
    price_per_minute: float | None
    scaling: Mapping[str, Any]
    forced_offline: bool
    registered_at_ms: int
    updated_at_ms: int


def find_agent(connection: Connection, agent_name: str) -> AgentRow | None:
    row = connection.execute(select(agents).where(agents.c.agent_name == agent_name)).first()
    return None if row is None else _read(row)


def find_agent_by_id(connection: Connection, agent_id: str) -> AgentRow | None:
    row = connection.execute(select(agents).where(agents.c.agent_id == agent_id)).first()
    return None if row is None else _read(row)


def put_agent(connection: Connection, row: AgentRow) -> tuple[AgentRow, bool]:
    """Adds the agent, or replaces what its owner says of it: (the entry as it is now, whether it is new). NameTaken."""
    ensure_org(connection, row.org_id, row.updated_at_ms)
    known = find_agent(connection, row.agent_name)
    if known is not None and known.org_id != row.org_id:
        raise NameTaken(row.agent_name)
    said = {
        "card": json.dumps(row.card, ensure_ascii=False),
        "listing": row.listing,
        "billing_mode": row.billing_mode,
        "price_per_task": row.price_per_task,
        "price_per_minute": row.price_per_minute,
        "updated_at_ms": row.updated_at_ms,
    }
    if known is None:
        connection.execute(
            insert(agents).values(
                agent_id=row.agent_id,
                agent_name=row.agent_name,
                org_id=row.org_id,
                user_id=row.user_id,
                scaling=json.dumps(row.scaling),
                forced_offline=row.forced_offline,
                registered_at_ms=row.registered_at_ms,
                **said,
            )
        )
        return row, True
    connection.execute(update(agents).where(agents.c.agent_id == known.agent_id).values(**said))
    now = find_agent(connection, row.agent_name)
    assert now is not None
    return now, False


def remove_agent(connection: Connection, agent_name: str, org_id: str) -> AgentRow | None:
    """The entry that is gone now; None when this org has none of this name. Its instances' records go with it."""
    known = find_agent(connection, agent_name)
    if known is None or known.org_id != org_id:
        return None
    connection.execute(delete(instances).where(instances.c.agent_id == known.agent_id))
    connection.execute(delete(agents).where(agents.c.agent_id == known.agent_id))
    return known


def put_instance(
    connection: Connection,
    *,
    instance_id: str,
    agent_id: str,
    concurrency: int,
    scaling: Mapping[str, Any],
    at_ms: int,
) -> bool:
    """Notes a connect. False when the instance's id belongs to another agent."""
    owner = connection.execute(select(instances.c.agent_id).where(instances.c.instance_id == instance_id)).scalar()
    if owner is not None and owner != agent_id:
        return False
    values = {"concurrency": concurrency, "connected_at_ms": at_ms}
    if owner is None:
        connection.execute(insert(instances).values(instance_id=instance_id, agent_id=agent_id, **values))
    else:
        connection.execute(update(instances).where(instances.c.instance_id == instance_id).values(**values))
    connection.execute(update(agents).where(agents.c.agent_id == agent_id).values(scaling=json.dumps(scaling)))
    return True


def set_forced_offline(connection: Connection, agent_name: str, offline: bool) -> bool:
    """False when there is no such agent."""
    changed = connection.execute(update(agents).where(agents.c.agent_name == agent_name).values(forced_offline=offline))
    return changed.rowcount == 1


def list_agents(
    connection: Connection,
    *,
    org_id: str | None,
    tag: str | None,
    listing: str | None,
    limit: int,
    cursor: str | None,
) -> tuple[list[AgentRow], str | None, int]:
    """(page, next cursor, how many in all) of what this org may see, by name. ValueError for a foreign cursor.

    Tags stand inside the cards, which the database does not read: with `tag`, the rows are filtered here.
    """
    seen = agents.c.listing == "public"
    if org_id is not None:
        seen = or_(seen, agents.c.org_id == org_id)
    wanted = and_(seen, agents.c.listing == listing) if listing else seen
    after = _name_of(cursor)
    if tag is not None:
        rows = (_read(row) for row in connection.execute(select(agents).where(wanted).order_by(agents.c.agent_name)))
        fitting = [row for row in rows if _has_tag(row.card, tag)]
        page = [row for row in fitting if after is None or row.agent_name > after][: limit + 1]
        total = len(fitting)
    else:
        total = connection.execute(select(func.count()).select_from(agents).where(wanted)).scalar_one()
        asked = select(agents).where(wanted).order_by(agents.c.agent_name).limit(limit + 1)
        if after is not None:
            asked = asked.where(agents.c.agent_name > after)
        page = [_read(row) for row in connection.execute(asked)]
    more = len(page) > limit
    page = page[:limit]
    return page, _cursor_of(page[-1].agent_name) if more and page else None, total


def _read(row: Row[Any]) -> AgentRow:
    values = dict(row._mapping)
    values["card"], values["scaling"] = json.loads(values["card"]), json.loads(values["scaling"])
    return AgentRow(**values)


def _has_tag(card: Mapping[str, Any], tag: str) -> bool:
    section = card.get("tags", card.get("skills"))
    entries = section if isinstance(section, list) else []
    return any(isinstance(entry, Mapping) and tag in (entry.get("id"), entry.get("name")) for entry in entries)


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(f"after:{name}".encode()).decode().rstrip("=")


def _name_of(cursor: str | None) -> str | None:
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise ValueError("cursor is not one that a list of agents gave")
    return text.removeprefix("after:")
