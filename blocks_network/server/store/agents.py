"""The registry's rows: agents with their cards, and the tags that they are found by. Functions over a connection."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from blocks_network.server.store.orgs import ensure_org
from blocks_network.server.store.schema import agent_tags, agents

__all__ = [
    "AgentFilter",
    "AgentRow",
    "NameTaken",
    "TooManyAgents",
    "find_agent",
    "find_agent_by_id",
    "list_agents",
    "put_agent",
    "remove_agent",
    "set_forced_offline",
]

TAG_CHARS = 255
"""Of a tag as it is stored and looked for."""
SAID = ("user_id", "card", "listing", "billing_mode", "price_per_task", "price_per_minute", "updated_at_ms")
"""What a repeated registration replaces."""


class NameTaken(Exception):
    """Another org has an agent of this name."""


class TooManyAgents(Exception):
    """The org has as many agents as it may have."""


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


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents `list_agents` is to show: of the public ones and those of the reader's org.

    One of `tags` is enough, None is any; `cursor` is from the page before.
    """

    reader_org_id: str | None
    listing: str | None = None
    tags: frozenset[str] | None = None
    cursor: str | None = None
    limit: int = 100


def find_agent(connection: Connection, agent_name: str) -> AgentRow | None:
    row = connection.execute(select(agents).where(agents.c.agent_name == agent_name)).first()
    return None if row is None else _read(row)


def find_agent_by_id(connection: Connection, agent_id: str) -> AgentRow | None:
    row = connection.execute(select(agents).where(agents.c.agent_id == agent_id)).first()
    return None if row is None else _read(row)


def put_agent(
    connection: Connection, row: AgentRow, *, tags: Iterable[str], agents_per_org: int
) -> tuple[AgentRow, AgentRow | None]:
    """Adds the agent, or replaces what its owner says of it: (as it is now, as it was). NameTaken, TooManyAgents."""
    known = find_agent(connection, row.agent_name)
    if known is not None and known.org_id != row.org_id:
        raise NameTaken(row.agent_name)
    values = {
        **{name: getattr(row, name) for name in AgentRow.__slots__},
        "card": json.dumps(row.card, ensure_ascii=False),
        "scaling": json.dumps(row.scaling),
    }
    if known is None:
        ensure_org(connection, row.org_id, row.registered_at_ms)
        held = select(func.count()).select_from(agents).where(agents.c.org_id == row.org_id)
        if connection.execute(held).scalar_one() >= agents_per_org:
            raise TooManyAgents(row.org_id)
        try:
            connection.execute(insert(agents).values(**values))
        except IntegrityError as fault:  # another node has registered the name at this moment
            raise NameTaken(row.agent_name) from fault
        _put_tags(connection, row.agent_id, tags)
        return row, None
    said = {name: values[name] for name in SAID}
    connection.execute(update(agents).where(agents.c.agent_id == known.agent_id).values(**said))
    _put_tags(connection, known.agent_id, tags)
    now = find_agent(connection, row.agent_name)
    assert now is not None
    return now, known


def remove_agent(connection: Connection, agent_name: str, org_id: str) -> AgentRow | None:
    """The entry that is gone now; None when this org has none of this name. Tags and instances go with it."""
    known = find_agent(connection, agent_name)
    if known is None or known.org_id != org_id:
        return None
    connection.execute(delete(agents).where(agents.c.agent_id == known.agent_id))
    return known


def set_forced_offline(connection: Connection, agent_name: str, offline: bool) -> bool:
    """False when there is no such agent."""
    changed = connection.execute(update(agents).where(agents.c.agent_name == agent_name).values(forced_offline=offline))
    return changed.rowcount == 1


def list_agents(connection: Connection, wanted: AgentFilter) -> tuple[list[AgentRow], str | None, int]:
    """(page by name, next cursor, how many in all). ValueError for a foreign cursor."""
    where = list(_conditions(wanted))
    total = connection.execute(select(func.count()).select_from(agents).where(*where)).scalar_one()
    after = _name_of(wanted.cursor)
    if after is not None:
        where.append(agents.c.agent_name > after)
    asked = select(agents).where(*where).order_by(agents.c.agent_name).limit(wanted.limit + 1)
    page = [_read(row) for row in connection.execute(asked)]
    if len(page) <= wanted.limit:
        return page, None, total
    del page[wanted.limit :]
    return page, _cursor_of(page[-1].agent_name), total


def _conditions(wanted: AgentFilter) -> Iterable[ColumnElement[bool]]:
    public = agents.c.listing == "public"
    yield public if wanted.reader_org_id is None else or_(public, agents.c.org_id == wanted.reader_org_id)
    if wanted.listing is not None:
        yield agents.c.listing == wanted.listing
    if wanted.tags is not None:
        tags = sorted({tag[:TAG_CHARS] for tag in wanted.tags})
        yield agents.c.agent_id.in_(select(agent_tags.c.agent_id).where(agent_tags.c.tag.in_(tags)))


def _put_tags(connection: Connection, agent_id: str, tags: Iterable[str]) -> None:
    connection.execute(delete(agent_tags).where(agent_tags.c.agent_id == agent_id))
    rows = [{"agent_id": agent_id, "tag": tag} for tag in sorted({tag[:TAG_CHARS] for tag in tags})]
    if rows:
        connection.execute(insert(agent_tags), rows)


def _read(row: Row[Any]) -> AgentRow:
    values = dict(row._mapping)
    values["card"], values["scaling"] = json.loads(values["card"]), json.loads(values["scaling"])
    return AgentRow(**values)


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(f"after:{name}".encode()).decode().rstrip("=")


def _name_of(cursor: str | None) -> str | None:
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:") or "\x00" in text:
        raise ValueError("cursor is not one that a list of agents gave")
    return text.removeprefix("after:")
