"""A network that is stopped or killed and started again on its data directory: every task goes on where it was.

"Killed" is a copy of the directory, made while the network runs: what a kill -9 at that moment leaves behind.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from task_house import Clock, Hand, House

from blocks_network.server.bus import BusFull
from blocks_network.server.limits import Limits
from blocks_network.server.tasks.fleets import RECOVERY_GRACE_MS

RECOVERY_S = RECOVERY_GRACE_MS / 1000
ENDS = pytest.mark.parametrize("end", ["stopped", "killed"])


class Lives:
    """One network after another, on the same data."""

    def __init__(self, path: Path, end: str) -> None:
        self._path, self._end, self._number = path, end, 0
        self._clock, self._limits = Clock(), Limits(backlog_tasks=100)
        self._old: list[House] = []

    async def begin(self, *hands: Hand, prepare: Callable[[House], None] = lambda house: None) -> House:
        house = House(self._clock, self._limits, self._path / str(self._number))
        prepare(house)
        for hand in hands:
            house.adopt(hand)
        self._old.append(await house.__aenter__())
        return house

    async def again(
        self, *hands: Hand, away_s: float = 0, prepare: Callable[[House], None] = lambda house: None
    ) -> House:
        """Restarts it; `hands` come back, and the network is away for some seconds."""
        if self._end == "stopped":
            await self._old.pop().__aexit__()
        else:
            shutil.copytree(self._path / str(self._number), self._path / str(self._number + 1))
            self._number += 1
        self._clock.advance(away_s + 0.001)
        house = await self.begin(*hands, prepare=prepare)
        await house.settle()
        return house

    async def close(self) -> None:
        for house in self._old:
            await house.__aexit__()


def restarted(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test on a network with a data directory and the agent `worker`, for both ways to end."""

    async def run(tmp_path: Path, end: str, **given: Any) -> None:
        lives = Lives(tmp_path, end)
        try:
            house = await lives.begin()
            await house.register(capabilities={"taskKinds": ["request", "pipe"]})
            await test(lives=lives, house=house, **given)
        finally:
            await lives.close()

    @functools.wraps(test)
    def live(**given: Any) -> None:
        asyncio.run(run(**given))

    del live.__dict__["__wrapped__"]
    names = [
        "tmp_path",
        "end",
        *(name for name in inspect.signature(test).parameters if name not in ("lives", "house")),
    ]
    live.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # pytest reads it
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    both: Callable[..., None] = ENDS(live)
    return both


@restarted
async def test_waiting_tasks_wait_on_in_their_order(lives: Lives, house: House) -> None:
    tasks = [await house.send() for _ in range(5)]
    house = await lives.again()
    assert await house.states(*tasks) == ["queued"] * 5
    hand = await house.hand()
    for task in tasks:
        assert (await hand.start())["taskId"] == task
        await hand.end(task)
        await house.ended(task)


