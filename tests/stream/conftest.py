"""Fixtures of the streams' tests: a gateway, both ends of a stream on it, and a gate between them.

A test that takes `gate` takes it after `ends`, so that it is open again when the ends are closed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "protocol"))  # where the gateway's harness lives

from gateway_harness import GatewayNode
from stream_ends import Ends, Gate


@pytest.fixture
def node() -> Iterator[GatewayNode]:
    with GatewayNode() as node:
        yield node


@pytest.fixture
def gate(node: GatewayNode) -> Iterator[Gate]:
    gate = Gate(node)
    yield gate
    gate.open()


@pytest.fixture
def ends(node: GatewayNode) -> Iterator[Ends]:
    ends = Ends(node)
    yield ends
    ends.close()
