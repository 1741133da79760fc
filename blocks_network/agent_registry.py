"""The registry of agents."""

from blocks_network.api.registry import (
    AgentEntry,
    AgentRegistryResult,
    fetch_agent_registry,
    fetch_agents_by_listing,
    fetch_agents_by_tag,
    get_agent,
    register_agent,
    remove_agent,
    with_retry,
)

__all__ = [
    "AgentEntry",
    "AgentRegistryResult",
    "fetch_agent_registry",
    "fetch_agents_by_listing",
    "fetch_agents_by_tag",
    "get_agent",
    "register_agent",
    "remove_agent",
    "with_retry",
]
