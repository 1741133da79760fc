"""The agents of a network, as a client sees them: one's card, or those that fit."""

from __future__ import annotations

from collections.abc import Callable

from blocks_network.api.caller import AuthProvider, Caller
from blocks_network.api.registry import AgentEntry, list_agents, read_agent

__all__ = ["find_agent", "find_agents", "renewed_or_raise"]

PAGE = 100


def find_agent(caller: Caller, agent_name: str, renew: Callable[[], bool] | None) -> AgentEntry | None:
    """An agent by name.

    The registry answers a bearer that has ended as if there were none, with "no such agent"; so `renew` is asked
    before that is believed. True: it is worth another look.
    """
    entry = read_agent(caller, agent_name)
    if entry is None and renew is not None and renew():
        return read_agent(caller, agent_name)
    return entry


def renewed_or_raise(provider: AuthProvider) -> bool:
    """Renews a provider's identity; raises its recorded failure where it has one."""
    if provider.on_auth_failure():
        return True
    last_error = getattr(provider, "get_last_auth_error", None)
    fault = last_error() if callable(last_error) else None
    if isinstance(fault, BaseException):
        raise fault
    return False


def find_agents(
    caller: Caller, *, tag: str | None = None, query: str | None = None, listing: str | None = None
) -> list[AgentEntry]:
    """All agents that the caller may see and that fit. Each word of `query` stands somewhere in name, description or
    tags, whatever its letter case; `tag` and `listing` ("public", "private") are exact."""
    words = (query or "").casefold().split()
    found: list[AgentEntry] = []
    cursor: str | None = None
    while True:
        page = list_agents(caller, limit=PAGE, cursor=cursor, tag=tag, listing=listing)
        found += [entry for entry in page.agents if _fits(entry, words)]
        if not page.next or page.next == cursor or not page.agents:
            return found
        cursor = page.next


def _fits(entry: AgentEntry, words: list[str]) -> bool:
    tags = (str(value) for tag in entry.tags for value in tag.values() if isinstance(value, str))
    text = " ".join((entry.agent_name, entry.name, entry.description, *tags)).casefold()
    return all(word in text for word in words)
