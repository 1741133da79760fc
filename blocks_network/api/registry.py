"""The registry of agents: read an entry, list, register, remove."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from blocks_network import settings
from blocks_network.api.caller import Answer, Caller, api_error
from blocks_network.errors import ApiError, BlocksError, ConfigurationError, TransportError
from blocks_network.transport.faults import ConnectFailed

__all__ = [
    "AgentEntry",
    "AgentRegistryResult",
    "fetch_agent_registry",
    "fetch_agents_by_listing",
    "fetch_agents_by_tag",
    "get_agent",
    "list_agents",
    "register_agent",
    "remove_agent",
    "with_retry",
]

log = logging.getLogger(__name__)
T = TypeVar("T")
PATH = "/api/v1/registry/agents"
_CHANCE = random.Random()  # noqa: S311 - spreads load
_TRANSIENT = re.compile(r"\bDNS\b|name resolution|\brefused\b|\breset\b|timed out|NetworkIssues", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """What a network knows of one agent. `card` is the public view: without `runtime`."""

    agent_name: str
    name: str
    description: str
    tags: list[dict[str, Any]]
    scaling: dict[str, Any] | None
    card: dict[str, Any] | None
    card_ref: dict[str, Any] | None
    card_summary: dict[str, Any] | None
    listing: str
    billing_mode: str | None
    created_at: Any = None
    updated_at: Any = None
    offline: bool = False
    """The network's operator has shut it out."""

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> AgentEntry:
        return cls(
            agent_name=str(wire.get("agentName", "")),
            name=str(wire.get("name") or wire.get("agentName", "")),
            description=str(wire.get("description") or ""),
            tags=list(wire.get("tags") or []),
            scaling=wire.get("scaling"),
            card=wire.get("card"),
            card_ref=wire.get("cardRef"),
            card_summary=wire.get("cardSummary"),
            listing=str(wire.get("listing") or "private"),
            billing_mode=wire.get("billingMode"),
            created_at=wire.get("createdAt", wire.get("registeredAt")),
            updated_at=wire.get("updatedAt"),
            offline=wire.get("offline") is True,
        )


@dataclass(frozen=True, slots=True)
class AgentRegistryResult:
    """One page. `next` is the cursor of the following one, None on the last."""

    agents: list[AgentEntry]
    next: str | None = None
    total_count: int = 0


def with_retry(fn: Callable[[], T], max_retries: int = 3, base_delay_ms: float = 500) -> T:
    """Calls `fn`, again after faults of the way to the network (by their text: DNS, refused, reset, timed out,
    NetworkIssues); delays double, plus up to 100 ms."""
    for attempt in range(max_retries):
        try:
            return fn()
        except Exception as fault:
            if attempt == max_retries - 1 or not _is_transient(fault):
                raise
            time.sleep((base_delay_ms * 2**attempt + _CHANCE.uniform(0, 100)) / 1000)
    raise ConfigurationError("max_retries must be at least 1")


def _is_transient(fault: Exception) -> bool:
    """By its kind, or (the function may be anybody's) by its text."""
    if isinstance(fault, BlocksError) and not isinstance(fault, TransportError):
        return False  # the network has answered
    return isinstance(fault, ConnectFailed) or _TRANSIENT.search(str(fault)) is not None


def get_agent(agent_name: str, base_url: str | None = None, api_key: str | None = None) -> AgentEntry | None:
    """The entry, or None when there is none, or none that the key's owner may see."""
    return read_agent(_caller(base_url), agent_name, api_key=api_key)


def read_agent(caller: Caller, agent_name: str, *, api_key: str | None = None) -> AgentEntry | None:
    """`get_agent` as the caller's identity, or as the key's."""
    answer = with_retry(lambda: caller.call("GET", f"{PATH}?{urlencode({'agentName': agent_name})}", bearer=api_key))
    if answer.status == 404:
        return None
    if not answer.ok:
        raise api_error(answer, f"the registry does not answer for agent {agent_name}", agent_name=agent_name)
    entry = answer.body.get("agent") if isinstance(answer.body, dict) else None
    if not isinstance(entry, Mapping):
        raise TransportError("the registry's answer holds no agent")
    return AgentEntry.from_dict(entry)


