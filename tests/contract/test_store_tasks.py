"""What the store's functions for tasks, and for what follows from them, do on every database."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from databases import Store

from blocks_network.server.store import tasks, webhooks
from blocks_network.server.store.outbox import OutboxMessage, load_outbox, put_messages, remove_messages
from blocks_network.server.store.tasks import KeyClaim, TaskFilter, TaskRecord

NOW_MS = 1_750_000_000_000
LATEST_MS = 2**53
"""Instants are 64 bits wide: what a clock says, not what an Integer holds."""
TEXTS = ("plain", "Grüße 🧱 𝄞", 'a "quoted" \\ %s :name line\nbreak', "x" * 100_000)

# --- tasks ---


def task(number: int, **more: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "task_id": f"task-{number:04}",
        "org_id": "org1",
        "owner_id": "user1",
        "agent_id": "agt_sum",
        "agent_name": "sum",
        "provider_org_id": "org2",
        "keyset": "playground",
        "billing_mode": "free",
        "task_kind": "request",
        "request": "{}",
        "created_at_ms": NOW_MS,
        "updated_at_ms": NOW_MS,
    }
    return TaskRecord(**{**values, **more})


def insert(store: Store, *records: TaskRecord) -> None:
    store.write(tasks.insert_all, [tasks.snapshot(record) for record in records])


def full_task() -> TaskRecord:
    """Every column filled, each to its width."""
    wide = dict.fromkeys(("owner_id", "agent_name", "instance_id", "reason", "completion_reason"), "w" * 255)
    narrow = dict.fromkeys(("org_id", "agent_id", "provider_org_id", "anon_hash", "reader"), "n" * 64)
    texts = dict.fromkeys(("request", "consumer_public_key", "retry_policy", "warnings", "webhook"), TEXTS[3])
    instants = dict.fromkeys(
        ("not_before_ms", "expires_at_ms", "started_at_ms", "ending_at_ms", "ended_at_ms"), LATEST_MS
    )
    return task(
        1,
        **wide,
        **narrow,
        **texts,
        **instants,
        duration_minutes=43_200,
        max_running_s=1_000_000_000,
        has_stream=True,
        attempt=1_000_000,
        ending="terminate",
        error=TEXTS[1] * 1_000,
        state="completed",
    )


def test_a_task_comes_back_as_it_was_written(store: Store) -> None:
    whole, bare = full_task(), task(2)
    insert(store, whole, bare)
    insert(store)
    for written in (whole, bare):
        read = store.read(tasks.find, written.task_id)
        assert read is not None
        assert tasks.snapshot(read) == tasks.snapshot(written)
    assert store.read(tasks.find, "none") is None


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "unicode", "quoted", "long"])
def test_what_changes_of_a_task_is_updated_and_the_rest_stays(store: Store, text: str) -> None:
    insert(store, task(1), task(2))
    moved = replace(full_task(), state="running", error=text)
    store.write(tasks.update_all, [tasks.changing(moved)])
    store.write(tasks.update_all, [])
    read = store.read(tasks.find, "task-0001")
    assert read is not None
    assert tasks.changing(read) == tasks.changing(moved)
    assert (read.owner_id, read.request) == ("user1", "{}")
    untouched = store.read(tasks.find, "task-0002")
    assert untouched is not None
    assert tasks.snapshot(untouched) == tasks.snapshot(task(2))


def test_the_living_are_those_that_have_not_ended(store: Store) -> None:
    states = ["submitted", "queued", "assigned", "running", "paused", "completed", "failed", "canceled"]
    insert(store, *(task(number, state="submitted") for number in range(len(states))))
    moved = [
        task(number, state=state, ended_at_ms=7 if state in states[5:] else None) for number, state in enumerate(states)
    ]
    store.write(tasks.update_all, [tasks.changing(one) for one in moved])
    assert [record.state for record in store.read(tasks.living)] == states[:5]


def test_a_key_belongs_to_the_first_task_that_claims_it(store: Store) -> None:
    first = KeyClaim("org1", "user1", "k" * 255, "task-1", NOW_MS)
    mine = ("org1", "user1", "k" * 255)
    assert store.write(tasks.claim_keys, [first, replace(first, task_id="task-2")]) == {mine: "task-1"}
    others = [
        replace(first, task_id="task-3"),
        replace(first, user_id="user2", task_id="task-4"),
        replace(first, org_id="org2", task_id="task-5"),
    ]
    assert store.write(tasks.claim_keys, others) == {
        mine: "task-1",
        ("org1", "user2", "k" * 255): "task-4",
        ("org2", "user1", "k" * 255): "task-5",
    }
    assert store.write(tasks.claim_keys, []) == {}
    assert store.read(tasks.holder_of, mine) == "task-1"
    assert store.read(tasks.holder_of, ("org1", "user3", "k")) is None


def page(store: Store, org_id: str = "org1", **wanted: Any) -> tuple[list[str], int]:
    records, total = store.read(tasks.page, TaskFilter(org_id, **wanted))
    return [record.task_id for record in records], total


def test_tasks_are_listed_newest_first_for_who_sent_and_who_got_them(store: Store) -> None:
    insert(
        store,
        task(1),
        task(2, state="failed", owner_id="user9"),
        task(3, provider_org_id="org1", org_id="org3", agent_name="other"),
        task(4, org_id="org3"),
    )
    assert page(store) == (["task-0003", "task-0002", "task-0001"], 3)
    assert page(store, "org3") == (["task-0004", "task-0003"], 2)
    assert page(store, "org9") == ([], 0)
    assert page(store, owner_id="user9") == (["task-0002"], 1)
    assert page(store, agent_name="other") == (["task-0003"], 1)
    assert page(store, states=("failed", "running")) == (["task-0002"], 1)
    assert page(store, states=()) == ([], 0)
    assert page(store, before="task-0003", limit=1) == (["task-0002"], 3)
    assert page(store, limit=0) == ([], 3)


def test_a_cursor_moves(store: Store) -> None:
    assert store.read(tasks.read_cursor, "tasks") is None
    for timetoken in (17_500_000_000_000_000, 17_500_000_000_000_001, 2**63 - 1):
        store.write(tasks.write_cursor, "tasks", timetoken)
        assert store.read(tasks.read_cursor, "tasks") == timetoken
    assert store.read(tasks.read_cursor, "other") is None


# --- what follows from a task ---


def test_messages_wait_in_their_order_and_come_but_once(store: Store) -> None:
    last = OutboxMessage("m2", 2**40, "playground", "c" * 255, TEXTS[3], TEXTS[1], stored=False)
    first = OutboxMessage("m" * 64, 1, "playground", "u.org.task", TEXTS[2])
    store.write(put_messages, [last, first])
    store.write(put_messages, [replace(first, payload="written again"), replace(last, message_id="m3", position=5)])
    store.write(put_messages, [])
    assert [message.message_id for message in store.read(load_outbox)] == ["m" * 64, "m3", "m2"]
    assert [store.read(load_outbox)[index] for index in (0, 2)] == [first, last]
    store.write(remove_messages, ["m2", "none"])
    store.write(remove_messages, [])
    assert [message.message_id for message in store.read(load_outbox)] == ["m" * 64, "m3"]


def delivery(number: int, **more: Any) -> webhooks.NewDelivery:
    made = webhooks.NewDelivery(f"d{number}", "task-0001", "org1", "task.completed", TEXTS[2], NOW_MS + number)
    return replace(made, **more)


def claim(
    store: Store, *, room: int = 10, running: Any = None, per_org: int = 10, now_ms: int = LATEST_MS
) -> list[str]:
    taken = store.write(
        webhooks.claim, now_ms=now_ms, until_ms=LATEST_MS * 2, room=room, running=running or {}, per_org=per_org
    )
    return [each.delivery_id for each in taken]


def test_deliveries_are_claimed_once_in_their_order_and_fairly(store: Store) -> None:
    insert(store, task(1, webhook="{}"))
    store.write(webhooks.put_deliveries, [delivery(number) for number in range(4)])
    store.write(webhooks.put_deliveries, [delivery(3, body="again"), delivery(9, org_id="org2")])
    store.write(webhooks.put_deliveries, [])
    due = partial(store.read, webhooks.next_due_ms, per_org=2)
    assert due(running={}) == NOW_MS
    assert due(running={"org1": 2}) == NOW_MS + 9
    assert due(running={"org1": 2, "org2": 2}) is None
    assert claim(store, now_ms=NOW_MS - 1) == []
    assert claim(store, per_org=2) == ["d0", "d1", "d9"]
    assert claim(store, running={"org1": 1}, per_org=2, room=1) == ["d2"]
    assert claim(store) == ["d3"]
    assert claim(store) == []
    store.write(webhooks.release, ["d1", "none"], NOW_MS)
    assert claim(store) == ["d1"]


def deliveries(store: Store, org_id: str = "org1", **wanted: Any) -> list[webhooks.Delivery]:
    return store.read(webhooks.page, webhooks.DeliveryFilter(org_id, **wanted))


def test_attempts_are_noted_listed_and_forgotten(store: Store) -> None:
    insert(store, task(1, webhook=TEXTS[1]), task(2, webhook="{}"))
    same = [delivery(number, created_at_ms=NOW_MS) for number in range(3)]
    store.write(webhooks.put_deliveries, [*same, delivery(3, task_id="task-0002")])
    (first,) = deliveries(store, before=(NOW_MS, "d1"))
    assert (first.delivery_id, first.body, first.webhook, first.log) == ("d0", TEXTS[2], TEXTS[1], [])
    for number, state, ended in ((1, webhooks.PENDING, None), (2, webhooks.DELIVERED, NOW_MS + 9)):
        (first,) = deliveries(store, before=(NOW_MS, "d1"))
        attempt = {"atMs": NOW_MS + number, "status": 500, "said": TEXTS[1]}
        store.write(webhooks.note_attempt, first, attempt, state=state, next_at_ms=NOW_MS + 50, ended_at_ms=ended)
    (first,) = deliveries(store, state=webhooks.DELIVERED)
    assert (first.attempts, len(first.log), first.ended_at_ms) == (2, 2, NOW_MS + 9)
    assert [each.delivery_id for each in deliveries(store)] == ["d3", "d2", "d1", "d0"]
    assert [each.delivery_id for each in deliveries(store, limit=1)] == ["d3"]
    assert [each.delivery_id for each in deliveries(store, task_id="task-0001", state=webhooks.PENDING)] == ["d2", "d1"]
    assert deliveries(store, "org2") == []
    store.write(webhooks.release, ["d0"], 1)  # has ended: nobody gets it again
    assert "d0" not in claim(store)
    assert store.write(webhooks.prune, NOW_MS + 9) == 0
    assert store.write(webhooks.prune, NOW_MS + 10) == 1
    assert [each.delivery_id for each in deliveries(store)] == ["d3", "d2", "d1"]
