"""Orgs: the tenants. Functions over a connection."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from blocks_network.server.store.schema import orgs

__all__ = ["ensure_org", "org_name"]

_INSERT = text(  # somebody else may make it at this moment
    "INSERT INTO orgs (org_id, name, created_at_ms) VALUES (:org_id, :name, :created_at_ms) ON CONFLICT DO NOTHING"
)


def ensure_org(connection: Connection, org_id: str, at_ms: int, name: str | None = None) -> bool:
    """Makes the org when there is none of this id; True when it was made. Its name is its id unless one is given."""
    if connection.execute(select(orgs.c.org_id).where(orgs.c.org_id == org_id)).first() is not None:
        return False
    made = connection.execute(_INSERT, {"org_id": org_id, "name": name or org_id, "created_at_ms": at_ms})
    return made.rowcount == 1


def org_name(connection: Connection, org_id: str) -> str | None:
    return connection.execute(select(orgs.c.name).where(orgs.c.org_id == org_id)).scalar()