def fetch_agent_registry(
    limit: int = 100, cursor: str | None = None, base_url: str | None = None, api_key: str | None = None
) -> AgentRegistryResult:
    """One page of all agents that the key's owner may see."""
    return _list(base_url, api_key, limit=limit, cursor=cursor)


def fetch_agents_by_tag(
    tag: str, limit: int = 100, cursor: str | None = None, base_url: str | None = None, api_key: str | None = None
) -> AgentRegistryResult:
    return _list(base_url, api_key, limit=limit, cursor=cursor, tag=tag)


def fetch_agents_by_listing(
    listing: str, limit: int = 100, cursor: str | None = None, base_url: str | None = None, api_key: str | None = None
) -> AgentRegistryResult:
    return _list(base_url, api_key, limit=limit, cursor=cursor, listing=listing)


def register_agent(
    base_url: str,
    api_key: str,
    card: Mapping[str, Any],
    *,
    listing: str = "private",
    billing_mode: str = "free",
    price_per_task: float | None = None,
    price_per_minute: float | None = None,
) -> AgentEntry:
    """Registers or updates an agent of ours. ApiError: 409 the name is somebody else's, 422 the card has faults."""
    body = {
        "card": dict(card),
        "listing": listing,
        "billingMode": billing_mode,
        "pricePerTask": price_per_task,
        "pricePerMinute": price_per_minute,
    }
    answer = _caller(base_url).call("POST", PATH, {k: v for k, v in body.items() if v is not None}, bearer=api_key)
    if not answer.ok:
        raise _registration_error(answer, card)
    entry = answer.body.get("agent", answer.body)
    return AgentEntry.from_dict(entry)


def remove_agent(agent_name: str, base_url: str | None = None, reason: str | None = None) -> bool:
    """Takes an agent off the registry with BLOCKS_API_KEY as identity. False when it was not there."""
    if reason is not None and not reason.strip():
        raise ConfigurationError("reason must not be blank")
    if reason is None:
        log.warning("remove_agent without a reason: networks will demand one from 2027-04-01")
    answer = _caller(base_url).call(
        "DELETE",
        f"{PATH}?{urlencode({'agentName': agent_name})}",
        None if reason is None else {"reason": reason},
        bearer=settings.API_KEY.read(),
    )
    if answer.status == 404:
        return False
    if not answer.ok:
        raise api_error(answer, f"agent {agent_name} was not removed", agent_name=agent_name)
    return True


def _caller(base_url: str | None) -> Caller:
    if not base_url:
        raise ConfigurationError("base_url is required", hint="it stands as api.baseUrl in the network's configuration")
    return Caller(base_url)


def _list(base_url: str | None, api_key: str | None, **query: Any) -> AgentRegistryResult:
    return list_agents(_caller(base_url), api_key=api_key, **query)


def list_agents(caller: Caller, *, api_key: str | None = None, **query: Any) -> AgentRegistryResult:
    """One page as the caller's identity, or as the key's. `query`: limit, cursor, tag, listing; None is left out."""
    pairs = {"include": "full", **{key: value for key, value in query.items() if value is not None}}
    answer = with_retry(lambda: caller.call("GET", f"{PATH}?{urlencode(pairs)}", bearer=api_key))
    if answer.status == 404:
        return AgentRegistryResult([])
    if not answer.ok:
        raise api_error(answer, "the registry does not answer")
    agents = [AgentEntry.from_dict(entry) for entry in answer.body.get("agents") or [] if isinstance(entry, Mapping)]
    return AgentRegistryResult(agents, answer.body.get("next"), int(answer.body.get("totalCount") or len(agents)))


def _registration_error(answer: Answer, card: Mapping[str, Any]) -> ApiError:
    identity = card.get("identity")
    name = identity.get("agentName") if isinstance(identity, Mapping) else None
    faults = answer.body.get("faults") if isinstance(answer.body, dict) else None
    if answer.status == 422 and isinstance(faults, list):
        listed = "; ".join(
            f"{fault.get('path')}: {fault.get('what')}" for fault in faults if isinstance(fault, Mapping)
        )
        return ApiError(
            f"the card of agent {name} has faults: {listed}",
            status=422,
            code=answer.code,
            details=faults,
            agent_name=name,
            hint="correct the card and register again",
        )
    return api_error(answer, f"agent {name} was not registered", agent_name=name)
