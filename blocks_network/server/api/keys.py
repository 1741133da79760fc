"""API keys of an organisation: made (and shown once), listed, revoked.

A key gives what it has itself: its organisation, its user, its scopes or fewer. The node's own key, the operator's, may
make keys for any organisation and end any but itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.apikeys import ALL_SCOPES, ApiKeyRow
from blocks_network.server.access.principal import OPERATOR, Principal
from blocks_network.server.api.bearer import key_owner_of
from blocks_network.server.api.bodies import read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, bad_request, forbidden, json_answer, not_found
from blocks_network.server.api.services import Services
from blocks_network.wire.instants import instant_text

__all__ = ["routes"]

PATH = "/api/v1/keys"
BODY_BYTES = 8 * 1024
ID_BYTES, LABEL_BYTES = 64, 255
SCOPES = sorted(ALL_SCOPES)


def routes(services: Services) -> list[Route]:
    keys = Keys(services)
    return [
        Route(PATH, keys.list, methods=["GET"]),
        Route(PATH, keys.create, methods=["POST"]),
        Route(PATH + "/{key_id}", keys.revoke, methods=["DELETE"]),
    ]


class Keys:
    """The calls. Only an API key manages API keys: a token that leaked for minutes must not become one for ever."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, request: Request) -> Response:
        """`{"keyId", "apiKey", ...}`: the only time that the secret is told."""
        owner = await key_owner_of(request, self._services)
        body = await read_object(request, BODY_BYTES, optional=True)
        scopes = _scopes(body, owner)
        org_id = text_field(body, "orgId", max_bytes=ID_BYTES) or owner.org_id
        # another organisation's user is somebody else, even when nobody has named him
        own_user = owner.user_id if org_id == owner.org_id else f"user_{org_id.removeprefix('org_')}"[:ID_BYTES]
        user_id = text_field(body, "userId", max_bytes=ID_BYTES) or own_user
        if (org_id, user_id) != (owner.org_id, owner.user_id) and not owner.may(OPERATOR):
            raise forbidden("only the network's operator makes keys for others: leave out orgId and userId")
        if not all(letter.isalnum() or letter in "_-" for letter in org_id + user_id):
            raise bad_request("orgId and userId are made of letters, digits, _ and -")
        label = text_field(body, "label", max_bytes=LABEL_BYTES) or ""
        key_id, secret = await self._services.api_keys.create(
            org_id=org_id, user_id=user_id, scopes=scopes, label=label
        )
        answer = {"keyId": key_id, "apiKey": secret, "orgId": org_id, "userId": user_id, "label": label}
        return json_answer({**answer, "scopes": sorted(scopes)}, 201)

    async def list(self, request: Request) -> Response:
        """`{"keys": [...]}`, oldest first, without secrets: of the caller's organisation, of all for the operator."""
        owner = await key_owner_of(request, self._services)
        rows = await self._services.api_keys.list(None if owner.may(OPERATOR) else owner.org_id)
        return json_answer({"keys": [_view(row) for row in rows]})

    async def revoke(self, request: Request) -> Response:
        """Ends a key at once, and the tokens that came from it."""
        owner = await key_owner_of(request, self._services)
        key_id = str(request.path_params["key_id"])
        org_id = None if owner.may(OPERATOR) else owner.org_id
        row = next((row for row in await self._services.api_keys.list(org_id) if row.key_id == key_id), None)
        if row is None:
            raise not_found(f"there is no API key {key_id[:ID_BYTES]!r}", "KEY_NOT_FOUND")
        if key_id == owner.key_id:
            raise ApiRefusal(409, "KEY_IN_USE", "a key does not revoke itself: make another one, and revoke with that")
        beyond = _scopes_of(row) - owner.scopes
        if beyond:
            raise forbidden(f"the key has scopes that yours lacks: {', '.join(sorted(beyond))}", "SCOPE_MISSING")
        await self._services.api_keys.revoke(key_id)  # one that was revoked before stays so
        return json_answer({"keyId": key_id, "revoked": True})


def _scopes(body: Mapping[str, Any], owner: Principal) -> frozenset[str]:
    """What the new key may do: what was asked for, else what the caller may."""
    wanted = body.get("scopes")
    if wanted is None:
        return owner.scopes & ALL_SCOPES
    if not isinstance(wanted, list) or not wanted or not all(scope in SCOPES for scope in wanted):
        raise bad_request(f"scopes must be a list of some of {', '.join(SCOPES)}")
    beyond = frozenset(wanted) - owner.scopes
    if beyond:
        raise forbidden(f"your key lacks the scope {', '.join(sorted(beyond))} and cannot give it", "SCOPE_MISSING")
    return frozenset(wanted)


def _scopes_of(row: ApiKeyRow) -> frozenset[str]:
    return frozenset(row.scopes.split(","))


def _view(row: ApiKeyRow) -> dict[str, Any]:
    view: dict[str, Any] = {
        "keyId": row.key_id,
        "orgId": row.org_id,
        "userId": row.user_id,
        "label": row.label,
        "scopes": sorted(_scopes_of(row)),
        "createdTime": instant_text(row.created_at_ms),
    }
    if row.revoked_at_ms is not None:
        view["revokedTime"] = instant_text(row.revoked_at_ms)
    return view