@restarted
async def test_an_assigned_task_is_started_again(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    hand.messages.clear()  # it never came
    house = await lives.again(hand)
    await hand.start(task)
    await hand.end(task)
    assert (await house.ended(task))["attempt"] == 1


@restarted
async def test_an_assigned_task_whose_instance_does_not_come_back_is_placed_elsewhere(
    lives: Lives, house: House
) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    house = await lives.again()
    heir = await house.hand()
    await house.advance(RECOVERY_S - 0.1)
    assert heir.given == []
    await house.advance(0.1)
    await heir.start(task)
    await heir.end(task)
    assert (await house.ended(task))["instanceId"] == heir.instance_id


@restarted
async def test_a_running_task_runs_on_and_keeps_its_place(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task, waiting = await house.send(), await house.send()
    await hand.start(task)
    house = await lives.again(hand)
    await house.advance(3 * RECOVERY_S)
    assert await house.states(task, waiting) == ["running", "queued"]
    assert len(hand.told("StartTask")) == 1
    await hand.end(task)
    await house.ended(task)
    await hand.start(waiting)


@restarted
async def test_a_paused_task_stays_paused(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.start(task)
    await hand.turn(task, "paused")
    house = await lives.again(hand)
    assert await house.states(task) == ["paused"]
    await house.call("ResumeTask", taskId=task)
    await hand.wait_told("ResumeTask", task)
    await hand.turn(task, "resumed")
    assert await house.states(task) == ["running"]


@pytest.mark.parametrize("policy", [None, {"maxAttempts": 2}], ids=["no policy", "policy"])
@restarted
async def test_a_running_task_whose_instance_does_not_come_back_is_lost(
    lives: Lives, house: House, policy: dict[str, int] | None
) -> None:
    hand = await house.hand()
    task = await house.send(retryPolicy=policy)
    await hand.start(task)
    house = await lives.again()
    heir = await house.hand()
    await house.advance(RECOVERY_S)
    if policy is None:
        assert (await house.ended(task))["reason"] == "instance_lost"
    else:
        assert (await heir.start(task))["attempt"] == 2


@restarted
async def test_the_longest_run_is_counted_from_its_start(lives: Lives, house: House) -> None:
    await house.register(runtime={"handler": "x.py", "maxRunningTimeSec": 100})
    hand = await house.hand()
    one, two = await house.send(), await house.send()
    await hand.start(one)
    await house.advance(40)
    house = await lives.again(hand, away_s=50)
    assert await house.states(one) == ["running"]
    await house.advance(10)
    assert (await house.ended(one))["reason"] == "max_running_time_exceeded"
    await hand.end(one, "canceled")
    await hand.start(two)
    house = await lives.again(hand, away_s=101)  # its time ended while the network was away
    await house.advance(0)
    assert (await house.ended(two))["reason"] == "max_running_time_exceeded"


@restarted
async def test_a_pipes_life_goes_on(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task = await house.send(extensions={"blocks": {"taskKind": "pipe", "duration": 2}})
    await hand.start(task)
    house = await lives.again(hand, away_s=60)
    await house.advance(59.9)
    assert hand.told("ExpireTask") == []
    await house.advance(0.1)
    await hand.wait_told("ExpireTask", task)
    house = await lives.again(hand, away_s=4)
    assert await house.states(task) == ["running"]
    await house.advance(6)
    assert (await house.ended(task))["completionReason"] == "duration_expired"


@restarted
async def test_the_pause_before_the_next_attempt_goes_on(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task = await house.send(retryPolicy={"maxAttempts": 3, "backoffSec": 60})
    await hand.start(task)
    await hand.end(task, "failed", error="broken")
    house = await lives.again(hand, away_s=30)
    await house.advance(29.9)
    assert len(hand.told("StartTask")) == 1
    await house.advance(0.1)
    assert (await hand.start(task))["attempt"] == 2
    await hand.end(task, "failed", error="broken")
    house = await lives.again(hand, away_s=10_000)
    await house.advance(0)
    assert (await hand.start(task))["attempt"] == 3


@restarted
async def test_a_retry_asked_for_within_the_pause_holds(lives: Lives, house: House) -> None:
    hand = await house.hand()
    task = await house.send(retryPolicy={"maxAttempts": 2, "backoffSec": 3_600})
    await hand.start(task)
    await hand.end(task, "failed", error="broken")
    await hand.die()
    await house.call("RetryTask", taskId=task)
    house = await lives.again()
    heir = await house.hand()
    assert (await heir.start(task))["attempt"] == 2


@restarted
async def test_a_cancel_that_waits_for_its_instance_is_told_again_and_keeps_its_grace(
    lives: Lives, house: House
) -> None:
    hand = await house.hand(concurrency=3)
    tasks = [await house.send() for _ in range(3)]
    assigned, running, obeys = tasks
    await house.until(lambda: len(hand.given) == 3)
    for task in (running, obeys):
        await hand.start(task)
    for task in tasks:
        await house.call("CancelTask", taskId=task)
        await hand.wait_told("CancelTask", task)
    hand.messages = [message for message in hand.messages if message["type"] == "StartTask"]
    house = await lives.again(hand, away_s=10)
    for task in tasks:
        await hand.wait_told("CancelTask", task)
    assert len(hand.told("StartTask", assigned)) == 1
    await hand.end(obeys, "canceled")
    await house.ended(obeys)
    await house.advance(19.9)
    assert await house.states(assigned, running) == ["submitted", "running"]
    await house.advance(0.1)
    for task in (assigned, running):
        assert (await house.ended(task))["state"] == "canceled"


def fill_the_disk(house: House) -> None:
    """The network's own messages find no room from now on."""

    async def full(drafts: Any) -> list[int]:
        raise BusFull("the disk is full")

    house.network.bus.publish_all = full  # type: ignore[method-assign]
    house.network.bus.publish_now = lambda drafts: None  # type: ignore[method-assign]


def free_the_disk(house: House) -> None:
    del house.network.bus.publish_all, house.network.bus.publish_now


@restarted
async def test_what_is_decided_and_not_published_leaves_after_the_restart(lives: Lives, house: House) -> None:
    waiting = await house.send()
    fill_the_disk(house)
    await house.call("CancelTask", taskId=waiting)
    assert await house.terminals(waiting) == []
    house = await lives.again(prepare=fill_the_disk)  # and not yet
    hand = await house.hand()
    await house.call("TerminateTask", taskId=waiting)  # it is as good as ended, though nobody can know
    free_the_disk(house)
    assert (await house.ended(waiting))["state"] == "canceled"
    await house.settle()
    house = await lives.again(hand)
    assert [event["type"] for event in await house.events(waiting)] == ["cancel_requested", "terminal"]
    assert await house.states(waiting) == ["canceled"]
    assert hand.given == []


@restarted
async def test_an_event_that_was_acknowledged_counts_though_the_tables_do_not_know_it(
    lives: Lives, house: House
) -> None:
    hand = await house.hand(concurrency=2)
    begun, over = await house.send(), await house.send()
    await hand.start(over)
    await hand.start(begun)
    await hand.end(over)  # and at once:
    house = await lives.again(hand)
    assert (await house.ended(over))["state"] == "completed"
    assert await house.states(begun) == ["running"]
    await hand.end(begun)
    await house.ended(begun)


@restarted
async def test_a_key_has_its_task_also_after_a_restart(lives: Lives, house: House) -> None:
    task = await house.send(idempotencyKey="k")
    house = await lives.again()
    assert await house.send(idempotencyKey="k") == task
    assert (await house.call("ListTasks"))["totalCount"] == 1


@restarted
async def test_tasks_of_several_lives_are_each_run_once(lives: Lives, house: House) -> None:
    hand, done = await house.hand(concurrency=2), set[str]()
    tasks = []
    for _ in range(4):
        tasks += [await house.send() for _ in range(5)]
        for _ in range(3):
            task = (await hand.start())["taskId"]
            await hand.end(task)
            done.add(task)
        house = await lives.again(hand)
    while len(done) < len(tasks):
        task = (await hand.start())["taskId"]
        await hand.end(task)
        assert task not in done
        done.add(task)
    for task in tasks:
        assert (await house.ended(task))["attempt"] == 1
