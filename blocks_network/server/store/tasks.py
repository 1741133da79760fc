"""Tasks in the database: inserted, moved on and found. Functions over a connection, run by `Database.write` and `read`.

`TaskRecord` is one row; its first part is written once, its second part changes while the task lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, insert, or_, select, text, update

from blocks_network.server.store.schema import LIVING, cursors, idempotency, tasks
from blocks_network.server.store.statements import Prepared

__all__ = [
    "KeyClaim",
    "TaskFilter",
    "TaskRecord",
    "UserKey",
    "changing",
    "claim_keys",
    "find",
    "holder_of",
    "insert_all",
    "living",
    "page",
    "read_cursor",
    "snapshot",
    "update_all",
    "write_cursor",
]

UserKey = tuple[str, str, str]
"""(org id, user id, idempotency key)."""


@dataclass(slots=True, kw_only=True, eq=False)
class TaskRecord:
    """One row of `tasks`. Instants are Unix ms; `request`, `retry_policy`, `warnings` and `webhook` are JSON texts.

    `keyset` is the keyset's name. `attempt` counts runs from 1. `ending` says what was asked for ("cancel",
    "terminate", "expire") and `ending_at_ms` when the network ends the task by itself if nothing has come.
    """

    task_id: str
    org_id: str
    owner_id: str
    agent_id: str
    agent_name: str
    provider_org_id: str
    keyset: str
    billing_mode: str
    task_kind: str
    request: str
    duration_minutes: int | None = None
    max_running_s: int | None = None
    has_stream: bool = False
    consumer_public_key: str | None = None
    retry_policy: str | None = None
    warnings: str | None = None
    anon_hash: str | None = None
    reader: str | None = None
    webhook: str | None = field(default=None, repr=False)
    created_at_ms: int
    # what changes while it lives
    state: str = "submitted"
    updated_at_ms: int
    attempt: int = 1
    instance_id: str | None = None
    not_before_ms: int | None = None
    expires_at_ms: int | None = None
    started_at_ms: int | None = None
    ending: str | None = None
    ending_at_ms: int | None = None
    ended_at_ms: int | None = None
    error: str | None = None
    reason: str | None = None
    completion_reason: str | None = None


COLUMNS: tuple[str, ...] = tuple(column.name for column in tasks.columns)
CHANGING: tuple[str, ...] = (
    "state",
    "updated_at_ms",
    "attempt",
    "instance_id",
    "not_before_ms",
    "expires_at_ms",
    "started_at_ms",
    "ending",
    "ending_at_ms",
    "ended_at_ms",
    "error",
    "reason",
    "completion_reason",
)
_INSERT = Prepared(insert(tasks), COLUMNS)
_UPDATE = Prepared(
    update(tasks).where(tasks.c.task_id == bindparam("of_task")).values({name: bindparam(name) for name in CHANGING}),
    (*CHANGING, "of_task"),
)
_CLAIM = Prepared(
    text(  # a clause that both databases have, and that SQLAlchemy has for each apart
        "INSERT INTO idempotency (org_id, user_id, idempotency_key, task_id, created_at_ms)"
        " VALUES (:org_id, :user_id, :idempotency_key, :task_id, :created_at_ms) ON CONFLICT DO NOTHING"
    ),
    ("org_id", "user_id", "idempotency_key", "task_id", "created_at_ms"),
)
_MOVE = Prepared(
    update(cursors).where(cursors.c.name == bindparam("of_name")).values(timetoken=bindparam("to")), ("of_name", "to")
)


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A user's idempotency key, and the new task that wants it."""

    org_id: str
    user_id: str
    key: str
    task_id: str
    at_ms: int

    @property
    def whose(self) -> UserKey:
        return self.org_id, self.user_id, self.key


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks `page` is to show. `org_id` is the reader's: only tasks it sent, or that its agents got.

    `before` is a task id: older tasks only. `states` None is any.
    """

    org_id: str
    owner_id: str | None = None
    agent_name: str | None = None
    states: tuple[str, ...] | None = None
    before: str | None = None
    limit: int = 50


snapshot: Callable[[TaskRecord], tuple[Any, ...]] = attrgetter(*COLUMNS)
"""All columns of a record, as they are now."""
changing: Callable[[TaskRecord], tuple[Any, ...]] = attrgetter(*CHANGING, "task_id")
"""What may have changed of a record, as `update_all` takes it."""


def insert_all(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """New tasks, each as `snapshot` gives it."""
    _INSERT.run_all(connection, rows)


def update_all(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Tasks that have moved on, each as `changing` gives it."""
    _UPDATE.run_all(connection, rows)


def claim_keys(connection: Connection, claims: Sequence[KeyClaim]) -> dict[UserKey, str]:
    """Gives each free key to the first task that claims it here. Returns the task that has each one now."""
    rows = [(*claim.whose, claim.task_id, claim.at_ms) for claim in claims]
    if _CLAIM.run_all(connection, rows) == len(rows):  # as nearly always: a key is new, and one task's
        return {claim.whose: claim.task_id for claim in claims}
    holders = {claim.whose: holder_of(connection, claim.whose) for claim in claims}
    return {whose: holder for whose, holder in holders.items() if holder is not None}


def holder_of(connection: Connection, whose: UserKey) -> str | None:
    """The task that has this user's idempotency key; None when it is free."""
    org_id, user_id, key = whose
    asked = select(idempotency.c.task_id).where(
        idempotency.c.org_id == org_id, idempotency.c.user_id == user_id, idempotency.c.idempotency_key == key
    )
    return connection.execute(asked).scalar()


def living(connection: Connection) -> list[TaskRecord]:
    """Every task that has not ended, oldest first."""
    asked = select(tasks).where(LIVING).order_by(tasks.c.task_id)
    return [_record(row) for row in connection.execute(asked)]


def find(connection: Connection, task_id: str) -> TaskRecord | None:
    row = connection.execute(select(tasks).where(tasks.c.task_id == task_id)).first()
    return None if row is None else _record(row)


def page(connection: Connection, wanted: TaskFilter) -> tuple[list[TaskRecord], int]:
    """Up to `limit` tasks, newest first, and how many there are in all (whatever `before` and `limit` say)."""
    where = list(_conditions(wanted))
    total = connection.execute(select(func.count()).select_from(tasks).where(*where)).scalar_one()
    if wanted.limit == 0:
        return [], total
    if wanted.before is not None:
        where.append(tasks.c.task_id < wanted.before)
    asked = select(tasks).where(*where).order_by(tasks.c.task_id.desc()).limit(wanted.limit)
    return [_record(row) for row in connection.execute(asked)], total


def _conditions(wanted: TaskFilter) -> Iterable[ColumnElement[bool]]:
    yield or_(tasks.c.org_id == wanted.org_id, tasks.c.provider_org_id == wanted.org_id)
    if wanted.owner_id is not None:
        yield tasks.c.owner_id == wanted.owner_id
    if wanted.agent_name is not None:
        yield tasks.c.agent_name == wanted.agent_name
    if wanted.states is not None:
        yield tasks.c.state.in_(wanted.states)


def read_cursor(connection: Connection, name: str) -> int | None:
    """How far the reader `name` of the bus has come; None when it never began."""
    return connection.execute(select(cursors.c.timetoken).where(cursors.c.name == name)).scalar()


def write_cursor(connection: Connection, name: str, timetoken: int) -> None:
    if _MOVE.run(connection, (name, timetoken)) == 0:
        connection.execute(insert(cursors).values(name=name, timetoken=timetoken))


def _record(row: Row[Any]) -> TaskRecord:
    return TaskRecord(**row._mapping)
