"""Access tokens: JWTs of minutes, signed with stored keys that rotate. Checking one costs no I/O."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import jwt

from blocks_network.server.access.principal import Principal
from blocks_network.server.store.database import Database
from blocks_network.server.store.keys import SigningKey, add_signing_key, load_signing_keys, revoked_since

__all__ = ["AUDIENCE", "DEFAULT_TTL_S", "ISSUER", "MAX_TTL_S", "AccessTokens", "TokenRefused", "UnknownSigningKey"]

log = logging.getLogger(__name__)

ISSUER, AUDIENCE = "blocks-network", "blocks-platform"
ALGORITHM = "HS256"
DEFAULT_TTL_S = 600
"""Ten minutes: how long a revoked key's tokens may live on other nodes, against how often clients must come."""
MAX_TTL_S = 3_600
ROTATE_AFTER_S = 30 * 24 * 3_600
KEPT_AFTER_ROTATION_S = MAX_TTL_S + 60
"""How long a key that signs no more still verifies: no token outlives it."""
RELOAD_EVERY_S = 5.0
"""A token with an unknown key id makes a node look for new keys, at most so often: such tokens cost nothing to make."""
REMEMBERED = 4_096
"""Tokens whose signature was checked already. A client sends one token hundreds of times."""
REQUIRED = ["exp", "iat", "sub", "iss", "aud"]


class TokenRefused(Exception):
    """A token that does not hold. `code` goes to the caller: TOKEN_EXPIRED, TOKEN_INVALID or TOKEN_REVOKED."""

    def __init__(self, message: str, code: str = "TOKEN_INVALID") -> None:
        super().__init__(message)
        self.code = code


class UnknownSigningKey(TokenRefused):
    """Signed with a key that this node does not know, or not yet: `reload` may help."""


class AccessTokens:
    """Issues and verifies. Belongs to one event loop. `clock` gives Unix seconds."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._keys: dict[str, SigningKey] = {}
        self._newest: SigningKey | None = None
        self._verified: dict[str, tuple[Principal, float]] = {}
        self._refused_keys: set[str] = set()
        self._loaded_at_s = 0.0
        self._loading = asyncio.Lock()
        self._rotation: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the signing keys, and makes one where there is none that is young enough."""
        since_ms = self._ms(self._clock() - MAX_TTL_S)
        self._refused_keys.update(await self._database.read(lambda connection: revoked_since(connection, since_ms)))
        await self._load()
        if self._is_due():
            await self.rotate()

    async def stop(self) -> None:
        """Waits for a rotation that is under way."""
        if self._rotation is not None:
            await asyncio.wait({self._rotation})

    async def rotate(self) -> None:
        """From now on a new key signs. The ones before it verify until the last token they signed has expired."""
        now_s = self._clock()
        key = SigningKey(secrets.token_hex(8), ALGORITHM, secrets.token_hex(32), self._ms(now_s))
        forget_before_ms = self._ms(now_s - ROTATE_AFTER_S - KEPT_AFTER_ROTATION_S)
        if self._newest is not None:
            forget_before_ms = min(forget_before_ms, self._newest.created_at_ms)
        await self._database.write(lambda connection: add_signing_key(connection, key, forget_before_ms))
        await self._load()

    async def reload(self) -> None:
        """Looks for keys that other nodes have made; nothing when it was done a moment ago."""
        async with self._loading:
            if time.monotonic() - self._loaded_at_s >= RELOAD_EVERY_S:
                await self._load()

    def issue(self, principal: Principal, ttl_s: int = DEFAULT_TTL_S) -> str:
        """A token for `ttl_s` seconds (at most MAX_TTL_S). RuntimeError before `start`."""
        key = self._newest
        if key is None:
            raise RuntimeError("access tokens were not started")
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ValueError(f"an access token lives 1 to {MAX_TTL_S} s, not {ttl_s}")
        if self._is_due() and (self._rotation is None or self._rotation.done()):
            self._rotation = asyncio.get_running_loop().create_task(self._rotate_quietly(), name="blocks-jwt-rotation")
        now_s = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal.user_id,
            "org": principal.org_id,
            "scope": " ".join(sorted(principal.scopes)),
            "key": principal.key_id,
            "agent": principal.agent_id,
            "instance": principal.instance_id,
            "iat": now_s,
            "exp": now_s + ttl_s,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            key.secret,
            algorithm=ALGORITHM,
            headers={"kid": key.kid},
        )

    def verify(self, token: str) -> Principal:
        """Whom the token stands for. TokenRefused when it does not hold (any more)."""
        known = self._verified.get(token)
        if known is None:
            known = self._check(token)
            if len(self._verified) >= REMEMBERED:
                self._verified.clear()
            self._verified[token] = known
        principal, expires_at_s = known
        if expires_at_s <= self._clock():
            del self._verified[token]
            raise TokenRefused("the access token has expired", "TOKEN_EXPIRED")
        if principal.key_id in self._refused_keys:
            raise TokenRefused("the API key behind this access token was revoked", "TOKEN_REVOKED")
        return principal

    def refuse_key(self, key_id: str) -> None:
        """From now on the tokens that were issued for this API key do not hold."""
        self._refused_keys.add(key_id)

    def _check(self, token: str) -> tuple[Principal, float]:
        """Signature and claims; whether it has expired is looked at by `verify`, by the same clock as ever."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise UnknownSigningKey("the access token was signed with a key that this network does not have")
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False},
            )
            return _principal(claims), float(claims["exp"])
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, RecursionError) as fault:
            raise TokenRefused("the bearer is neither an API key nor an access token of this network") from fault

    async def _load(self) -> None:
        keys = await self._database.read(load_signing_keys)
        self._keys = {key.kid: key for key in keys}
        self._newest = keys[-1] if keys else None
        self._verified.clear()
        self._loaded_at_s = time.monotonic()

    def _is_due(self) -> bool:
        return self._newest is None or self._clock() - self._newest.created_at_ms / 1000 >= ROTATE_AFTER_S

    async def _rotate_quietly(self) -> None:
        try:
            await self.rotate()
        except Exception:
            log.exception("the signing key of access tokens was not rotated; the one in use goes on")

    @staticmethod
    def _ms(seconds: float) -> int:
        return int(seconds * 1000)


def _principal(claims: dict[str, Any]) -> Principal:
    """KeyError and TypeError for claims that this network never writes."""
    return Principal(
        user_id=str(claims["sub"]),
        org_id=str(claims["org"]),
        scopes=frozenset(claims["scope"].split()),
        key_id=str(claims["key"]),
        agent_id=claims.get("agent"),
        instance_id=claims.get("instance"),
    )
