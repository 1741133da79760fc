"""Sends to a network what no client would, for as long as one likes, by the grammar of tests/protocol/test_fuzz.py.

    .venv/bin/python benchmarks/fuzz.py --seconds 120 [--seed 1]

Rounds of requests, each with a seed of its own. A fault is shrunk, printed with its bytes, and ends the run with code
1. At the end one JSON line: requests, statuses, the slowest answer, and the memory of the network after each tenth of
the time. Its limits are small, so that what it may keep is full early and growth after that is a leak.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "protocol"))

from fuzz_grammar import Request, requests, torn
from fuzz_target import Target, Wire
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

ROUND = settings(
    max_examples=300, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)
MIB = 1024 * 1024


def one_round(wire: Wire, number: int) -> None:
    target = wire.target

    @seed(number)
    @settings(ROUND)
    @given(st.lists(requests(target.seeds), min_size=1, max_size=4))
    def send(asked: list[Request]) -> None:
        for request in asked:
            wire.ask(request.data, request.method)

    @seed(number)
    @settings(ROUND, max_examples=50)
    @given(torn(target.seeds))
    def tear(data: bytes) -> None:
        wire.tear(data)

    send()
    tear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round (default: the time)")
    options = parser.parse_args()
    target = Target()
    wire = Wire(target)
    began, number, memory = time.monotonic(), options.seed, [target.resident_bytes()]
    print(f"seed {options.seed}, {options.seconds:.0f} s", file=sys.stderr)
    try:
        while (passed := time.monotonic() - began) < options.seconds:
            one_round(wire, number)
            number += 1
            while len(memory) <= 10 * passed / options.seconds:
                memory.append(target.resident_bytes())
        metrics, errors = target.metrics(), target.errors()
    finally:
        wire.close()
        code = target.stop()
    operations = {
        name.removeprefix("blocks_requests_total"): int(value)
        for name, value in sorted(metrics.items())
        if name.startswith("blocks_requests_total")
    }
    found = {
        "rounds": number - options.seed,
        "requests": wire.requests,
        "statuses": dict(sorted(wire.statuses.items())),
        "slowest_ms": round(wire.slowest_s * 1000, 1),
        "slowest": wire.slowest.decode("latin-1"),
        "memory_mib": [round(size / MIB, 1) for size in memory],
        "series": len(metrics),
        "exit_code": code,
        "errors": errors,
    }
    print(json.dumps({**found, "operations": operations}))
    return 1 if errors or code else 0


if __name__ == "__main__":
    sys.exit(main())
