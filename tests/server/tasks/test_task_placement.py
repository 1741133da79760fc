"""Which instance gets which task, and when: queues, backlog, load, refusals, repeated StartTasks, lost instances."""

from __future__ import annotations

import asyncio

import pytest
from task_house import House, Refused, housed

from blocks_network.server.tasks.overseer import DEAF_MS, START_AGAIN_MS
from blocks_network.wire.events import running_event

RETRY_LOST = {"maxAttempts": 2, "on": ["instance_lost"]}


# --- queues ---


@housed()
async def test_what_finds_no_place_waits_in_the_order_of_its_arrival(house: House) -> None:
    tasks = [await house.send() for _ in range(4)]
    answer = await house.call("SendMessage", agentName="worker", billingMode="free")
    assert (answer["queued"], answer["state"]) == (True, "queued")
    tasks.append(answer["taskId"])
    hand = await house.hand()
    for task in tasks:
        assert (await hand.start())["taskId"] == task
        assert await house.states(*tasks) == [
            "queued" if other > task else await state(house, other) for other in tasks
        ]
        await hand.end(task)
        await house.ended(task)
    assert hand.given == tasks


async def state(house: House, task: str) -> str:
    return str((await house.get(task))["state"])


@housed(backlog_tasks=2)
async def test_a_full_backlog_refuses_with_numbers_and_takes_again_when_there_is_room(house: House) -> None:
    hand = await house.hand()
    running = await house.send()
    waiting = [await house.send(), await house.send()]
    with pytest.raises(Refused) as refused:
        await house.send()
    assert refused.value.code == "BacklogFull"
    assert refused.value.data["details"] == {"agentName": "worker", "waiting": 2, "maxPendingBacklog": 2}
    await hand.start(running)
    await hand.end(running)
    await hand.start(waiting[0])
    assert await house.states(await house.send()) == ["queued"]


@housed(backlog_tasks=5)
async def test_the_backlog_is_what_the_instances_said_last_else_the_cards(house: House) -> None:
    async def room() -> int:
        sent = [await asyncio.gather(house.send("small"), return_exceptions=True) for _ in range(6)]
        answers = [answer for (answer,) in sent]
        return sum(isinstance(answer, str) for answer in answers)

    await house.register("small", runtime={"handler": "x.py", "maxPendingBacklog": 2})
    assert await room() == 2
    told = await house.hand("small", concurrency=1, maxPendingBacklog=4)
    await house.until(lambda: told.given)
    assert await room() == 3  # one of the two that waited runs now
    await house.register("none", runtime={"handler": "x.py", "maxPendingBacklog": 0})
    with pytest.raises(Refused):
        await house.send("none")


@housed(backlog_tasks=2_000)
async def test_hundreds_of_tasks_go_through_few_places_each_once_in_order(house: House) -> None:
    hands = [await house.hand(concurrency=4) for _ in range(3)]
    sent = [await house.send() for _ in range(150)]
    begun: list[str] = []
    while len(begun) < len(sent):
        hand = await house.until(lambda: next((hand for hand in hands if hand.unseen()), None))
        task = (await hand.start())["taskId"]
        begun.append(task)
        assert all(len([t for t in hand.given if house.living(t)]) <= 4 for hand in hands)
        await hand.end(task)
    await house.until(lambda: not any(map(house.living, sent)))
    assert sorted(begun) == sent
    for hand in hands:
        assert hand.given == sorted(hand.given)
        assert len(hand.told("StartTask")) == len(hand.given)


# --- load ---


@housed()
async def test_tasks_go_where_the_smallest_share_of_the_places_is_taken(house: House) -> None:
    small, large = await house.hand(concurrency=2), await house.hand(concurrency=4)
    for _ in range(6):
        await house.send()
    await house.settle()
    assert (len(small.given), len(large.given)) == (2, 4)
    # by share: one each, then the larger takes two for each of the smaller's
    owners = {task: hand for hand in (small, large) for task in hand.given}
    assert [owners[task] is small for task in sorted(owners)] == [True, False, False, True, False, False]
    assert await house.states(await house.send()) == ["queued"]


