"""What an instance tells the network about itself at connect, and what the registry says about its agent."""

from __future__ import annotations

import logging
from typing import Any, Literal

from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.api.caller import Caller
from blocks_network.api.cdm import BillingMode
from blocks_network.api.instances import ConnectAgentOptions
from blocks_network.api.registry import AgentEntry, read_agent
from blocks_network.api.tokens import API_KEY_INVALID, consumer_token
from blocks_network.errors import AgentAuthFatalError, ApiError, ConfigurationError

__all__ = ["AgentNotRegistered", "connect_payload", "registry_entry"]

log = logging.getLogger(__name__)


class AgentNotRegistered(ConfigurationError, RuntimeError):
    """The registry has no usable entry for the agent; `hint` says how to make one."""


def registry_entry(caller: Caller, agent_name: str, api_key: str) -> tuple[AgentEntry, Literal["free", "paid"]]:
    """The agent's own entry and its billing mode, which is never guessed. AgentNotRegistered when either is missing."""
    entry = read_agent(caller, agent_name, api_key=api_key)
    if entry is None:
        _check_key(caller, api_key)  # the registry takes a wrong key for none, and shows nothing then
        raise AgentNotRegistered(
            f"agent {agent_name} not found in registry",
            agent_name=agent_name,
            hint="register it first (`blocks-network agents register`, or register_agent in a program), "
            "or use its owner's API key",
        )
    if entry.billing_mode == "free":
        return entry, "free"
    if entry.billing_mode == "paid":
        return entry, "paid"
    raise AgentNotRegistered(
        f"the registry entry of agent {agent_name} is missing a valid billing_mode (it has {entry.billing_mode!r})",
        agent_name=agent_name,
        hint="register the agent again with billing mode free or paid",
    )


def _check_key(caller: Caller, api_key: str) -> None:
    """AgentAuthFatalError when the network does not know the key."""
    try:
        consumer_token(caller, api_key)
    except ApiError as fault:
        if fault.code == API_KEY_INVALID:
            raise AgentAuthFatalError(fault.message, code=fault.code, hint=fault.hint) from fault
        log.debug("whether the API key holds could not be asked: %s", fault)


def connect_payload(
    options: AgentInstanceOptions, instance_id: str, billing_mode: BillingMode, listing: str | None
) -> dict[str, Any]:
    """The body of the connect call; what is None is left out."""
    assert options.agent_name is not None
    return ConnectAgentOptions(
        agent_name=options.agent_name,
        instance_id=instance_id,
        billing_mode=billing_mode,
        listing=listing,
        expected_instances=1 if options.expected_instances is None else options.expected_instances,
        concurrency=options.slots,
        max_pending_backlog=options.max_pending_backlog,
        max_running_time_sec=options.running_time_s,
    ).to_dict()
