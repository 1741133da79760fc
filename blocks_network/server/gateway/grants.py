"""Granting and revoking capability tokens. Only who holds the keyset's secret may: a signature, never a token."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.permissions import Denied
from blocks_network.server.access.tokens import MAX_TTL_MINUTES, CapabilityTokens
from blocks_network.server.gateway.reply import Refusal, Reply, json_reply
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Grants", "routes"]

SERVICE = "Access Manager"
SYNONYMS = {"channels": ("channels", "spaces"), "groups": ("groups",), "uuids": ("uuids", "users")}
"""Clients send each of the older names `spaces` and `users` as a copy of its new one, or in its place."""
META_SCALARS = (str, int, float, bool, type(None))


def routes(gateway: Gateway, tokens: CapabilityTokens) -> None:
    grants = Grants(gateway, tokens)
    base = "/v3/pam/{sub}/grant"
    gateway.add("POST", base, grants.grant, service=SERVICE)
    gateway.add("DELETE", f"{base}/{{token}}", grants.revoke, service=SERVICE)


class Grants:
    """Answers with tokens that this keyset's own secret has signed."""

    def __init__(self, gateway: Gateway, tokens: CapabilityTokens) -> None:
        self._gateway, self._tokens = gateway, tokens

    async def grant(self, request: Request, keyset: Keyset) -> Reply:
        body = await request.body()
        self._authorize(request, keyset, body)
        asked = _object(_parsed(body), "body", "grant")
        permissions = _object(asked.get("permissions", {}), "permissions", "grant")
        resources = self._entries(permissions, "resources")
        patterns = self._entries(permissions, "patterns")
        if sum(map(len, (*resources.values(), *patterns.values()))) > self._gateway.limits.resources_per_token:
            raise _invalid("grant", "permissions", "Too many resources.", message="Invalid permissions")
        ttl_minutes = _ttl(asked.get("ttl"))
        uuid, meta = self._uuid(permissions.get("uuid")), _meta(permissions.get("meta"))
        try:
            token = self._tokens.mint(
                keyset,
                ttl_minutes=ttl_minutes,
                channels=resources["channels"],
                groups=resources["groups"],
                uuids=resources["uuids"],
                patterns=patterns["channels"],
                group_patterns=patterns["groups"],
                uuid_patterns=patterns["uuids"],
                uuid=uuid,
                meta=meta,
            )
        except ValueError as fault:  # an expression that does not compile, a token that would be too long
            raise _invalid("grant", "permissions", f"{fault}.", message="Invalid permissions") from None
        return json_reply({"data": {"message": "Success", "token": token}, "service": SERVICE, "status": 200})

    async def revoke(self, request: Request, keyset: Keyset) -> Reply:
        """From its answer on the token is refused, held polls included. Again is allowed."""
        body = await request.body()
        self._authorize(request, keyset, body)
        try:
            token = self._tokens.parse(keyset, request.text(4))
        except Denied as denied:
            raise _invalid("revoke", "token", f"{denied.message}.", message="Invalid token", where="path") from None
        if token.expires_at_s <= time.time():
            raise _invalid("revoke", "token", "Token is expired.", message="Invalid token", where="path")
        self._tokens.revoke(token)
        return json_reply({"data": {"message": "Success"}, "service": SERVICE, "status": 200})

    def _authorize(self, request: Request, keyset: Keyset, body: bytes) -> None:
        # a keyset that is open today may get access control tomorrow, and its tokens would still be valid then
        strict = replace(keyset, access_control=True)
        self._gateway.authorize(request, strict, (), body, signature_only=True)

    def _entries(self, permissions: Mapping[str, Any], kind: str) -> dict[str, dict[str, int]]:
        """The bits of each name under `resources` or `patterns`, synonyms united."""
        given = _object(permissions.get(kind, {}), f"permissions.{kind}", "grant")
        found: dict[str, dict[str, int]] = {}
        for noun, synonyms in SYNONYMS.items():
            united = found[noun] = {}
            for synonym in synonyms:
                where = f"permissions.{kind}.{synonym}"
                for name, bits in _object(given.get(synonym, {}), where, "grant").items():
                    self._check(name, bits, where)
                    united[name] = united.get(name, 0) | bits
        return found

    def _check(self, name: str, bits: object, where: str) -> None:
        limits = self._gateway.limits
        if not name or len(name) > max(limits.name_bytes, limits.pattern_chars):
            raise _invalid("grant", where, "A name is empty or too long.", message="Invalid permissions")
        if type(bits) is not int or not 0 <= bits <= 255:
            raise _invalid("grant", where, "Permissions should be a number of bits.", message="Invalid permissions")

    def _uuid(self, given: object) -> str | None:
        if given is None:
            return None
        if not isinstance(given, str) or not 0 < len(given) <= self._gateway.limits.name_bytes:
            raise _invalid("grant", "permissions.uuid", "It should be a text.", message="Invalid uuid")
        return given


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _invalid("grant", "body", "It should be JSON.", message="Invalid body") from None


def _object(value: object, where: str, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(source, where, "It should be an object.", message=f"Invalid {where}")
    return value


def _ttl(given: object) -> int:
    """Minutes, as a number or as its digits."""
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10:
        given = int(given)
    if type(given) is not int or not 1 <= given <= MAX_TTL_MINUTES:
        raise _invalid("grant", "ttl", f"Range should be 1 to {MAX_TTL_MINUTES} minute(s).", message="Invalid ttl")
    return given


def _meta(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    meta = _object(given, "permissions.meta", "grant")
    if not all(isinstance(value, META_SCALARS) for value in meta.values()):
        raise _invalid("grant", "permissions.meta", "Values should be scalars.", message="Invalid meta")
    return meta


def _invalid(source: str, location: str, detail: str, *, message: str, where: str = "body") -> Refusal:
    """The protocol's own shape for what Access Manager does not take."""
    error = {
        "message": message,
        "source": source,
        "details": [{"message": detail, "location": location, "locationType": where}],
    }
    return Refusal(json_reply({"error": error, "service": SERVICE, "status": 400}, 400), "bad_request")
