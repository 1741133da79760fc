"""The parts that keep time, under clocks that a test steps: timetokens rise, and what is due is not put off."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path

from blocks_network.server.bus import Draft
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.limits import Limits
from blocks_network.server.tasks.timers import NeverBack

HOUR_NS = 3_600 * 1_000_000_000
STARTS, PUBLISHES = 8, 40


def test_timetokens_rise_over_starts_and_steps_of_the_clock(tmp_path: Path) -> None:
    """Messages of all kinds, cursors among them, a clock that jumps by hours at every turn, and a crash at each start:
    the log's directory is copied as it stands, without an end."""
    chance = random.Random(22)
    now_ns = [1_795_000_000 * 1_000_000_000]
    given: list[int] = []

    async def run(path: Path, crashed: Path) -> None:
        bus = EmbeddedBus(path, Limits(), clock_ns=lambda: now_ns[0])
        await bus.start()
        for _ in range(PUBLISHES):
            now_ns[0] += chance.choice((-5 * HOUR_NS, -1, 0, 1, 1_000, HOUR_NS))
            stored = chance.random() < 0.5
            given.append(await bus.publish(Draft("sub", "channel", b"1", stored=stored)))
            assert bus.now() >= given[-1]
        for file in path.parent.glob(f"{path.name}*"):
            (crashed.parent / file.name.replace(path.name, crashed.name)).write_bytes(file.read_bytes())
        await bus.stop()

    for start in range(STARTS):
        asyncio.run(run(tmp_path / f"bus{start}.db", tmp_path / f"bus{start + 1}.db"))
    assert all(earlier < later for earlier, later in itertools.pairwise(given))
    assert len(given) == STARTS * PUBLISHES


class Clocks:
    """A wall clock that can be stepped, and a steady one."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = 1_000_000.0, 50.0

    def go(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


def test_the_clock_of_tasks_goes_on_through_steps_back() -> None:
    clocks = Clocks()
    now = NeverBack(lambda: clocks.wall_s, lambda: clocks.steady_s)
    clocks.go(10)
    assert now() == 1_000_010
    clocks.wall_s -= 3_600
    assert now() == 1_000_010
    clocks.go(5)
    assert now() == 1_000_015
    clocks.wall_s += 3_600  # set right again
    clocks.go(1)
    assert now() == clocks.wall_s == 1_000_016


def test_the_clock_of_tasks_follows_steps_forward() -> None:
    clocks = Clocks()
    now = NeverBack(lambda: clocks.wall_s, lambda: clocks.steady_s)
    clocks.wall_s += 7_200
    assert now() == 1_007_200
    clocks.wall_s -= 7_200
    clocks.go(1)
    assert now() == 1_007_201
    clocks.wall_s += 3_600  # half of it is caught up
    assert now() == 1_007_201
