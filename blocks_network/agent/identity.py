"""Which network an instance belongs to and as whom: configuration, API key, registry entry, connect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from blocks_network import settings
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.agent.registration import connect_payload, registry_entry
from blocks_network.api.caller import Caller
from blocks_network.api.cdm import BillingMode, CdmConfig, fetch_cdm_config
from blocks_network.auth.provider import AgentAuth
from blocks_network.errors import ConfigurationError
from blocks_network.transport.pubnub import PubNubKeys, keys_of

__all__ = ["ApiKeyMissing", "InstanceIdentity"]


class ApiKeyMissing(ConfigurationError, RuntimeError):
    """There is no API key."""


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """What is settled before the instance connects."""

    instance_id: str
    agent_name: str
    base_url: str
    keys: PubNubKeys
    billing_mode: BillingMode
    auth: AgentAuth
    connect_payload: dict[str, Any]
    cdm: CdmConfig | None

    def offers(self, feature: str) -> bool:
        """Whether the network announces this extension."""
        return self.cdm is not None and feature in self.cdm.features

    @classmethod
    def settle(cls, options: AgentInstanceOptions) -> InstanceIdentity:
        """Reads configuration, API key and registry. Raises for what is missing, with the next step."""
        assert options.agent_name is not None
        instance_id = options.instance_id or f"AG-{options.agent_name}-{uuid4()}"
        cdm = None if options.pubnub is not None else fetch_cdm_config(options.cdm_url)
        api_key = options.api_key or settings.API_KEY.read()
        if not api_key:
            raise ApiKeyMissing(
                "BLOCKS_API_KEY is required",
                agent_name=options.agent_name,
                hint="set it in the environment or in .env, or start a network of your own with 'blocks-network dev'",
            )
        base_url = options.base_url or (cdm.api.base_url if cdm else "")
        if not base_url:
            raise ConfigurationError("base_url is required where the network's configuration names none")
        auth = AgentAuth(api_key, base_url)
        billing_mode: BillingMode = "free"
        listing = options.listing
        if options.pubnub is not None:
            keys = keys_of(options.pubnub)
        else:
            assert cdm is not None
            entry, billing_mode = registry_entry(Caller(base_url), options.agent_name, api_key)
            listing = entry.listing
            keys = cdm.keys(billing_mode)
        payload = connect_payload(options, instance_id, billing_mode, listing)
        return cls(instance_id, options.agent_name, base_url, keys, billing_mode, auth, payload, cdm)
