"""GetTask and ListTasks: what they show, to whom, page by page."""

from __future__ import annotations

from typing import Any

import pytest
from task_house import House, Refused, housed, ids


async def filled(house: House) -> dict[str, str]:
    """A task in each state that a caller can see, and one of another user and agent."""
    hand = await house.hand(concurrency=0)
    tasks = {}
    for state in ("running", "paused", "completed", "failed", "canceled", "submitted"):
        task = tasks[state] = await house.send()
        await hand.wait_told("StartTask", task)
        if state == "submitted":
            continue
        await hand.start(task)
        if state == "paused":
            await hand.turn(task, "paused")
        elif state != "running":
            await hand.end(task, state, error="broken" if state == "failed" else None)
            await house.ended(task)
    await house.register("idle")
    tasks["queued"] = await house.send("idle", key=await house.key("user_other"))
    return tasks


@housed()
async def test_each_filter_finds_its_tasks_and_their_number(house: House) -> None:
    tasks = await filled(house)
    for state, task in tasks.items():
        answer = await house.call("ListTasks", state=state)
        assert (ids(answer), answer["totalCount"]) == ([task], 1), state
        assert answer["tasks"] == [await house.get(task)]
    everything = list(tasks.values())[::-1]
    filters: list[tuple[dict[str, Any], list[str]]] = [
        ({}, everything),
        ({"ownerId": "", "agentName": None, "state": ""}, everything),
        ({"agentName": "idle"}, [tasks["queued"]]),
        ({"agentName": "nobody"}, []),
        ({"ownerId": "user_other"}, [tasks["queued"]]),
        ({"ownerId": "user_other", "state": "running"}, []),
        ({"ownerId": "user_local", "agentName": "worker", "state": "paused"}, [tasks["paused"]]),
    ]
    for wanted, found in filters:
        answer = await house.call("ListTasks", **wanted)
        assert (ids(answer), answer["totalCount"]) == (found, len(found)), wanted


@housed(backlog_tasks=100, tasks_per_page=7)
async def test_pages_hold_every_task_once_also_while_new_ones_come(house: House) -> None:
    sent = [await house.send() for _ in range(17)]
    answer = await house.call("ListTasks", limit=5)
    seen, totals = ids(answer), [answer["totalCount"]]
    while "next" in answer:
        await house.send()  # newer than all: on no later page
        answer = await house.call("ListTasks", limit=5, cursor=answer["next"])
        seen += ids(answer)
        totals.append(answer["totalCount"])
    assert seen == sent[::-1]
    assert totals == [17, 18, 19, 20]
    assert len(ids(await house.call("ListTasks", limit=1_000))) == 7
    count = await house.call("ListTasks", limit=0)
    assert (count["tasks"], count["totalCount"], "next" in count) == ([], 20, False)


@housed(backlog_tasks=100)
async def test_the_last_page_has_no_next_one(house: House) -> None:
    for _ in range(4):
        await house.send()
    first = await house.call("ListTasks", limit=2)
    second = await house.call("ListTasks", limit=2, cursor=first["next"])
    assert len(second["tasks"]) == 2
    assert "next" not in second


BAD: list[tuple[dict[str, Any], str]] = [
    ({"ownerId": 5}, "ownerId"),
    ({"agentName": []}, "agentName"),
    ({"state": {}}, "state"),
    ({"state": "cancelled"}, "state"),
    ({"state": "assigned"}, "state"),
    ({"limit": "5"}, "limit"),
    ({"limit": -1}, "limit"),
    ({"limit": True}, "limit"),
    ({"limit": 1.5}, "limit"),
    ({"cursor": 5}, "cursor"),
    ({"cursor": "nonsense"}, "cursor"),
    ({"cursor": "🙂"}, "cursor"),
    ({"agentName": "a\x00"}, "agentName"),
    ({"cursor": "YmVmb3JlOgA"}, "cursor"),
    ({"cursor": "bm9uc2Vuc2U"}, "cursor"),
]


@housed()
async def test_a_parameter_that_cannot_be_used_is_named(house: House) -> None:
    for params, named in BAD:
        with pytest.raises(Refused) as refused:
            await house.call("ListTasks", **params)
        assert (refused.value.rpc_code, refused.value.code) == (-32602, "InvalidParams"), params
        assert named in refused.value.data["message"]
    for params in ({}, {"taskId": None}, {"taskId": 5}, {"taskId": ""}, {"taskId": "\x00"}):
        with pytest.raises(Refused) as refused:
            await house.call("GetTask", **params)
        assert refused.value.code == "InvalidParams"


@housed()
async def test_a_tenant_lists_what_it_sent_and_what_its_agents_got(house: House) -> None:
    far, nowhere = await house.key("user_far", "org_far"), await house.key("user_no", "org_no")
    mine, theirs = await house.send(), await house.send(key=far)
    assert ids(await house.call("ListTasks")) == [theirs, mine]
    assert ids(await house.call("ListTasks", key=far)) == [theirs]
    assert await house.call("ListTasks", key=nowhere) == {"tasks": [], "totalCount": 0}
    for task, key in ((mine, far), (mine, nowhere), (theirs, nowhere)):
        with pytest.raises(Refused) as refused:
            await house.call("GetTask", taskId=task, key=key)
        assert refused.value.code == "TaskNotFound"


@housed()
async def test_a_task_shows_what_is_known_of_it_and_nothing_else(house: House) -> None:
    tasks = await filled(house)
    submitted, failed = await house.get(tasks["submitted"]), await house.get(tasks["failed"])
    assert set(submitted) == {
        *("taskId", "agentName", "owner", "orgId", "state", "createdTime", "updatedTime", "taskKind"),
        *("billingMode", "instanceId", "attempt"),
    }
    assert (submitted["owner"], submitted["attempt"]) == ("user_local", 1)
    assert set(failed) - set(submitted) == {"startedTime", "endedTime", "error"}
    assert failed["error"] == "broken"
