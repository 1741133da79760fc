"""The table of states in docs/tasks.md, the code's tables, and what the network does: three times the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from task_house import Hand, House, Refused, housed

from blocks_network.server.tasks.life import (
    ENDED,
    LIVING,
    ON_AN_INSTANCE,
    STATES,
    WAITING,
    Effect,
    Happening,
    after,
    rule_for,
    shown_state,
    states_shown_as,
)
from blocks_network.server.tasks.service import CONTROL_METHODS
from blocks_network.wire.rpc import TASK_STATES

PAGE = Path(__file__).parents[3] / "docs" / "tasks.md"
SAID: dict[str, tuple[Effect, str]] = {
    "ends at once as canceled": (Effect.END, ""),
    "ends at once as canceled, reason `terminated`": (Effect.END, ""),
    "the instance is told; ended after 30 s if it does not end": (Effect.ASK_TO_END, ""),
    "the instance is told; ended after 30 s": (Effect.ASK_TO_END, ""),
    "the instance is told": (Effect.ASK, ""),
    "nothing": (Effect.NOTHING, ""),
    "a pause before the next attempt is cut short": (Effect.HURRY, ""),
    "refused, `TaskNotRunning`": (Effect.REFUSE, "TaskNotRunning"),
    "refused, `TaskEnded`": (Effect.REFUSE, "TaskEnded"),
}
"""What the page's cells mean."""


def page_table(first: str) -> dict[str, dict[str, str]]:
    """The table whose head begins with this word: its rows, each by the columns' names."""
    lines = iter(PAGE.read_text().splitlines())
    head = next(line for line in lines if line.startswith(f"| {first} |"))
    columns = [cell.strip() for cell in head.strip("| ").split("|")]
    next(lines)
    table = {}
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        row = dict(zip(columns, cells, strict=True))
        table[row.pop(first)] = row
    return table


# --- the tables ---


def test_the_page_says_of_each_method_and_state_what_the_code_does() -> None:
    table = page_table("method")
    assert set(table) == set(CONTROL_METHODS)
    for method, row in table.items():
        told, text = set(), ""
        for column, cell in row.items():
            text = text if cell == "the same" else cell
            for state in ENDED if column == "ended" else [name.strip() for name in column.split(",")]:
                rule = rule_for(method, state)
                assert (rule.effect, rule.code) == SAID[text], (method, state)
                told.add(state)
        assert told == set(STATES), f"the page leaves out a state for {method}"


def test_the_page_says_of_each_state_what_can_follow() -> None:
    table = page_table("state")
    assert set(table) == set(STATES)
    for state, row in table.items():
        followers = {after(state, happening) for happening in Happening} - {None, state}
        named = {name.strip() for name in row["is followed by"].split(",")} - {"nothing"}
        assert named == followers, state


def test_every_state_has_its_group_and_nothing_follows_an_end() -> None:
    assert set(STATES) == ENDED | WAITING | ON_AN_INSTANCE
    assert set(STATES) - ENDED == LIVING
    for state in ENDED:
        assert all(after(state, happening) is None for happening in Happening)
    for state in LIVING:
        for happening, end in (("COMPLETED", "completed"), ("FAILED", "failed"), ("CANCELED", "canceled")):
            assert after(state, Happening[happening]) == end


def test_a_task_without_an_instance_is_never_asked_and_an_ended_one_never_moved() -> None:
    asking = {Effect.ASK, Effect.ASK_TO_END}
    for method in CONTROL_METHODS:
        assert all(rule_for(method, state).effect not in asking for state in WAITING)
        assert all(rule_for(method, state).effect in {Effect.REFUSE, Effect.NOTHING} for state in ENDED)
        refusals = [rule_for(method, state) for state in STATES if rule_for(method, state).effect is Effect.REFUSE]
        assert all(rule.code and rule.text for rule in refusals)


def test_every_state_is_shown_under_a_name_of_the_protocol() -> None:
    assert {shown_state(state) for state in STATES} == set(TASK_STATES)
    for shown in TASK_STATES:
        assert {state for state in STATES if shown_state(state) == shown} == set(states_shown_as(shown))


# --- the network ---


async def into_queued(house: House) -> tuple[str, Hand | None]:
    return await house.send(), None


async def into_a_pause(house: House) -> tuple[str, Hand | None]:
    hand = await house.hand()
    task = await house.send(retryPolicy={"maxAttempts": 2, "backoffSec": 3600})
    await hand.start(task)
    await hand.end(task, "failed", error="first")
    return task, hand


