"""API keys: `bk_` and 256 random bits, kept as their SHA-256, shown once, revocable."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

from blocks_network.server.access.principal import CONSUMER, OPERATOR, PROVIDER, Principal
from blocks_network.server.store.database import Database
from blocks_network.server.store.keys import ApiKeyRow, add_key, ensure_key, find_key, list_keys, revoke_key

__all__ = ["ALL_SCOPES", "KEY_PREFIX", "ApiKeyRow", "ApiKeys"]

log = logging.getLogger(__name__)

KEY_PREFIX = "bk_"
MAX_SECRET_CHARS = 256
ALL_SCOPES = frozenset({PROVIDER, CONSUMER})
"""What a key has when nothing else is said."""


class ApiKeys:
    """The network's API keys. Nothing is cached: a key that is revoked, on whatever node, is refused at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told: list[Callable[[str], None]] = []

    async def create(
        self, *, org_id: str, user_id: str, scopes: Iterable[str] = ALL_SCOPES, label: str = ""
    ) -> tuple[str, str]:
        """(key id, secret) of a new key. The secret cannot be had again. The org is made when there is none yet."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        row = _row(secret, org_id, user_id, scopes, label)
        await self._database.write(lambda connection: add_key(connection, row))
        return row.key_id, secret

    async def ensure(
        self,
        secret: str,
        *,
        org_id: str,
        user_id: str,
        scopes: Iterable[str] = ALL_SCOPES,
        label: str = "",
    ) -> str:
        """The id of a key whose secret was chosen outside, made when it is new. A revoked one stays revoked."""
        if not _looks_like_a_key(secret):
            raise ValueError(f"an API key starts with {KEY_PREFIX} and has at most {MAX_SECRET_CHARS} characters")
        row = _row(secret, org_id, user_id, scopes, label)
        kept = await self._database.write(lambda connection: ensure_key(connection, row))
        if kept.revoked_at_ms is not None:
            log.warning("the API key %s was revoked and stays so; choose another key", kept.key_id)
        return kept.key_id

    async def verify(self, secret: str) -> Principal | None:
        """Whom the key stands for; None for one that is unknown or revoked."""
        if not _looks_like_a_key(secret):
            return None
        key_hash = _hash(secret)
        row = await self._database.read(lambda connection: find_key(connection, key_hash))
        if row is None or row.revoked_at_ms is not None:
            return None
        return Principal(row.user_id, row.org_id, _scopes_of(row.scopes), row.key_id)

    async def list(self, org_id: str | None = None) -> Sequence[ApiKeyRow]:
        """The keys of one org, or all of the network; oldest first. No secrets: there are none."""
        return await self._database.read(lambda connection: list_keys(connection, org_id))

    async def revoke(self, key_id: str) -> bool:
        """Ends a key. False when there is no such key, or it was revoked before."""
        at_ms = _now_ms()
        revoked = await self._database.write(lambda connection: revoke_key(connection, key_id, at_ms))
        if revoked:
            for told in self._told:
                told(key_id)
        return revoked

    def on_revoked(self, told: Callable[[str], None]) -> None:
        """Calls `told(key_id)` in the loop after each revocation on this node. It must not raise."""
        self._told.append(told)


def _row(secret: str, org_id: str, user_id: str, scopes: Iterable[str], label: str) -> ApiKeyRow:
    wanted = frozenset(scopes)
    if not wanted or not wanted <= ALL_SCOPES | {OPERATOR}:
        raise ValueError(f"scopes are {' and '.join(sorted(ALL_SCOPES))}, not {', '.join(sorted(wanted)) or 'none'}")
    return ApiKeyRow(
        key_id=f"key_{secrets.token_hex(10)}",
        key_hash=_hash(secret),
        org_id=org_id,
        user_id=user_id,
        scopes=",".join(sorted(wanted)),
        label=label,
        created_at_ms=_now_ms(),
    )


def _looks_like_a_key(secret: str) -> bool:
    return secret.startswith(KEY_PREFIX) and len(KEY_PREFIX) < len(secret) <= MAX_SECRET_CHARS


def _scopes_of(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def _hash(secret: str) -> str:
    """Plain SHA-256 is enough: what is hashed has 256 random bits, nothing can be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
