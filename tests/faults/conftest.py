"""What the tests of faults share: networks and agents as processes, ended with their test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import AgentProcess, NetworkProcess

from blocks_network.agent.loading import derive_card
from blocks_network.api.registry import register_agent
from blocks_network.consumer.client import TaskClient


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's decides a test."""
    for name in ("API_KEY", "CDM_URL", "BACKEND_URL", "SUBSCRIBE_KEY", "PUBLISH_KEY"):
        monkeypatch.delenv(f"BLOCKS_{name}", raising=False)


@pytest.fixture
def ended() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def network(ended: contextlib.ExitStack, tmp_path: Path) -> NetworkMaker:
    """Starts a network. Its directory is new unless one is given."""

    def start(*options: str, data: Path | None = None, script: Path | None = None) -> NetworkProcess:
        made = NetworkProcess(data or tmp_path / "network", *options, script=script)
        ended.callback(made.close)
        return made.start()

    return start


@pytest.fixture
def agents(ended: contextlib.ExitStack) -> AgentMaker:
    """Registers agents and starts their instances in a process: each `name=handler` of agent_program.py. Options are
    those of AgentProcess."""

    def start(network: NetworkProcess, *instances: str, **options: Any) -> AgentProcess:
        for instance in instances:
            name = instance.partition("=")[0]
            register_agent(network.base_url, network.api_key, derive_card(name, None, None, None))
        made = AgentProcess(network, *instances, **options)
        ended.callback(made.close)
        return made

    return start


@pytest.fixture
def client(ended: contextlib.ExitStack) -> ClientMaker:
    def make(network: NetworkProcess, cdm_url: str | None = None) -> TaskClient:
        made = TaskClient.create("free", cdm_url=cdm_url or network.cdm_url, api_key=network.api_key)
        ended.callback(made.destroy)
        return made

    return make