async def into_assigned(house: House) -> tuple[str, Hand | None]:
    hand = await house.hand()
    task = await house.send()
    await hand.wait_told("StartTask", task)
    return task, hand


async def into_running(house: House) -> tuple[str, Hand | None]:
    hand = await house.hand()
    task = await house.send()
    await hand.start(task)
    return task, hand


async def into_paused(house: House) -> tuple[str, Hand | None]:
    task, hand = await into_running(house)
    assert hand is not None
    await hand.turn(task, "paused")
    return task, hand


def into_ended(state: str) -> Callable[[House], Awaitable[tuple[str, Hand | None]]]:
    async def into(house: House) -> tuple[str, Hand | None]:
        task, hand = await into_running(house)
        assert hand is not None
        await hand.end(task, state)
        await house.ended(task)
        return task, hand

    return into


WAYS: dict[str, Callable[[House], Awaitable[tuple[str, Hand | None]]]] = {
    "queued": into_queued,
    "queued in a pause": into_a_pause,
    "assigned": into_assigned,
    "running": into_running,
    "paused": into_paused,
    **{state: into_ended(state) for state in sorted(ENDED)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", CONTROL_METHODS)
@housed()
async def test_a_control_method_does_what_its_rule_says(house: House, method: str, way: str) -> None:
    task, hand = await WAYS[way](house)
    state = way.partition(" ")[0]
    rule = rule_for(method, state)
    told_before = [] if hand is None else list(hand.messages)
    if rule.effect is Effect.REFUSE:
        with pytest.raises(Refused) as refused:
            await house.call(method, taskId=task)
        assert refused.value.code == rule.code
        assert refused.value.data["details"] == {"taskId": task, "state": state}
        assert await house.states(task) == [shown_state(state)]
        return
    answer = await house.call(method, taskId=task)
    assert answer["taskId"] == task
    await house.settle()
    told = [] if hand is None else hand.messages[len(told_before) :]
    if rule.effect is Effect.END:
        ended = await house.ended(task)
        assert (ended["state"], ended.get("reason")) == OUTCOMES[method]
        assert told == []
    elif rule.effect in (Effect.ASK, Effect.ASK_TO_END):
        assert [(message["type"], message["taskId"]) for message in told] == [(method, task)]
        assert told[0]["caller"] == "user_local"
        assert await house.states(task) == [shown_state(state)]
    elif rule.effect is Effect.HURRY and way == "queued in a pause":
        assert [(message["type"], message["attempt"]) for message in told] == [("StartTask", 2)]
    else:
        assert await house.states(task) == [shown_state(state)]
        assert told == []


OUTCOMES = {"CancelTask": ("canceled", None), "TerminateTask": ("canceled", "terminated")}


@pytest.mark.parametrize("method", CONTROL_METHODS)
@housed()
async def test_a_control_method_needs_a_task_that_the_caller_may_see(house: House, method: str) -> None:
    stranger = await house.key("user_far", "org_far")
    task = await house.send()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "InvalidParams"),
        ({"taskId": 7}, "InvalidParams"),
        ({"taskId": "task-0"}, "TaskNotFound"),
        ({"taskId": task, "key": stranger}, "TaskNotFound"),
    ]
    for params, code in wrong:
        with pytest.raises(Refused) as refused:
            await house.call(method, **params)
        assert refused.value.code == code
    assert await house.states(task) == ["queued"]


@housed()
async def test_the_agents_own_organisation_may_terminate_a_task_and_no_more(house: House) -> None:
    stranger = await house.key("user_far", "org_far")
    task = await house.send(key=stranger)
    for method in set(CONTROL_METHODS) - {"TerminateTask"}:
        with pytest.raises(Refused) as refused:
            await house.call(method, taskId=task)
        assert refused.value.code == "Forbidden"
    await house.call("TerminateTask", taskId=task)
    await house.until(lambda: house.living(task) is None)
    assert (await house.get(task))["reason"] == "terminated"


@housed()
async def test_what_an_instance_shows_moves_its_task(house: House) -> None:
    task, hand = await into_running(house)
    assert hand is not None
    for status, state in (("paused", "paused"), ("paused", "paused"), ("resumed", "running"), ("resumed", "running")):
        await hand.turn(task, status)
        assert await house.states(task) == [state]
    await hand.turn(task, "paused")
    await hand.end(task)
    ended = await house.ended(task)
    assert ended["createdTime"] <= ended["startedTime"] <= ended["endedTime"] == ended["updatedTime"]
