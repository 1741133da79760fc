"""The registry of agents."""

from blocks_network.api.instances import (
    AgentCard,
    AgentScaling,
    ConnectAgentOptions,
    ConnectAgentResult,
    OutputAgentCard,
    RegistryAuditEvent,
    connect_agent,
)
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
    "AgentCard",
    "AgentEntry",
    "AgentRegistryResult",
    "AgentScaling",
    "ConnectAgentOptions",
    "ConnectAgentResult",
    "OutputAgentCard",
    "RegistryAuditEvent",
    "connect_agent",
    "fetch_agent_registry",
    "fetch_agents_by_listing",
    "fetch_agents_by_tag",
    "get_agent",
    "register_agent",
    "remove_agent",
    "with_retry",
]
