"""Fixtures of the protocol's tests.

    def test_something(gateway_node: GatewayNode) -> None:
        token = gateway_node.mint(channels={"room": Bits.READ}, uuid="u1")
        ear = listen(gateway_node.client("u1", token=token), ["room"])

`GatewayNode` and `listen` come from `gateway_harness`, beside this file.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_harness import GatewayNode


@pytest.fixture
def gateway_node() -> Iterator[GatewayNode]:
    """A fresh gateway in memory; it and its clients are closed when the test ends."""
    node = GatewayNode().start()
    try:
        yield node
    finally:
        node.stop()