@housed()
async def test_equal_instances_take_turns(house: House) -> None:
    hands = [await house.hand(concurrency=2) for _ in range(3)]
    for _ in range(6):
        await house.send()
    await house.settle()
    assert [len(hand.given) for hand in hands] == [2, 2, 2]
    firsts = sorted(hand.given[0] for hand in hands)
    assert firsts < sorted(hand.given[1] for hand in hands)


@housed()
async def test_an_instance_without_a_limit_takes_all(house: House) -> None:
    hand = await house.hand(concurrency=0)
    for _ in range(50):
        await house.send()
    await house.settle()
    assert len(hand.given) == 50


@housed()
async def test_who_is_on_the_channel_and_never_connected_gets_nothing(house: House) -> None:
    hand = await house.hand()
    keys = house.identity.keysets.by_name("playground")
    house.network.presence.touch(keys.subscribe_key, [hand._channel], "stranger", timeout_s=3_600)
    first, second = await house.send(), await house.send()
    await house.settle()
    assert await house.states(first, second) == ["submitted", "queued"]
    assert hand.given == [first]


# --- refusals ---


@housed()
async def test_a_task_that_is_refused_is_queued_again_and_not_failed(house: House) -> None:
    hand = await house.hand()
    tasks = [await house.send(), await house.send()]
    await hand.wait_told("StartTask", tasks[0])
    await hand.refuse(tasks[0])
    assert await house.states(*tasks) == ["queued", "queued"]
    await house.advance(0.1)  # an instance that refused has a short rest
    await hand.start(tasks[0])
    await hand.end(tasks[0])
    assert (await house.ended(tasks[0]))["attempt"] == 1
    assert [event["type"] for event in await house.events(tasks[0])] == ["progress", "terminal"]
    await hand.wait_told("StartTask", tasks[1])
    assert hand.given == tasks


@housed()
async def test_a_refused_task_goes_to_another_instance_at_once(house: House) -> None:
    full, free = await house.hand(), await house.hand()
    task = await house.send()
    await house.until(lambda: full.given or free.given)
    first, second = (full, free) if full.given else (free, full)
    await first.refuse(task)
    await second.start(task)
    await second.end(task)
    assert (await house.ended(task))["instanceId"] == second.instance_id


