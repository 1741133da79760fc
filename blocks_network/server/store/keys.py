"""API keys by their hashes, and the keys that access tokens are signed with. Functions over a connection."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from blocks_network.server.store.orgs import ensure_org
from blocks_network.server.store.schema import api_keys, signing_keys

__all__ = [
    "ApiKeyRow",
    "SigningKey",
    "add_key",
    "add_signing_key",
    "ensure_key",
    "find_key",
    "list_keys",
    "load_signing_keys",
    "revoke_key",
    "revoked_since",
]


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """One API key. `key_hash` is the hex SHA-256 of its secret, `scopes` a comma-separated list."""

    key_id: str
    key_hash: str = field(repr=False)
    org_id: str
    user_id: str
    scopes: str
    label: str
    created_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of access tokens. `secret` is a text of 256 random bits."""

    kid: str
    algorithm: str
    secret: str = field(repr=False)
    created_at_ms: int


def add_key(connection: Connection, row: ApiKeyRow) -> None:
    """A new key, and its org where there is none yet."""
    ensure_org(connection, row.org_id, row.created_at_ms)
    connection.execute(insert(api_keys).values(**asdict(row)))


def ensure_key(connection: Connection, row: ApiKeyRow) -> ApiKeyRow:
    """The key of this hash: the one that is there (perhaps revoked), or this one, added."""
    known = find_key(connection, row.key_hash)
    if known is not None:
        return known
    add_key(connection, row)
    return row


def find_key(connection: Connection, key_hash: str) -> ApiKeyRow | None:
    """Also one that is revoked."""
    row = connection.execute(select(api_keys).where(api_keys.c.key_hash == key_hash)).first()
    return None if row is None else ApiKeyRow(**row._mapping)


def list_keys(connection: Connection, org_id: str | None = None) -> list[ApiKeyRow]:
    """Oldest first; of all orgs when none is named."""
    asked = select(api_keys).order_by(api_keys.c.created_at_ms, api_keys.c.key_id)
    if org_id is not None:
        asked = asked.where(api_keys.c.org_id == org_id)
    return [ApiKeyRow(**row._mapping) for row in connection.execute(asked)]


def revoke_key(connection: Connection, key_id: str, at_ms: int) -> bool:
    """False when there is none, or it was revoked before."""
    changed = connection.execute(
        update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=at_ms)
    )
    return changed.rowcount == 1


def revoked_since(connection: Connection, since_ms: int) -> list[str]:
    """The ids of the keys that were revoked at `since_ms` or later."""
    return list(connection.execute(select(api_keys.c.key_id).where(api_keys.c.revoked_at_ms >= since_ms)).scalars())


def load_signing_keys(connection: Connection) -> list[SigningKey]:
    """Oldest first."""
    asked = select(signing_keys).order_by(signing_keys.c.created_at_ms, signing_keys.c.kid)
    return [SigningKey(**row._mapping) for row in connection.execute(asked)]


def add_signing_key(connection: Connection, key: SigningKey, forget_before_ms: int) -> None:
    """A new key, which is the newest; those that were made before `forget_before_ms` go."""
    connection.execute(delete(signing_keys).where(signing_keys.c.created_at_ms < forget_before_ms))
    connection.execute(insert(signing_keys).values(**asdict(key)))
