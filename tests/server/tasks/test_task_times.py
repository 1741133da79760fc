"""What time does to tasks: limits of a run, lives of pipes, the grace of a cancel; and that each has one end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from task_house import DEADLINE_S, Hand, House, housed

from blocks_network.server.bus import BusFull, Draft

PIPE = {"blocks": {"taskKind": "pipe", "duration": 2}}


async def limited(house: House, **runtime: int) -> None:
    await house.register(runtime={"handler": "x.py", **runtime}, capabilities={"taskKinds": ["request", "pipe"]})


async def running(house: House, hand: Hand, **params: Any) -> str:
    task = await house.send(**params)
    await hand.start(task)
    return task


# --- maxRunningTimeSec ---


@housed()
async def test_a_run_that_takes_too_long_fails_and_its_instance_is_told(house: House) -> None:
    await limited(house, maxRunningTimeSec=60)
    hand = await house.hand()
    task, waiting = await house.send(), await house.send()
    await house.advance(1.5)  # the time counts from its start, not from its arrival
    await hand.start(task)
    await house.advance(59.9)
    assert await house.states(task) == ["running"]
    await house.advance(0.1)
    ended = await house.ended(task)
    assert (ended["state"], ended["reason"]) == ("failed", "max_running_time_exceeded")
    assert "60 s" in ended["error"]
    await hand.wait_told("TerminateTask", task)
    assert await house.states(waiting) == ["queued"]  # the handler still has the place
    await hand.end(task, "canceled")
    await hand.start(waiting)
    assert len(await house.terminals(task)) == 1


@housed()
async def test_a_place_whose_handler_never_returns_is_given_away_after_a_minute(house: House) -> None:
    await limited(house, maxRunningTimeSec=10)
    hand = await house.hand()
    task = await running(house, hand)
    waiting = await house.send()
    await house.advance(10)
    assert (await house.ended(task))["reason"] == "max_running_time_exceeded"
    await house.advance(59)
    assert await house.states(waiting) == ["queued"]
    await house.advance(1)
    await hand.start(waiting)


@housed()
async def test_a_pause_does_not_stop_the_clock_of_a_run(house: House) -> None:
    await limited(house, maxRunningTimeSec=60)
    hand = await house.hand()
    task = await running(house, hand)
    await hand.turn(task, "paused")
    await house.advance(60)
    assert (await house.ended(task))["reason"] == "max_running_time_exceeded"


@housed()
async def test_each_attempt_has_the_whole_time(house: House) -> None:
    await limited(house, maxRunningTimeSec=60)
    hand = await house.hand()
    task = await running(house, hand, retryPolicy={"maxAttempts": 2})
    await house.advance(50)
    await hand.end(task, "failed", error="broken")
    await house.advance(0.25)
    await hand.start(task)
    await house.advance(59)
    assert await house.states(task) == ["running"]
    await house.advance(1)
    assert (await house.ended(task))["reason"] == "max_running_time_exceeded"


@housed()
async def test_what_instances_say_of_the_longest_run_beats_the_card(house: House) -> None:
    await limited(house, maxRunningTimeSec=60)
    hand = await house.hand(maxRunningTimeSec=5)
    task = await running(house, hand)
    await house.advance(5)
    assert (await house.ended(task))["reason"] == "max_running_time_exceeded"


# --- pipes ---


@housed()
async def test_a_pipe_task_is_expired_and_ended_if_its_instance_does_not(house: House) -> None:
    await limited(house)
    hand = await house.hand()
    task = await house.send(extensions=PIPE)
    start = await hand.start(task)
    assert start["durationExpiresAtMs"] == int((house.clock() + 120) * 1000)
    await house.advance(119.9)
    assert hand.told("ExpireTask") == []
    await house.advance(0.1)
    told = await hand.wait_told("ExpireTask", task)
    assert (told["agentName"], told["reason"]) == ("worker", "duration_expired")
    await house.advance(house.limits.expire_grace_s - 0.1)
    assert await house.states(task) == ["running"]
    await house.advance(0.1)
    ended = await house.ended(task)
    assert (ended["state"], ended["completionReason"]) == ("completed", "duration_expired")


@housed()
async def test_a_pipe_task_that_ends_when_it_is_expired_ends_once(house: House) -> None:
    await limited(house)
    hand = await house.hand()
    task = await running(house, hand, extensions=PIPE)
    await house.advance(120)
    await hand.wait_told("ExpireTask", task)
    await hand.end(task, "completed", completion_reason="duration_expired")
    assert (await house.ended(task))["completionReason"] == "duration_expired"
    await house.advance(3_600)
    assert len(await house.terminals(task)) == 1


@housed()
async def test_a_pipes_life_is_the_smaller_of_its_duration_and_the_cards_limit(house: House) -> None:
    await limited(house, maxRunningTimeSec=30)
    hand = await house.hand(concurrency=0)
    short = await running(house, hand, extensions=PIPE)
    await house.advance(30)
    await hand.wait_told("ExpireTask", short)
    await house.advance(house.limits.expire_grace_s)
    assert (await house.ended(short))["completionReason"] == "duration_expired"


@housed()
async def test_a_pipes_life_begins_with_its_first_instance_and_goes_on_with_the_next(house: House) -> None:
    await limited(house)
    task = await house.send(extensions=PIPE)
    await house.advance(1_000)
    assert "durationExpiresAtMs" not in await house.get(task)
    hand = await house.hand()
    first = await hand.wait_told("StartTask", task)
    await hand.die()
    await house.advance(10)
    heir = await house.hand()
    start = await heir.wait_told("StartTask", task)
    assert start["durationExpiresAtMs"] == first["durationExpiresAtMs"]


@housed()
async def test_a_pipe_whose_time_ends_while_it_waits_again_is_completed(house: House) -> None:
    await limited(house)
    hand = await house.hand()
    task = await house.send(extensions=PIPE)
    await hand.wait_told("StartTask", task)
    await hand.die()
    await house.advance(100)
    assert (await house.ended(task))["completionReason"] == "duration_expired"


@housed()
async def test_a_pipe_whose_handler_has_returned_takes_no_place(house: House) -> None:
    await limited(house)
    hand = await house.hand()
    await running(house, hand, extensions=PIPE)
    waiting = await house.send()
    keys = house.identity.keysets.by_name("playground")
    await house.advance(1)
    house.network.presence.set_state(keys.subscribe_key, [hand._channel], hand.instance_id, {"activeTasks": 0})
    await hand.start(waiting)


# --- cancel, terminate ---


@pytest.mark.parametrize("method", ["CancelTask", "TerminateTask"])
@housed()
async def test_what_does_not_end_in_the_grace_is_ended_by_the_network(house: House, method: str) -> None:
    hand = await house.hand()
    task = await running(house, hand)
    await house.call(method, taskId=task)
    await hand.wait_told(method, task)
    await house.advance(house.limits.cancel_grace_s - 0.1)
    assert await house.states(task) == ["running"]
    await house.advance(0.1)
    ended = await house.ended(task)
    assert (ended["state"], ended.get("reason")) == ("canceled", "terminated" if method == "TerminateTask" else None)
    await hand.end(task, "completed")  # too late
    assert len(await house.terminals(task)) == 1
    assert await house.states(task) == ["canceled"]


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
@housed()
async def test_a_canceled_tasks_own_end_counts(house: House, state: str) -> None:
    hand = await house.hand()
    task = await running(house, hand, retryPolicy={"maxAttempts": 5})
    await house.call("CancelTask", taskId=task)
    await hand.end(task, state)
    ended = await house.ended(task)
    assert (ended["state"], ended["attempt"]) == (state, 1)
    await house.advance(3_600)
    assert len(await house.terminals(task)) == 1


@housed()
async def test_repeated_wishes_are_told_again_and_do_not_prolong_the_grace(house: House) -> None:
    hand = await house.hand()
    task = await running(house, hand)
    for _ in range(3):
        await house.call("CancelTask", taskId=task)
        await house.advance(9)
    assert len(hand.told("CancelTask")) == 3
    assert [event["type"] for event in await house.events(task)] == ["progress", "cancel_requested"]
    await house.advance(3)
    assert (await house.ended(task))["state"] == "canceled"


@housed()
async def test_a_terminate_after_a_cancel_counts_and_a_cancel_after_a_terminate_does_not(house: House) -> None:
    hand = await house.hand(concurrency=2)
    one, two = await running(house, hand), await running(house, hand)
    await house.call("CancelTask", taskId=one)
    await house.call("TerminateTask", taskId=two)
    await house.advance(20)
    await house.call("TerminateTask", taskId=one)
    await house.call("CancelTask", taskId=two)
    await house.advance(10)
    assert (await house.ended(one))["reason"] == "terminated"
    assert (await house.ended(two))["reason"] == "terminated"
    assert "cancel_requested" not in [event["type"] for event in await house.events(two)]


@housed()
async def test_a_canceled_task_whose_instance_is_lost_is_canceled_and_not_run_again(house: House) -> None:
    for begun in (True, False):
        hand = await house.hand()
        task = await house.send(retryPolicy={"maxAttempts": 5})
        await hand.wait_told("StartTask", task)
        if begun:
            await hand.start(task)
        await house.call("CancelTask", taskId=task)
        await hand.die()
        assert (await house.ended(task))["state"] == "canceled"


@housed()
async def test_a_canceled_task_that_is_refused_is_canceled(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    await house.call("CancelTask", taskId=task)
    await hand.refuse(task)
    assert (await house.ended(task))["state"] == "canceled"


@housed(durable=True)
async def test_a_cancel_before_the_start_has_left_ends_the_task_at_once(house: House) -> None:
    principal = await house.network.api_keys.verify(house.identity.api_key)
    assert principal is not None
    hand = await house.hand()
    first, task = await house.send(), await house.send()
    await hand.start(first)
    with house.held_database():
        await hand.end(first)  # the next one has its place, and nothing of that is committed
        assert (await house.network.tasks.get(principal, {"taskId": task}))["task"]["state"] == "submitted"
        wish = asyncio.ensure_future(house.network.tasks.control(principal, "CancelTask", {"taskId": task}))
        await asyncio.sleep(0)
    await wish
    assert (await house.ended(task))["state"] == "canceled"
    assert hand.given == [first]
    third = await house.send()
    await hand.start(third)


@housed()
async def test_a_canceled_task_is_not_started_once_more(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    await house.call("CancelTask", taskId=task)
    await house.advance(29)
    assert len(hand.told("StartTask")) == 1
    await house.advance(1)
    assert (await house.ended(task))["state"] == "canceled"


# --- one end ---


@housed()
async def test_nothing_follows_the_first_terminal(house: House) -> None:
    hand = await house.hand()
    task = await running(house, hand)
    await hand.end(task, "completed")
    for late in ("failed", "canceled", "completed"):
        await hand.end(task, late)
    await hand.turn(task, "paused")
    await hand.publish(task, {"type": "artifact", "taskId": task})
    assert (await house.ended(task))["state"] == "completed"


@housed()
async def test_a_terminal_of_no_known_state_ends_nothing(house: House) -> None:
    hand = await house.hand()
    task = await running(house, hand)
    nonsense: list[Any] = ["done", None, 5, ["completed"], {}]
    for state in nonsense:
        await hand.publish(task, {"type": "terminal", "taskId": task, "state": state})
    payloads: list[dict[str, Any]] = [
        {},
        {"type": []},
        {"type": "progress", "state": {}},
        {"type": "system", "status": 1},
    ]
    for payload in payloads:
        await hand.publish(task, payload)
    assert await house.states(task) == ["running"]
    await hand.end(task)
    assert (await house.get(task))["state"] == "completed"


@housed()
async def test_texts_of_a_terminal_are_cut_and_of_a_wrong_type_left_out(house: House) -> None:
    hand = await house.hand(concurrency=3)
    long, wrong, nul = [await running(house, hand) for _ in range(3)]
    await hand.publish(long, {"type": "terminal", "state": "failed", "error": "e" * 9_000, "reason": "r" * 1_000})
    await hand.publish(wrong, {"type": "terminal", "state": "failed", "error": {"a": 1}, "reason": 7})
    await house.until(lambda: house.living(wrong) is None)
    cut = await house.get(long)
    assert len(cut["error"]) < 4_200
    assert len(cut["reason"]) == 255
    assert not {"error", "reason"} & set(await house.get(wrong))
    await hand.publish(nul, {"type": "terminal", "state": "failed", "error": "a\x00b"})
    assert (await house.get(nul))["error"] == "a\ufffdb"


@pytest.mark.parametrize("arrives", [True, False])
@housed()
async def test_a_terminal_that_is_being_stored_goes_before_the_networks_own(house: House, arrives: bool) -> None:
    await limited(house, maxRunningTimeSec=3)
    hand = await house.hand()
    task = await running(house, hand)
    publish, passed, go = house.network.bus.publish, asyncio.Event(), asyncio.Event()

    async def slow(draft: Draft) -> int:
        passed.set()
        await go.wait()
        if not arrives:
            raise BusFull("the disk is full")
        return await publish(draft)

    house.network.bus.publish = slow  # type: ignore[method-assign]  # a disk that takes its time
    ending = asyncio.ensure_future(hand.end(task))
    await asyncio.wait_for(passed.wait(), DEADLINE_S)
    await house.advance(3)
    assert await house.terminals(task) == []
    house.network.bus.publish = publish  # type: ignore[method-assign]
    go.set()
    if arrives:
        await ending
        assert (await house.ended(task))["state"] == "completed"
    else:
        with pytest.raises(AssertionError):  # the instance hears of it, and would try again
            await ending
        assert await house.states(task) == ["running"]
        await house.advance(2)
        assert (await house.ended(task))["reason"] == "max_running_time_exceeded"
    await house.advance(100)
    assert len(await house.terminals(task)) == 1


@housed(backlog_tasks=500)
async def test_whoever_is_first_ends_a_task_once_when_all_come_together(house: House) -> None:
    await limited(house, maxRunningTimeSec=30)
    hand = await house.hand(concurrency=0)
    tasks = [await running(house, hand) for _ in range(20)]
    for task in tasks[::2]:
        await house.call("CancelTask", taskId=task)
    house.clock.advance(30)  # the grace and the longest run end at the same moment, and here come their own ends
    house.network.tasks.timers.run_due()
    for task in tasks:
        await hand.end(task, "completed")
    for task in tasks:
        await house.ended(task)
        assert len(await house.terminals(task)) == 1
