"""The ledger: every change of a task on its way into the database, many in one transaction.

What a change leads to (a message of the network) leaves only after its commit, in the order in which it was decided:
nobody hears of anything that a crash could undo. With each group goes the cursor of the last event that the changes
rest on, so that after a restart the tables are exactly the state behind that cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks_network.backoff import Backoff
from blocks_network.server.bus import Draft
from blocks_network.server.store import outbox, tasks, webhooks
from blocks_network.server.store.database import Connection, Database, StoreFault
from blocks_network.server.store.outbox import OutboxMessage
from blocks_network.server.store.tasks import KeyClaim, TaskRecord, UserKey
from blocks_network.server.store.webhooks import NewDelivery

__all__ = ["CURSOR", "Kept", "Ledger", "Outgoing"]

log = logging.getLogger(__name__)

CURSOR = "tasks"
LAZY_S = 0.02
"""How long changes that nobody waits for gather. After a kill they are read from the bus again."""
RETRY = Backoff(first_s=0.1, cap_s=5)

Outgoing = OutboxMessage | Callable[[], "Draft | None"]
"""A message that the outbox keeps, or one that is made when it leaves (None: no longer wanted)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A new task is in the database, or another one has its idempotency key: `task_id` says which one to speak of.

    `cursor` is a timetoken before anything that the network publishes about the new task.
    """

    task_id: str
    cursor: int


@dataclass(frozen=True, slots=True)
class _Insert:
    row: dict[str, Any]
    claim: KeyClaim | None
    done: asyncio.Future[Kept]
    then: Outgoing | None

    def holder(self, holders: Mapping[UserKey, str]) -> str:
        """The task that has this one's key: itself, where it has none."""
        own: str = self.row["task_id"]
        return own if self.claim is None else holders[self.claim.whose]


@dataclass(slots=True)
class _Batch:
    """One transaction in the making."""

    inserts: list[_Insert] = field(default_factory=list)
    updates: dict[str, TaskRecord] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    notices: list[NewDelivery] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.updates or self.outgoing or self.notices or self.delivered or self.waiters)


