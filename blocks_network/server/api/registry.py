"""The registry: agents are registered, found, listed and removed. What others see of a card leaves `runtime` out."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import PROVIDER, Principal
from blocks_network.server.api.bearer import optional_principal_of, principal_of
from blocks_network.server.api.bodies import choice_field, read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, bad_request, json_answer, not_found
from blocks_network.server.api.services import Services
from blocks_network.server.bus import Draft
from blocks_network.server.store import agents as store
from blocks_network.server.store.agents import AgentRow, NameTaken
from blocks_network.wire import cards
from blocks_network.wire.channels import (
    is_agent_name,
    normalize_tag_slug,
    registry_all_channel,
    registry_log_channel,
    registry_tag_channel,
    registry_visibility_channel,
)

__all__ = ["routes"]

PATH = "/api/v1/registry/agents"
LISTINGS, BILLING_MODES = ("private", "public"), ("free", "paid")
PAGE, PAGE_MAX = 100, 500
NAME_BYTES = 64
REASON_BYTES = 1_024
PRICE_MAX = 1_000_000.0


def routes(services: Services) -> list[Route]:
    registry = Registry(services)
    return [
        Route(PATH, registry.read, methods=["GET"]),
        Route(PATH, registry.register, methods=["POST"]),
        Route(PATH, registry.remove, methods=["DELETE"]),
    ]


class Registry:
    """The calls at one path, told apart by method, and GET by whether it names an agent."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def read(self, request: Request) -> Response:
        caller = await optional_principal_of(request, self._services)
        name = request.query_params.get("agentName")
        if name is None:
            return json_answer(await self._list(request, caller))
        row = await self._services.database.read(partial(store.find_agent, agent_name=name))
        if row is None or not _may_see(caller, row):
            raise not_found(f"there is no agent {name[:80]!r}", "AGENT_NOT_FOUND")
        return json_answer({"agent": agent_entry(row)})

    async def _list(self, request: Request, caller: Principal | None) -> dict[str, Any]:
        query = request.query_params
        listing = query.get("listing") or None
        if listing is not None and listing not in LISTINGS:
            raise bad_request(f"listing must be one of {', '.join(LISTINGS)}")
        limit = query.get("limit", str(PAGE))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:6]) <= PAGE_MAX):
            raise bad_request(f"limit must be a whole number from 1 to {PAGE_MAX}")
        asked = partial(
            store.list_agents,
            org_id=caller.org_id if caller else None,
            tag=query.get("tag") or None,
            listing=listing,
            limit=int(limit),
            cursor=query.get("cursor"),
        )
        try:
            rows, following, total = await self._services.database.read(asked)
        except ValueError as fault:
            raise bad_request(str(fault)) from fault
        answer: dict[str, Any] = {"agents": [agent_entry(row) for row in rows], "totalCount": total}
        if following is not None:
            answer["next"] = following
        return answer

    async def register(self, request: Request) -> Response:
        caller = await principal_of(request, self._services, scope=PROVIDER)
        body = await read_object(request, self._services.limits.body_bytes)
        row = _new_row(body, caller)
        try:
            kept, is_new = await self._services.database.write(partial(store.put_agent, row=row))
        except NameTaken:
            raise ApiRefusal(
                409, "AGENT_NAME_TAKEN", f"the name {row.agent_name!r} belongs to somebody else; choose another one"
            ) from None
        self._services.tasks.agent_changed(row.agent_name)
        await self._tell(kept, "registered" if is_new else "updated")
        answer: dict[str, Any] = {"agent": agent_entry(kept)}
        warnings = cards.card_warnings(row.card)
        if warnings:
            answer["warnings"] = warnings
        return json_answer(answer, 201 if is_new else 200)

    async def remove(self, request: Request) -> Response:
        caller = await principal_of(request, self._services, scope=PROVIDER)
        name = request.query_params.get("agentName", "")
        if not name:
            raise bad_request("agentName is required")
        body = await read_object(request, self._services.limits.body_bytes, optional=True)
        reason = text_field(body, "reason", max_bytes=REASON_BYTES)
        gone = await self._services.database.write(partial(store.remove_agent, agent_name=name, org_id=caller.org_id))
        if gone is None:
            raise not_found(f"there is no agent {name[:80]!r} of yours", "AGENT_NOT_FOUND")
        self._services.tasks.agent_changed(name)
        await self._tell(gone, "removed", reason)
        return json_answer({"agentName": name, "removed": True})

    async def _tell(self, row: AgentRow, what: str, reason: str | None = None) -> None:
        """The audit event, on the registry's channels of every keyset. They are readable with a grant alone."""
        event = {"type": what, "agentName": row.agent_name, "listing": row.listing, "ts": int(time.time() * 1000)}
        if reason is not None:
            event["reason"] = reason
        channels = {
            registry_all_channel(),
            registry_log_channel(),
            registry_visibility_channel(row.listing == "public"),
        }
        channels |= {registry_tag_channel(tag["id"]) for tag in cards.tags(row.card) if _slug(tag)}
        payload = msgspec.json.encode(event)
        for keyset in self._services.keysets:
            for channel in sorted(channels):
                await self._services.bus.publish(Draft(keyset=keyset.subscribe_key, channel=channel, payload=payload))


