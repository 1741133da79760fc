"""The pytest plugin: the fixtures `blocks` and `blocks_node`. Nothing of the package is loaded before one is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from blocks_network.server.node import Node
    from blocks_network.testing.network import Network


@pytest.fixture(scope="session")
def blocks_node() -> Iterator[Node]:
    """One network in memory for the whole session (of each worker): real sockets, a port of its own."""
    from blocks_network.server.config import NodeConfig
    from blocks_network.server.node import Node

    with Node(NodeConfig()) as node:
        yield node


@pytest.fixture
def blocks(blocks_node: Node) -> Iterator[Network]:
    """A network to start agents on and to make clients for; what the test started is stopped after it.

    def test_an_answer(blocks):
        blocks.agent(lambda task: "hello", name="greeter")
        with blocks.client() as client:
            session = client.send_message(agent_name="greeter", request_parts=[text_part("hi")])
            assert session.wait_for_terminal(timeout=5).state == "completed"
    """
    from blocks_network.testing.network import Network

    with Network(blocks_node) as network:
        yield network
