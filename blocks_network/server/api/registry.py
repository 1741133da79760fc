"""The registry: agents are registered, found, listed and removed. What others see of a card leaves `runtime` out.

Everybody sees the public agents, an organisation its private ones as well. What somebody may not see does not exist
for him, but for its name, which nobody else can register.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import PROVIDER, Principal
from blocks_network.server.api.bearer import key_owner_of, optional_principal_of
from blocks_network.server.api.bodies import choice_field, query_field, read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, bad_request, forbidden, json_answer, not_found
from blocks_network.server.api.registry_events import audit_drafts, switch_draft
from blocks_network.server.api.services import Services
from blocks_network.server.bus import BusFull, Draft
from blocks_network.server.store.agents import (
    AgentFilter,
    AgentRow,
    NameTaken,
    TooManyAgents,
    find_agent,
    list_agents,
    put_agent,
    remove_agent,
)
from blocks_network.wire import cards
from blocks_network.wire.channels import normalize_tag_slug
from blocks_network.wire.instants import instant_text

__all__ = ["agent_entry", "routes"]

log = logging.getLogger(__name__)

PATH = "/api/v1/registry/agents"
LISTINGS, BILLING_MODES = ("private", "public"), ("free", "paid")
LIMIT_DIGITS = 6
SHOWN_CHARS = 80
REASON_BYTES, REMOVAL_BYTES = 1_024, 8 * 1024
TERMS_BYTES = 4 * 1024
"""What a registration has beside its card."""
SHOWN_FAULTS = 5
PRICE_MAX = 1_000_000


def routes(services: Services) -> list[Route]:
    registry = Registry(services)
    return [
        Route(PATH, registry.read, methods=["GET"]),
        Route(PATH, registry.register, methods=["POST"]),
        Route(PATH, registry.remove, methods=["DELETE"]),
    ]


@dataclass(frozen=True, slots=True)
class Terms:
    """How an agent is offered. `free` has no prices, `paid` has a positive one."""

    listing: str
    billing_mode: str
    price_per_task: float | None
    price_per_minute: float | None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Terms:
        """ApiRefusal 400 for what cannot be read; `faults` tells what does not fit together."""
        return cls(
            "private" if body.get("listing") is None else choice_field(body, "listing", LISTINGS),
            choice_field(body, "billingMode", BILLING_MODES),
            _price(body, "pricePerTask"),
            _price(body, "pricePerMinute"),
        )

    def faults(self) -> list[dict[str, str]]:
        prices = {"pricePerTask": self.price_per_task, "pricePerMinute": self.price_per_minute}
        positive = [name for name, price in prices.items() if price]
        if self.billing_mode == "free":
            why = "a free agent has none: leave it out, or register it as paid"
            return [{"path": name, "what": "a price", "why": why} for name in positive]
        if positive:
            return []
        return [{"path": "pricePerTask", "what": "no price", "why": "a paid agent has it or pricePerMinute"}]


def _price(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= PRICE_MAX:
        raise bad_request(f"{name} must be a number from 0 to {PRICE_MAX}")
    return float(value)


class Registry:
    """The calls at one path, told apart by method, and GET by whether it names an agent."""

    def __init__(self, services: Services) -> None:
        self._services = services

    # --- reading ---

    async def read(self, request: Request) -> Response:
        reader = await optional_principal_of(request, self._services)
        name = query_field(request.query_params, "agentName")
        if name is not None:
            return json_answer({"agent": agent_entry(await self._visible(name, reader))})
        asked = partial(list_agents, wanted=self._filter(request.query_params, reader))
        try:
            rows, following, total = await self._services.database.read(asked)
        except ValueError as fault:
            raise bad_request(str(fault)) from fault
        full = request.query_params.get("include") == "full"
        answer: dict[str, Any] = {"agents": [agent_entry(row, full=full) for row in rows], "totalCount": total}
        if following is not None:
            answer["next"] = following
        return json_answer(answer)

    async def _visible(self, agent_name: str, reader: Principal | None) -> AgentRow:
        row = await self._services.database.read(partial(find_agent, agent_name=agent_name))
        if row is None or not (row.listing == "public" or (reader is not None and reader.org_id == row.org_id)):
            raise not_found(f"there is no agent {agent_name[:SHOWN_CHARS]!r}", "AGENT_NOT_FOUND")
        return row

    def _filter(self, query: Mapping[str, str], reader: Principal | None) -> AgentFilter:
        """A larger limit than this network's own is no fault: the page is smaller, and `next` leads on."""
        most = self._services.limits.agents_per_page
        limit = query.get("limit") or str(most)
        if not (limit.isascii() and limit.isdigit() and len(limit) <= LIMIT_DIGITS and int(limit) >= 1):
            raise bad_request(f"limit must be a whole number of at least 1 and at most {LIMIT_DIGITS} digits")
        listing, tag = query.get("listing") or None, query_field(query, "tag")
        if listing is not None and listing not in LISTINGS:
            raise bad_request(f"listing must be one of {', '.join(LISTINGS)}")
        return AgentFilter(
            reader_org_id=None if reader is None else reader.org_id,
            listing=listing,
            tags=frozenset(_spellings(tag)) if tag else None,
            cursor=query.get("cursor"),
            limit=min(int(limit), most),
        )

    # --- writing ---

    async def register(self, request: Request) -> Response:
        """A new agent, or a new card and new terms of an own one. 409 somebody else's name; 422 all faults at once."""
        services, limits = self._services, self._services.limits
        owner = await key_owner_of(request, services, scope=PROVIDER)
        body = await read_object(request, limits.card_bytes + TERMS_BYTES)
        card, terms = body.get("card"), Terms.from_body(body)
        faults = [fault.to_dict() for fault in cards.card_faults(card)] + terms.faults()
        if faults or not isinstance(card, dict):
            raise _faulty(faults)
        wanted = _new_row(owner, card, terms)
        tags = {spelling for tag in cards.tags(card) for spelling in _tag_spellings(tag)}
        try:
            row, before = await services.database.write(
                partial(put_agent, row=wanted, tags=tags, agents_per_org=limits.agents_per_org)
            )
        except NameTaken:
            text = f"the name {wanted.agent_name!r} belongs to somebody else; choose another one"
            raise ApiRefusal(409, "AGENT_NAME_TAKEN", text) from None
        except TooManyAgents:
            text = f"an organisation has at most {limits.agents_per_org} agents here"
            raise ApiRefusal(422, "TOO_MANY_AGENTS", text) from None
        services.tasks.agent_changed(row.agent_name)
        drafts = audit_drafts(services.keysets, row, "registered" if before is None else "updated")
        if before is not None and before.billing_mode != row.billing_mode:
            drafts.append(switch_draft(services.keysets, services.capability_tokens, row))
            left = services.keysets.for_billing("free" if row.billing_mode == "paid" else "paid")
            why = f"agent {row.agent_name} bills in mode {row.billing_mode!r} now; send the task again in that mode"
            services.tasks.agent_left(row.agent_id, why, keyset=left.name)
        await self._publish(row, drafts)
        warnings = cards.card_warnings(card)
        answer = {"agent": agent_entry(row), **({"warnings": warnings} if warnings else {})}
        return json_answer(answer, 201 if before is None else 200)

    async def remove(self, request: Request) -> Response:
        services = self._services
        owner = await key_owner_of(request, services, scope=PROVIDER)
        name = query_field(request.query_params, "agentName")
        if not name:
            raise bad_request("agentName is required in the query")
        body = await read_object(request, REMOVAL_BYTES, optional=True)
        reason = text_field(body, "reason", max_bytes=REASON_BYTES)
        gone = await services.database.write(partial(remove_agent, agent_name=name, org_id=owner.org_id))
        if gone is None:
            await self._visible(name, owner)  # what the caller may not see is not there
            raise forbidden(f"agent {name} belongs to somebody else")
        services.tasks.agent_changed(name)
        services.tasks.agent_left(gone.agent_id, f"agent {name} was removed from the network")
        await self._publish(gone, audit_drafts(services.keysets, gone, "removed", reason))
        return json_answer({"agentName": name, "removed": True})

    async def _publish(self, row: AgentRow, drafts: list[Draft]) -> None:
        """What was stored stands, also where it cannot be told."""
        try:
            await self._services.bus.publish_all(drafts)
        except (BusFull, OSError) as fault:
            log.error("what was registered or removed of agent %s was not published: %s", row.agent_name, fault)


