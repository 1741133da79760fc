"""Connecting an instance by hand, for programs that bring a runtime of their own, and what the registry tells about."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from blocks_network import settings
from blocks_network.api.caller import Caller
from blocks_network.api.registry import with_retry
from blocks_network.api.tokens import connect
from blocks_network.errors import ConfigurationError
from blocks_network.wire.versions import PROTOCOL_VERSION, SDK_VERSION, SUPPORTED_PROTOCOL_VERSIONS

__all__ = [
    "AgentCard",
    "AgentScaling",
    "ConnectAgentOptions",
    "ConnectAgentResult",
    "OutputAgentCard",
    "RegistryAuditEvent",
    "connect_agent",
]

AgentCard = dict[str, Any]
"""A card as its owner writes it: the object of agent-card.json."""

OutputAgentCard = dict[str, Any]
"""A card as the registry shows it: without `runtime`."""


class AgentScaling(TypedDict, total=False):
    """How an agent's instances share its work, as its entry shows it."""

    expectedInstances: int
    concurrency: int
    maxPendingBacklog: int
    maxRunningTimeSec: int


class RegistryAuditEvent(TypedDict, total=False):
    """One message of the channels `registry.*`: what happened to an agent's entry. `ts` is Unix milliseconds."""

    type: Literal["registered", "updated", "removed"]
    agentName: str
    listing: str
    ts: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectAgentOptions:
    """An instance as the network is to know it. `concurrency` 0 is no limit; what is None is left to the network."""

    agent_name: str
    instance_id: str
    billing_mode: Literal["free", "paid"]
    listing: str | None = None
    expected_instances: int | None = None
    concurrency: int | None = None
    max_pending_backlog: int | None = None
    max_running_time_sec: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The body of the connect call, with what this package is."""
        wire: Mapping[str, Any] = {
            "agentName": self.agent_name,
            "instanceId": self.instance_id,
            "billingMode": self.billing_mode,
            "listing": self.listing,
            "expectedInstances": self.expected_instances,
            "concurrency": self.concurrency,
            "maxPendingBacklog": self.max_pending_backlog,
            "maxRunningTimeSec": self.max_running_time_sec,
            "deviceOs": platform.system().lower(),
            "sdkLanguage": "Python",
            "sdkVersion": SDK_VERSION,
            "protocolVersions": list(SUPPORTED_PROTOCOL_VERSIONS),
            "preferredProtocolVersion": PROTOCOL_VERSION,
            "cliVersion": settings.CLI_VERSION.read(),
        }
        return {key: value for key, value in wire.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ConnectAgentResult:
    """What an instance works with. `expires_in_s` counts from the answer; the tokens are secrets."""

    agent_id: str
    control_channel: str
    access_token: str
    refresh_token: str | None
    expires_in_s: float
    pam_token: str | None

    def __repr__(self) -> str:
        return f"ConnectAgentResult(agent_id={self.agent_id!r}, control_channel={self.control_channel!r})"


def connect_agent(options: ConnectAgentOptions, *, base_url: str, api_key: str) -> ConnectAgentResult:
    """Announces an instance with an API key.

    AgentAuthFatalError: the network will never take it. ApiError: it does not now. TransportError: out of reach.
    """
    if not api_key:
        raise ConfigurationError("api_key is required", hint="create one on the network, or read BLOCKS_API_KEY")
    caller = Caller(base_url)
    connected = with_retry(lambda: connect(caller, api_key, options.to_dict()))
    return ConnectAgentResult(
        agent_id=connected.agent_id,
        control_channel=connected.control_channel,
        access_token=connected.identity.access_token,
        refresh_token=connected.identity.refresh_token,
        expires_in_s=connected.identity.expires_in_s,
        pam_token=connected.pam_token,
    )
