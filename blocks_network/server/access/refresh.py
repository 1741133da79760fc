"""Refresh tokens: each is good for one renewal and replaced by it; whoever shows an old one ends its whole family.

A token that comes back after it was replaced was either copied, or its holder never got the answer that replaced it.
The two look alike, so the token just before the current one is taken once more within GRACE_S of its replacement, and
the answer that was lost is void from then on: if a thief has it, the thief's next renewal ends the family, and so does
a second return of the same token. In all other cases the family ends at once and its holder connects again with the
API key, which every renewal needs as well.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from blocks_network.server.store.database import Database
from blocks_network.server.store.refresh import (
    FamilyRow,
    add_family,
    find_family,
    forget_families,
    revoke_family,
    turn_family,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["GRACE_S", "IDLE_S", "RefreshRefused", "RefreshTokens", "Renewed", "Role"]

log = logging.getLogger(__name__)

Role = Literal["provider", "consumer"]

GRACE_S = 60
"""Clients give an answer up after 30 s, and try again after 5 s and 10 s."""
IDLE_S = 30 * 24 * 3_600
"""A family that nobody has used for so long ends: its holder is gone, or has the API key to come back with."""
PREFIX = "rt_"
FAMILY_CHARS = 24
MAX_CHARS = 256


class RefreshRefused(Exception):
    """The token does not hold; connecting again is the way on. The message says why, for the log alone."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal gives: the next token, and whom the family belongs to."""

    token: str = field(repr=False)
    role: str
    agent_id: str | None
    instance_id: str | None


class RefreshTokens:
    """Issues and rotates. Tokens are kept as hashes. `clock` gives Unix seconds."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    async def issue(
        self, *, key_id: str, role: Role, agent_id: str | None = None, instance_id: str | None = None
    ) -> str:
        """The first token of a new family. An instance has one family: an earlier one ends."""
        at_ms = self._now_ms()
        family_id, secret = secrets.token_hex(FAMILY_CHARS // 2), secrets.token_urlsafe(32)
        row = FamilyRow(family_id, key_id, role, agent_id, instance_id, _hash(secret), None, at_ms, at_ms)

        def write(connection: Connection) -> None:
            forget_families(connection, at_ms - IDLE_S * 1000)
            add_family(connection, row)

        await self._database.write(write)
        return _token(family_id, secret)

    async def rotate(self, token: str, *, key_id: str) -> Renewed:
        """The next token for this one. RefreshRefused when it does not hold, or is not of this API key."""
        family_id, shown = _parse(token)
        secret = secrets.token_urlsafe(32)
        at_ms = self._now_ms()

        def write(connection: Connection) -> FamilyRow | str:
            family = find_family(connection, family_id)
            if family is None or family.key_id != key_id:
                return "there is no such family"
            if family.revoked_at_ms is not None:
                return "its family has ended"
            if family.rotated_at_ms < at_ms - IDLE_S * 1000:
                return "its family was idle for too long"
            keep = _previous_after(family, shown, at_ms)
            if keep is None:
                revoke_family(connection, family_id, at_ms)
                return "it was replaced before; its family ends"
            turned = turn_family(
                connection, family, current_hash=_hash(secret), previous_hash=keep or None, at_ms=at_ms
            )
            return family if turned else "its family was renewed at the same moment"

        outcome = await self._database.write(write)
        if isinstance(outcome, str):
            log.info("refresh token of family %s refused: %s", family_id, outcome)
            raise RefreshRefused(outcome)
        return Renewed(_token(family_id, secret), outcome.role, outcome.agent_id, outcome.instance_id)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _previous_after(family: FamilyRow, shown: str, at_ms: int) -> str | None:
    """What is the previous hash once the token of hash `shown` is replaced: "" none. None: it does not hold."""
    if hmac.compare_digest(shown, family.current_hash):
        return shown
    in_grace = at_ms - family.rotated_at_ms <= GRACE_S * 1000
    if in_grace and family.previous_hash is not None and hmac.compare_digest(shown, family.previous_hash):
        return ""
    return None


def _token(family_id: str, secret: str) -> str:
    return f"{PREFIX}{family_id}.{secret}"


def _parse(token: str) -> tuple[str, str]:
    """(family id, hash of the secret)."""
    family_id, dot, secret = token.removeprefix(PREFIX).partition(".")
    wanted = token.startswith(PREFIX) and dot and len(token) <= MAX_CHARS and secret
    if not wanted or len(family_id) != FAMILY_CHARS or not family_id.isascii() or not family_id.isalnum():
        raise RefreshRefused("it is not a refresh token of this network")
    return family_id, _hash(secret)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
