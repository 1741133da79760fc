"""Deliveries of webhooks: made with a task's change, claimed, attempted, kept as a log. Functions over a connection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from blocks_network.server.store.schema import tasks, webhook_deliveries

__all__ = [
    "Connection",
    "DELIVERED",
    "Delivery",
    "DeliveryFilter",
    "FAILED",
    "NewDelivery",
    "PENDING",
    "claim",
    "next_due_ms",
    "note_attempt",
    "page",
    "prune",
    "put_deliveries",
    "release",
]

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
_INSERT = text(  # again after a commit whose answer got lost: what is there already stays
    "INSERT INTO webhook_deliveries"
    " (delivery_id, task_id, org_id, event, body, created_at_ms, state, attempts, next_at_ms, ended_at_ms, log)"
    " VALUES (:delivery_id, :task_id, :org_id, :event, :body, :created_at_ms, :state, :attempts, :next_at_ms,"
    " :ended_at_ms, :log) ON CONFLICT DO NOTHING"
)
_RELEASE = (
    update(webhook_deliveries)
    .where(webhook_deliveries.c.delivery_id == bindparam("of_delivery"), webhook_deliveries.c.state == PENDING)
    .values(next_at_ms=bindparam("at_ms"))
)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """What is to be posted, as text, to the address that the task's webhook names."""

    delivery_id: str
    task_id: str
    org_id: str
    event: str
    body: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row. `webhook` is the JSON text of its task's webhook, `log` one mapping an attempt, oldest first."""

    delivery_id: str
    task_id: str
    org_id: str
    event: str
    body: str
    created_at_ms: int
    state: str
    attempts: int
    next_at_ms: int
    ended_at_ms: int | None
    log: Sequence[Mapping[str, Any]]
    webhook: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries `page` is to show, newest first. `before` is the position of the last one seen."""

    org_id: str
    task_id: str | None = None
    state: str | None = None
    before: tuple[int, str] | None = None
    limit: int = 50


def put_deliveries(connection: Connection, rows: Sequence[NewDelivery]) -> None:
    """New deliveries, due at once; those that are known stay as they are."""
    if rows:
        connection.execute(
            _INSERT,
            [
                {
                    "delivery_id": row.delivery_id,
                    "task_id": row.task_id,
                    "org_id": row.org_id,
                    "event": row.event,
                    "body": row.body,
                    "created_at_ms": row.created_at_ms,
                    "state": PENDING,
                    "attempts": 0,
                    "next_at_ms": row.created_at_ms,
                    "ended_at_ms": None,
                    "log": "[]",
                }
                for row in rows
            ],
        )


def claim(
    connection: Connection, *, now_ms: int, until_ms: int, room: int, running: Mapping[str, int], per_org: int
) -> list[Delivery]:
    """Up to `room` deliveries that are due, the longest due first; nobody else gets them before `until_ms`.

    `running` counts those under way of each org; none gets more than `per_org`.
    """
    counts = Counter(running)
    taken: list[Delivery] = []
    while len(taken) < room:
        full = [org_id for org_id, count in counts.items() if count >= per_org]
        asked = (
            _SELECT.where(webhook_deliveries.c.state == PENDING, webhook_deliveries.c.next_at_ms <= now_ms)
            .where(webhook_deliveries.c.org_id.not_in(full))
            .order_by(webhook_deliveries.c.next_at_ms, webhook_deliveries.c.delivery_id)
            .limit(room - len(taken))
        )
        fresh = []
        for row in connection.execute(asked):
            if counts[row.org_id] < per_org:
                counts[row.org_id] += 1
                fresh.append(_delivery(row))
        if not fresh:
            break
        release(connection, [delivery.delivery_id for delivery in fresh], until_ms)
        taken += fresh
    return taken


def release(connection: Connection, delivery_ids: Iterable[str], at_ms: int) -> None:
    """These deliveries are due at `at_ms`, unless they have ended."""
    rows = [{"of_delivery": delivery_id, "at_ms": at_ms} for delivery_id in delivery_ids]
    if rows:
        connection.execute(_RELEASE, rows)


def next_due_ms(connection: Connection, *, running: Mapping[str, int], per_org: int) -> int | None:
    """When the next delivery is due that an org with room has."""
    full = [org_id for org_id, count in running.items() if count >= per_org]
    return connection.execute(
        select(func.min(webhook_deliveries.c.next_at_ms)).where(
            webhook_deliveries.c.state == PENDING, webhook_deliveries.c.org_id.not_in(full)
        )
    ).scalar()


def note_attempt(
    connection: Connection,
    delivery: Delivery,
    attempt: Mapping[str, Any],
    *,
    state: str,
    next_at_ms: int,
    ended_at_ms: int | None,
) -> None:
    """One attempt more, and what follows from it."""
    connection.execute(
        update(webhook_deliveries)
        .where(webhook_deliveries.c.delivery_id == delivery.delivery_id)
        .values(
            state=state,
            attempts=delivery.attempts + 1,
            next_at_ms=next_at_ms,
            ended_at_ms=ended_at_ms,
            log=json.dumps([*delivery.log, dict(attempt)]),
        )
    )


def page(connection: Connection, wanted: DeliveryFilter) -> list[Delivery]:
    """Up to `limit` deliveries, newest first."""
    table = webhook_deliveries.c
    asked = _SELECT.where(table.org_id == wanted.org_id)
    if wanted.task_id is not None:
        asked = asked.where(table.task_id == wanted.task_id)
    if wanted.state is not None:
        asked = asked.where(table.state == wanted.state)
    if wanted.before is not None:
        at_ms, delivery_id = wanted.before
        older = table.created_at_ms < at_ms
        asked = asked.where(older | ((table.created_at_ms == at_ms) & (table.delivery_id < delivery_id)))
    asked = asked.order_by(table.created_at_ms.desc(), table.delivery_id.desc()).limit(wanted.limit)
    return [_delivery(row) for row in connection.execute(asked)]


def prune(connection: Connection, before_ms: int) -> int:
    """Forgets deliveries that ended before this instant; how many."""
    return connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.ended_at_ms < before_ms)).rowcount


_SELECT = select(webhook_deliveries, tasks.c.webhook).join(tasks, tasks.c.task_id == webhook_deliveries.c.task_id)


def _delivery(row: Any) -> Delivery:
    values = dict(row._mapping)
    return Delivery(**{**values, "log": json.loads(values["log"])})
