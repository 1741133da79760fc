"""What the fixtures of these tests give."""

from __future__ import annotations

from collections.abc import Callable

from processes import AgentProcess, NetworkProcess

from blocks_network.consumer.client import TaskClient

__all__ = ["AgentMaker", "ClientMaker", "NetworkMaker"]

NetworkMaker = Callable[..., NetworkProcess]
AgentMaker = Callable[..., AgentProcess]
ClientMaker = Callable[..., TaskClient]
