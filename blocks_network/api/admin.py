"""What a network's operator asks of it."""

from __future__ import annotations

from blocks_network.api.caller import Caller, api_error

__all__ = ["set_agent_offline"]


def set_agent_offline(caller: Caller, api_key: str, agent_name: str, offline: bool) -> None:
    """Takes an agent off the network, or lets it back. ApiError 403 for keys that are not the operator's."""
    body = {"agentName": agent_name, "offline": offline}
    answer = caller.call("POST", "/api/v1/admin/agents/offline", body, bearer=api_key, repeatable=True)
    if not answer.ok:
        raise api_error(answer, f"agent {agent_name} was not {'taken offline' if offline else 'let back'}")