def _new_row(owner: Principal, card: dict[str, Any], terms: Terms) -> AgentRow:
    now_ms = int(time.time() * 1000)
    return AgentRow(
        agent_id=f"agt_{secrets.token_hex(12)}",
        agent_name=cards.agent_name(card),
        org_id=owner.org_id,
        user_id=owner.user_id,
        card=card,
        listing=terms.listing,
        billing_mode=terms.billing_mode,
        price_per_task=terms.price_per_task,
        price_per_minute=terms.price_per_minute,
        scaling={},
        forced_offline=False,
        registered_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def agent_entry(row: AgentRow, *, full: bool = True) -> dict[str, Any]:
    """The public view of an entry; what is None is left out. `scaling`: what instances said, else the card."""
    carded = {name: cards.runtime_number(row.card, name) for name in cards.RUNTIME_NUMBERS}
    entry = {
        "agentName": row.agent_name,
        "name": cards.display_name(row.card),
        "description": cards.description(row.card),
        "tags": cards.tags(row.card),
        "scaling": {**{name: number for name, number in carded.items() if number is not None}, **row.scaling} or None,
        "card": cards.public_view(row.card) if full else None,
        "offline": row.forced_offline or None,
        "cardSummary": cards.card_summary(row.card),
        "listing": row.listing,
        "billingMode": row.billing_mode,
        "pricePerTask": row.price_per_task,
        "pricePerMinute": row.price_per_minute,
        "registeredAt": instant_text(row.registered_at_ms),
        "updatedAt": instant_text(row.updated_at_ms),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _faulty(faults: list[dict[str, str]]) -> ApiRefusal:
    told = [f"{fault['path'] or 'the card'}: {fault['what']} ({fault['why']})" for fault in faults[:SHOWN_FAULTS]]
    more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    text = f"the agent cannot be registered: {'; '.join(told)}{more}"
    return ApiRefusal(422, "CARD_INVALID", text, more={"faults": faults})


def _spellings(tag: str) -> set[str]:
    """A tag in the spellings that are stored and looked for: in small letters, and as channels have it."""
    storable = tag.replace("\x00", "").lower()  # PostgreSQL holds no NUL
    return {spelling for spelling in (storable, normalize_tag_slug(tag)) if spelling}


def _tag_spellings(tag: Mapping[str, Any]) -> set[str]:
    names = (tag.get("id"), tag.get("name"))
    return {spelling for name in names if isinstance(name, str) for spelling in _spellings(name)}