@housed()
async def test_an_instance_that_goes_on_refusing_is_asked_ever_more_rarely(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    pauses = []
    for number in range(1, 9):
        await house.until(lambda: len(hand.told("StartTask")) == number)  # noqa: B023 - awaited in this turn
        await hand.refuse(task)
        begun = house.clock()
        while len(hand.told("StartTask")) == number:
            await house.advance(0.1)
        pauses.append(round(house.clock() - begun, 1))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert await house.terminals(task) == []


# --- StartTask until it is shown ---


@housed()
async def test_a_start_is_repeated_until_it_is_shown(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    for number, pause_ms in enumerate(START_AGAIN_MS[:3], 1):
        await house.advance(pause_ms / 1000 - 0.01)
        assert len(hand.told("StartTask")) == number
        await house.advance(0.01)
        assert len(hand.told("StartTask")) == number + 1
    await hand.start(task)
    await house.advance(1_000)
    assert len(hand.told("StartTask")) == 4
    assert await house.states(task) == ["running"]


@housed()
async def test_a_deaf_instance_loses_its_task_to_another_and_rests(house: House) -> None:
    deaf = await house.hand()
    task = await house.send()
    await deaf.wait_told("StartTask", task)
    for pause_ms in START_AGAIN_MS[:-1]:
        await house.advance(pause_ms / 1000)
    good = await house.hand()
    assert good.given == []
    await house.advance(START_AGAIN_MS[-1] / 1000)
    assert len(deaf.told("StartTask")) == len(START_AGAIN_MS)
    await good.start(task)
    waiting = await house.send()
    assert await house.states(waiting) == ["queued"]
    await house.advance(DEAF_MS / 1000)
    await deaf.start(waiting)
    await deaf.end(waiting)
    await house.ended(waiting)


@housed()
async def test_a_deaf_instance_that_shows_it_has_the_task_keeps_it(house: House) -> None:
    deaf = await house.hand()
    task = await house.send()
    await deaf.wait_told("StartTask", task)
    for pause_ms in START_AGAIN_MS:
        await house.advance(pause_ms / 1000)
    assert await house.states(task) == ["queued"]
    starts = len(deaf.told("StartTask"))
    await deaf.start(task)
    assert await house.states(task) == ["running"]
    await deaf.end(task)
    assert (await house.ended(task))["instanceId"] == deaf.instance_id
    await house.advance(DEAF_MS / 1000)
    assert len(deaf.told("StartTask")) == starts


@pytest.mark.parametrize("state", ["queued", "submitted", "running"])
@housed()
async def test_what_a_deaf_instance_says_later_is_not_what_the_next_one_does(house: House, state: str) -> None:
    deaf = await house.hand()
    task = await house.send()
    await deaf.wait_told("StartTask", task)
    for pause_ms in START_AGAIN_MS[:-1]:
        await house.advance(pause_ms / 1000)
    heir = await house.hand() if state != "queued" else None
    await house.advance(START_AGAIN_MS[-1] / 1000)
    if heir is not None:
        await heir.wait_told("StartTask", task)
    if heir is not None and state == "running":
        await heir.start(task)
    for _ in range(2):
        await deaf.refuse(task)
        assert await house.states(task) == [state]
    if heir is None:
        return
    if state == "submitted":
        await deaf.publish(task, running_event(task))
        assert await house.states(task) == ["submitted"]
        await heir.start(task)
    await deaf.turn(task, "paused")
    assert await house.states(task) == ["running"]
    await heir.end(task)
    assert (await house.ended(task))["instanceId"] == heir.instance_id


# --- instances that are gone ---


@housed()
async def test_what_had_not_begun_is_placed_elsewhere_in_its_old_order(house: House) -> None:
    lost = await house.hand(concurrency=3)
    tasks = [await house.send() for _ in range(3)]
    later = await house.send()
    await house.until(lambda: len(lost.given) == 3)
    await lost.die()
    assert await house.states(*tasks, later) == ["queued"] * 4
    heir = await house.hand()
    for task in (*tasks, later):
        assert (await heir.start())["taskId"] == task
        await heir.end(task)
        assert (await house.ended(task))["attempt"] == 1


@housed()
async def test_an_instance_that_leaves_and_joins_again_at_once_has_not_left(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.start(task)
    hand.leave()
    await house.advance(0.9)
    hand.stay()
    await house.advance(60)
    assert await house.states(task) == ["running"]
    hand.leave()
    await house.advance(1)
    assert (await house.ended(task))["reason"] == "instance_lost"


@housed()
async def test_what_had_begun_fails_with_its_instance(house: House) -> None:
    hand, heir = await house.hand(), await house.hand()
    tasks = [await house.send(), await house.send()]
    await hand.start(hand.given[0])
    await heir.start(heir.given[0])
    await hand.die()
    ended = await house.ended(hand.given[0])
    assert (ended["state"], ended["reason"]) == ("failed", "instance_lost")
    assert hand.instance_id in ended["error"]
    assert await house.states(heir.given[0]) == ["running"]
    assert sorted(hand.given + heir.given) == tasks


@housed()
async def test_a_policy_runs_it_again_elsewhere_as_often_as_it_says(house: House) -> None:
    task = await house.send(retryPolicy=RETRY_LOST)
    for attempt in (1, 2):
        hand = await house.hand()
        assert (await hand.start(task))["attempt"] == attempt
        await hand.die()
    ended = await house.ended(task)
    assert (ended["state"], ended["reason"], ended["attempt"]) == ("failed", "instance_lost", 2)
    assert [event["type"] for event in await house.events(task)] == ["progress", "progress", "terminal"]


@housed()
async def test_a_policy_holds_for_its_causes_only(house: House) -> None:
    hand = await house.hand(concurrency=2)
    lost_only = await house.send(retryPolicy=RETRY_LOST)
    failed_only = await house.send(retryPolicy={"maxAttempts": 2, "on": ["failed"]})
    await hand.start(lost_only)
    await hand.start(failed_only)
    await hand.end(lost_only, "failed", error="broken")
    assert (await house.ended(lost_only))["error"] == "broken"
    await hand.die()
    assert (await house.ended(failed_only))["reason"] == "instance_lost"


@housed()
async def test_a_failed_run_is_repeated_after_a_pause_that_doubles_and_shows_one_terminal(house: House) -> None:
    hand = await house.hand()
    task = await house.send(retryPolicy={"maxAttempts": 3, "backoffSec": 10})
    for attempt, pause_s in ((1, 10), (2, 20)):
        assert (await hand.start(task))["attempt"] == attempt
        await hand.end(task, "failed", error=f"broken {attempt}")
        assert await house.states(task) == ["queued"]
        await house.advance(pause_s - 0.1)
        assert len(hand.told("StartTask")) == attempt
        await house.advance(0.1)
    await hand.start(task)
    await hand.end(task, "failed", error="broken 3")
    ended = await house.ended(task)
    assert (ended["error"], ended["attempt"]) == ("broken 3", 3)


@housed()
async def test_a_task_in_its_pause_takes_no_place(house: House) -> None:
    hand = await house.hand()
    task, other = await house.send(retryPolicy={"maxAttempts": 2, "backoffSec": 60}), await house.send()
    await hand.start(task)
    await hand.end(task, "failed", error="broken")
    await hand.start(other)
    await house.advance(60)
    assert await house.states(task, other) == ["queued", "running"]
    await hand.end(other)
    assert (await hand.start(task))["attempt"] == 2


@housed()
async def test_an_instance_thought_lost_that_ends_its_waiting_task_has_ended_it(house: House) -> None:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    await hand.die()
    assert await house.states(task) == ["queued"]
    await hand.start(task)
    assert await house.states(task) == ["running"]
    hand.stay()
    await hand.end(task)
    assert (await house.ended(task))["state"] == "completed"


@housed()
async def test_two_runs_of_one_task_have_one_end_and_the_slower_is_told(house: House) -> None:
    cut_off = await house.hand()
    task = await house.send(retryPolicy=RETRY_LOST)
    await cut_off.start(task)
    await cut_off.die()
    heir = await house.hand()
    await heir.start(task)
    await cut_off.end(task)  # it was not dead, only out of sight
    assert (await house.ended(task))["state"] == "completed"
    await heir.wait_told("CancelTask", task)
    waiting = await house.send()
    await house.settle()
    assert await house.states(waiting) == ["queued"]  # its handler may still run
    await heir.end(task, "canceled")
    await heir.start(waiting)
    assert len(await house.terminals(task)) == 1


@housed()
async def test_a_removed_agents_waiting_tasks_fail_and_its_running_one_goes_on(house: House) -> None:
    hand = await house.hand()
    running, waiting = await house.send(), await house.send()
    await hand.start(running)
    headers = {"Authorization": f"Bearer {house.identity.api_key}"}
    answer = await house.http.delete("/api/v1/registry/agents?agentName=worker", headers=headers)
    assert answer.status_code == 200
    assert (await house.ended(waiting))["reason"] == "agent_left"
    await hand.end(running)
    assert (await house.ended(running))["state"] == "completed"
