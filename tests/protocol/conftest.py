"""Fixtures of the protocol's tests.

    def test_something(gateway_node: GatewayNode) -> None:
        token = gateway_node.mint(channels={"room": Bits.READ}, uuid="u1")
        ear = listen(gateway_node.client("u1", token=token), ["room"])

`GatewayNode` and `listen` come from `gateway_harness`, beside this file. `talker` makes a Python client of either kind
and runs the test with both; `node_process` is for the JavaScript client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gateway_harness import GatewayNode, NodeOf
from javascript_client import Node
from talkers import AsyncTalker, SyncTalker, Talker, TalkerFactory


@pytest.fixture
def gateway_node() -> Iterator[GatewayNode]:
    """A fresh gateway in memory; it and its clients are closed when the test ends."""
    with GatewayNode() as node:
        yield node


@pytest.fixture
def node_of() -> Iterator[NodeOf]:
    """Makes gateways with limits of their own."""
    with ExitStack() as ends:
        yield lambda limits: ends.enter_context(GatewayNode(limits))


@pytest.fixture(params=[SyncTalker, AsyncTalker], ids=["sync", "asyncio"])
def talker(request: pytest.FixtureRequest, gateway_node: GatewayNode) -> Iterator[TalkerFactory]:
    """Makes clients of the gateway; the test runs with the sync one and with the asyncio one."""
    with ExitStack() as ends:

        def make(uuid: str, **settings: Any) -> Talker:
            made: SyncTalker | AsyncTalker = request.param(gateway_node, uuid, **settings)
            ends.callback(made.close)
            return made

        yield make


@pytest.fixture
def async_talker(gateway_node: GatewayNode) -> Iterator[TalkerFactory]:
    """Makes clients with the Event Engine alone."""
    with ExitStack() as ends:

        def make(uuid: str, **settings: Any) -> Talker:
            made = AsyncTalker(gateway_node, uuid, **settings)
            ends.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="session")
def _node_process() -> Iterator[Node]:
    try:
        node = Node()
    except RuntimeError as fault:
        pytest.fail(str(fault), pytrace=False)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def node_process(_node_process: Node, gateway_node: GatewayNode) -> Iterator[Node]:
    """Makes JavaScript clients, which stop before the gateway does. Fails where Node is missing; it never skips."""
    try:
        yield _node_process
    finally:
        _node_process.forget()
