"""Families of refresh tokens: one row a chain, with the hashes of its newest tokens. Functions over a connection."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from blocks_network.server.store.schema import refresh_families

__all__ = ["FamilyRow", "add_family", "find_family", "forget_families", "revoke_family", "turn_family"]


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One chain. `previous_hash` is the token before the current one, while that is still worth knowing."""

    family_id: str
    key_id: str
    role: str
    agent_id: str | None
    instance_id: str | None
    current_hash: str = field(repr=False)
    previous_hash: str | None = field(repr=False)
    created_at_ms: int
    rotated_at_ms: int
    revoked_at_ms: int | None = None


def add_family(connection: Connection, row: FamilyRow) -> None:
    """A new chain; an instance's earlier one ends with it."""
    if row.instance_id is not None:
        connection.execute(
            delete(refresh_families).where(
                refresh_families.c.agent_id == row.agent_id, refresh_families.c.instance_id == row.instance_id
            )
        )
    connection.execute(insert(refresh_families).values(**asdict(row)))


def find_family(connection: Connection, family_id: str) -> FamilyRow | None:
    """Also one that is revoked."""
    row = connection.execute(select(refresh_families).where(refresh_families.c.family_id == family_id)).first()
    return None if row is None else FamilyRow(**row._mapping)


def turn_family(
    connection: Connection, family: FamilyRow, *, current_hash: str, previous_hash: str | None, at_ms: int
) -> bool:
    """The chain's next token. False when the chain is no longer as `family` has it: somebody else turned it."""
    changed = connection.execute(
        update(refresh_families)
        .where(
            refresh_families.c.family_id == family.family_id,
            refresh_families.c.current_hash == family.current_hash,
            refresh_families.c.revoked_at_ms.is_(None),
        )
        .values(current_hash=current_hash, previous_hash=previous_hash, rotated_at_ms=at_ms)
    )
    return changed.rowcount == 1


def revoke_family(connection: Connection, family_id: str, at_ms: int) -> None:
    connection.execute(
        update(refresh_families)
        .where(refresh_families.c.family_id == family_id, refresh_families.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=at_ms)
    )


def forget_families(connection: Connection, idle_since_ms: int) -> int:
    """Deletes the chains that were last used before; returns how many."""
    return connection.execute(delete(refresh_families).where(refresh_families.c.rotated_at_ms < idle_since_ms)).rowcount