class Ledger:
    """Belongs to one event loop.

    `cursor` gives the timetoken of the last event that was applied, `now` the bus's. `committed` gets what may leave
    now, in order; `noticed` hears when notices for webhooks are in the database.
    """

    def __init__(
        self,
        database: Database,
        *,
        cursor: Callable[[], int],
        now: Callable[[], int],
        committed: Callable[[Iterable[Outgoing]], None],
        noticed: Callable[[], None] | None = None,
    ) -> None:
        self._database, self._cursor, self._now, self._committed = database, cursor, now, committed
        self._noticed = noticed
        self._batch = _Batch()
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        """Somebody waits for an answer: the database is tried at once, also after it has refused."""
        self._failures = 0
        self._lazy: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._under_way = False
        self._saved_cursor = -1

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="blocks-task-ledger")

    async def begin(self) -> None:
        """Stores the cursor that everything from now on counts from."""
        cursor = self._cursor()
        await self._database.write(lambda connection: tasks.write_cursor(connection, CURSOR, cursor))
        self._saved_cursor = cursor

    async def stop(self) -> None:
        """Writes what there is, then ends."""
        self._ending = True
        self._wanted.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None

    def insert(self, record: TaskRecord, claim: KeyClaim | None, then: Outgoing | None) -> asyncio.Future[Kept]:
        """A new task, unless another has its key; `then` leaves only if it was kept. Done after the commit."""
        done: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._batch.inserts.append(_Insert(tasks.snapshot(record), claim, done, then))
        self._wanted.set()
        self._asked.set()
        return done

    def update(self, record: TaskRecord, *, soon: bool = True) -> None:
        """The record has changed. `soon` False: nothing waits for it, it may gather for LAZY_S."""
        self._batch.updates[record.task_id] = record
        if soon:
            self._wanted.set()
        else:
            self._later()

    def send(self, outgoing: Outgoing) -> None:
        """A message that leaves after everything that was written until now is committed."""
        self._batch.outgoing.append(outgoing)
        self._wanted.set()

    def notice(self, notice: NewDelivery) -> None:
        """What a webhook is to be told; it is written with the change that it is about, which was given just before."""
        self._batch.notices.append(notice)
        self._later()

    def delivered(self, message_ids: Iterable[str]) -> None:
        """These messages of the outbox are on the bus."""
        self._batch.delivered.extend(message_ids)
        self._later()

    async def flush(self) -> None:
        """Returns when everything that was written until now is committed. StoreFault, OSError or RuntimeError when
        the database refuses; it is tried again all the same."""
        if not self._batch and not self._under_way:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batch.waiters.append(done)
        self._wanted.set()
        self._asked.set()
        await done

    def _later(self) -> None:
        if self._lazy is None and not self._wanted.is_set():
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._lazy_over)

    def _lazy_over(self) -> None:
        self._lazy = None
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._asked.clear()
            batch, self._batch = self._batch, _Batch()
            if batch and not await self._commit(batch):
                self._failures += 1
                if self._ending:
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), RETRY.delay(self._failures))
                self._wanted.set()
                continue
            if self._failures and batch:
                log.warning("changes of tasks are written again")
                self._failures = 0
            if self._ending and not self._batch:
                return

    async def _commit(self, batch: _Batch) -> bool:
        """False when the database refused: new tasks and waiters hear of it, what was decided is tried again."""
        updates = [tasks.changing(record) for record in batch.updates.values()]
        messages = [item for item in batch.outgoing if isinstance(item, OutboxMessage)]
        cursor = self._cursor()

        def write(connection: Connection) -> dict[UserKey, str]:
            holders = tasks.claim_keys(connection, [new.claim for new in batch.inserts if new.claim is not None])
            kept = [new.row for new in batch.inserts if new.holder(holders) == new.row["task_id"]]
            tasks.insert_all(connection, kept)
            tasks.update_all(connection, updates)
            outbox.put_messages(connection, messages)
            outbox.remove_messages(connection, batch.delivered)
            webhooks.put_deliveries(connection, batch.notices)
            if cursor != self._saved_cursor:
                tasks.write_cursor(connection, CURSOR, cursor)
            return holders

        holders: dict[UserKey, str] = {}
        if batch.inserts or updates or messages or batch.notices or batch.delivered:
            self._under_way = True
            try:
                holders = await self._database.write(write)
            except (StoreFault, OSError, RuntimeError) as fault:
                cause = getattr(fault, "orig", None) or fault
                level = logging.DEBUG if self._failures else logging.ERROR  # once, not with each attempt
                log.log(level, "%d changes of tasks were not written: %s", len(batch.inserts) + len(updates), cause)
                self._give_back(batch, fault)
                return False
            finally:
                self._under_way = False
            self._saved_cursor = cursor
        self._tell(batch, holders)
        return True

    def _tell(self, batch: _Batch, holders: Mapping[UserKey, str]) -> None:
        """After the commit: who waited hears of it, and what follows from it leaves."""
        before = self._now()
        outgoing: list[Outgoing] = []
        for new in batch.inserts:
            holder = new.holder(holders)
            if new.then is not None and holder == new.row["task_id"]:
                outgoing.append(new.then)
            if not new.done.done():  # its caller may have gone
                new.done.set_result(Kept(holder, before))
        outgoing.extend(batch.outgoing)
        if outgoing:
            self._committed(outgoing)
        if batch.notices and self._noticed is not None:
            self._noticed()
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _give_back(self, batch: _Batch, fault: Exception) -> None:
        for new in batch.inserts:
            if not new.done.done():
                new.done.set_exception(fault)
        newer = self._batch
        newer.updates = {**batch.updates, **newer.updates}
        newer.outgoing[:0] = batch.outgoing
        newer.notices[:0] = batch.notices
        newer.delivered[:0] = batch.delivered
        waiters = batch.waiters
        if self._ending:
            waiters, newer.waiters = waiters + newer.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(fault)