def _slug(tag: Mapping[str, Any]) -> bool:
    name = tag.get("id")
    return isinstance(name, str) and bool(normalize_tag_slug(name))


def _may_see(caller: Principal | None, row: AgentRow) -> bool:
    return row.listing == "public" or (caller is not None and caller.org_id == row.org_id)


def _new_row(body: Mapping[str, Any], caller: Principal) -> AgentRow:
    """The entry that the body asks for. ApiRefusal 422 with every fault of the card at once."""
    card = body.get("card")
    found = [{"path": fault.path, "what": fault.what, "why": fault.why} for fault in cards.card_faults(card)]
    if not found and isinstance(card, Mapping):
        name = cards.agent_name(card)
        if not is_agent_name(name) or len(name) > NAME_BYTES:
            why = f"a name has at most {NAME_BYTES} letters, digits and _"
            found.append({"path": "identity.agentName", "what": repr(name[:80]), "why": why})
    if found:
        raise ApiRefusal(422, "CARD_INVALID", f"the card has {len(found)} fault(s); see faults", more={"faults": found})
    assert isinstance(card, Mapping)
    listing = "private" if body.get("listing") is None else choice_field(body, "listing", LISTINGS)
    billing_mode = choice_field(body, "billingMode", BILLING_MODES)
    per_task, per_minute = _price(body, "pricePerTask"), _price(body, "pricePerMinute")
    if billing_mode == "free" and (per_task or per_minute):
        raise ApiRefusal(422, "PRICE_NOT_ALLOWED", "a free agent has no price; leave it out, or register it as paid")
    if billing_mode == "paid" and not (per_task or per_minute):
        raise ApiRefusal(422, "PRICE_REQUIRED", "a paid agent needs a positive pricePerTask or pricePerMinute")
    now_ms = int(time.time() * 1000)
    return AgentRow(
        agent_id=f"agt_{secrets.token_hex(12)}",
        agent_name=cards.agent_name(card),
        org_id=caller.org_id,
        user_id=caller.user_id,
        card=card,
        listing=listing,
        billing_mode=billing_mode,
        price_per_task=per_task,
        price_per_minute=per_minute,
        scaling={},
        forced_offline=False,
        registered_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def _price(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise bad_request(f"{name} must be a number")
    if not 0 <= value <= PRICE_MAX:
        raise bad_request(f"{name} must be from 0 to {PRICE_MAX:.0f}")
    return float(value)


def agent_entry(row: AgentRow) -> dict[str, Any]:
    """The public view of an entry; what is None is left out."""
    entry = {
        "agentName": row.agent_name,
        "name": cards.display_name(row.card),
        "description": cards.description(row.card),
        "tags": cards.tags(row.card),
        "scaling": dict(row.scaling) or None,
        "card": cards.public_view(row.card),
        "cardSummary": cards.card_summary(row.card),
        "listing": row.listing,
        "billingMode": row.billing_mode,
        "pricePerTask": row.price_per_task,
        "pricePerMinute": row.price_per_minute,
        "registeredAt": _instant(row.registered_at_ms),
        "updatedAt": _instant(row.updated_at_ms),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _instant(at_ms: int) -> str:
    text = datetime.fromtimestamp(at_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
