"""A network in the hands of a test: agents and clients in one line each, ended with the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from blocks_network.agent.handle import AgentHandle
from blocks_network.agent.instance import start_agent_instance
from blocks_network.agent.loading import derive_card
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.api.registry import register_agent
from blocks_network.consumer.client import TaskClient
from blocks_network.server.node import Node

__all__ = ["Network"]


class Network:
    """A running network. `cdm_url` and `api_key` are all that other programs need to use it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cdm_url, self.base_url, self.api_key = node.cdm_url, node.base_url, str(node.api_key)
        self._agents: list[AgentHandle] = []
        self._clients: list[TaskClient] = []

    def agent(
        self,
        handler: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        card: dict[str, Any] | None = None,
        billing_mode: Literal["free", "paid"] = "free",
        register: bool = True,
        **options: Any,
    ) -> AgentHandle:
        """Registers and starts an agent; returns when it listens. `options` are those of AgentInstanceOptions.

        The name is the handler's own unless one is given; a card is made from it where there is none.
        """
        card = card or derive_card(name or _name_of(handler), None, None, None)
        agent_name = name or str(card["identity"]["agentName"])
        if register:
            price = 1.0 if billing_mode == "paid" else None
            register_agent(self.base_url, self.api_key, card, billing_mode=billing_mode, price_per_task=price)
        handle = start_agent_instance(
            AgentInstanceOptions(
                card=card,
                agent_name=agent_name,
                handler=handler,
                cdm_url=self.cdm_url,
                **{"api_key": self.api_key, **options},
            )
        )
        self._agents.append(handle)
        return handle

    def client(self, billing_mode: Literal["free", "paid"] = "free", **options: Any) -> TaskClient:
        """A client with the network's API key; `options` are those of TaskClient.create."""
        modes = ("api_key", "token_endpoint", "token_provider", "anon_fingerprint")
        if not any(mode in options for mode in modes):
            options["api_key"] = self.api_key
        client = TaskClient.create(billing_mode, cdm_url=self.cdm_url, **options)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Ends clients first, so that no session waits for an agent that is being stopped."""
        for client in self._clients:
            client.destroy()
        for agent in self._agents:
            agent.stop(0)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _name_of(handler: Callable[..., Any] | None) -> str:
    name = getattr(handler, "__name__", "agent")
    return name if name.isidentifier() else "agent"
