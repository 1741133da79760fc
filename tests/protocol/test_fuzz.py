"""Whatever is sent to a network's port: no fault, an answer in time, a connection that goes on, and no memory kept.

`benchmarks/fuzz.py` runs the same grammar for as long as one likes, with other seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz_grammar import Request, requests, torn
from fuzz_target import LIMITS, Target, Wire
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

BOUNDED = settings(
    derandomize=True,  # the same requests every time: a failure here is a failure of the change
    database=None,
    deadline=None,  # the wire has a bound of its own for each answer
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
GROWTH_BYTES = 8 * 1024 * 1024
"""What two runs of the same requests may differ by: pages of the allocator, not what requests leave behind."""
SERIES_MAX = 1_500


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    network = Target()
    try:
        yield network
        assert network.errors() == ""
    finally:
        code = network.stop()
    assert code == 0


def run_requests(target: Target, number: int) -> Wire:
    wire = Wire(target)

    @settings(BOUNDED, max_examples=number)
    @given(st.lists(requests(target.seeds), min_size=1, max_size=4))
    def send(asked: list[Request]) -> None:
        for request in asked:
            wire.ask(request.data, request.method)

    try:
        send()
    finally:
        wire.close()
    return wire


def test_no_request_makes_a_fault_or_goes_unanswered(target: Target) -> None:
    wire = run_requests(target, 900)
    assert wire.statuses[200] > 100, wire.statuses  # the grammar gets past the first check
    assert wire.statuses[400] > 100, wire.statuses


def test_what_is_no_request_ends_its_own_connection_alone(target: Target) -> None:
    wire = Wire(target)

    @settings(BOUNDED, max_examples=500)
    @given(torn(target.seeds))
    def tear(data: bytes) -> None:
        wire.tear(data)

    tear()
    assert wire.exchange(b"GET /time/0 HTTP/1.1\r\nhost: t\r\n\r\n", "GET").status == 200
    wire.close()


def test_requests_leave_nothing_behind(target: Target) -> None:
    """The first run fills what may be filled; the second sends the same once more."""
    run_requests(target, 300)
    before = target.resident_bytes()
    run_requests(target, 300)
    assert target.resident_bytes() - before < GROWTH_BYTES
    metrics = target.metrics()
    assert metrics["blocks_waiting_polls"] == 0
    assert metrics["blocks_tail_bytes"] <= LIMITS["tails_bytes"]
    assert metrics["blocks_presence_records"] <= LIMITS["presence_records"]
    assert metrics["blocks_log_lag_seconds"] == 0
    assert len(metrics) < SERIES_MAX, "a name from outside has become a label"
