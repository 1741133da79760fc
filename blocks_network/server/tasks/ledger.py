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
from blocks_network.server.store.database import Connection, Database, DatabaseBusy, StoreFault
from blocks_network.server.store.outbox import OutboxMessage
from blocks_network.server.store.tasks import KeyClaim, TaskRecord, UserKey
from blocks_network.server.store.webhooks import NewDelivery

__all__ = ["CURSOR", "Kept", "Ledger", "Outgoing"]

log = logging.getLogger(__name__)

CURSOR = "tasks"
LAZY_S = 0.02
"""How long changes that nobody waits for gather. After a kill they are read from the bus again."""
RETRY = Backoff(first_s=0.1, cap_s=5)

FAULTS = (StoreFault, OSError, RuntimeError)
"""What the database may raise."""

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
    task_id: str
    row: tuple[Any, ...]
    claim: KeyClaim | None
    done: asyncio.Future[Kept]
    then: Outgoing | None
    unwanted: Callable[[], None]

    def holder(self, holders: Mapping[UserKey, str]) -> str:
        """The task that has this one's key: itself, where it has none."""
        return self.task_id if self.claim is None else holders[self.claim.whose]


@dataclass(slots=True)
class _Batch:
    """One transaction in the making."""

    inserts: list[_Insert] = field(default_factory=list)
    updates: dict[str, TaskRecord] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    notices: list[NewDelivery] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    cursor: int | None = None
    """The timetoken that it stores: the events up to it are in its changes. None when it stores nothing."""

    def __bool__(self) -> bool:
        return bool(self.inserts or self.updates or self.outgoing or self.notices or self.delivered or self.waiters)

    def before(self, later: _Batch) -> None:
        """Puts this one's into a later one, ahead of what that has. The older of two changes gives way."""
        later.inserts[:0] = self.inserts
        later.updates = {**self.updates, **later.updates}
        later.outgoing[:0] = self.outgoing
        later.notices[:0] = self.notices
        later.delivered[:0] = self.delivered
        later.waiters[:0] = self.waiters


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
        self._all_wanted = False
        """Not only the new tasks, but the changes that gather."""
        self._scheduled: asyncio.Handle | None = None
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
        self._want_all()
        self._wanted.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None

    def insert(
        self, record: TaskRecord, claim: KeyClaim | None, then: Outgoing | None, unwanted: Callable[[], None]
    ) -> asyncio.Future[Kept]:
        """A new task, unless another has its key; `then` leaves only if it was kept. Done after the commit.

        `unwanted` is called when it was not kept, before anything leaves that was decided since.
        """
        done: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._batch.inserts.append(_Insert(record.task_id, tasks.snapshot(record), claim, done, then, unwanted))
        self._want()
        self._asked.set()
        return done

    def update(self, record: TaskRecord, *, soon: bool = True) -> None:
        """The record has changed. `soon` False: nothing waits for it, it may gather for LAZY_S."""
        self._batch.updates[record.task_id] = record
        if soon:
            self._want_all()
        else:
            self._later()

    def send(self, outgoing: Outgoing) -> None:
        """A message that leaves after everything that was written until now is committed."""
        self._batch.outgoing.append(outgoing)
        self._want_all()

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
        self._want_all()
        self._asked.set()
        await done

    def _later(self) -> None:
        if self._lazy is None and not self._all_wanted:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._lazy_over)

    def _lazy_over(self) -> None:
        self._lazy = None
        self._want_all()

    def _want_all(self) -> None:
        self._all_wanted = True
        self._want()

    def _want(self) -> None:
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._commit_here)

    def _commit_here(self) -> None:
        """What this turn of the loop has gathered, if the loop may commit by itself; else the task does it."""
        self._scheduled = None
        if self._under_way or self._failures or self._ending or self._task is None or self._wanted.is_set():
            self._wanted.set()
            return
        batch = self._take()
        write = self._writing(batch)
        try:
            holders = self._database.write_now(write) if write is not None else {}
        except DatabaseBusy:
            batch.before(self._batch)
            self._all_wanted = True
            self._wanted.set()
        except FAULTS as fault:
            self._refused(batch, fault)
            self._wanted.set()
        else:
            self._tell(batch, holders)

    def _take(self) -> _Batch:
        """New tasks have somebody waiting for them, and rest on nothing that gathers: they may go alone."""
        if self._all_wanted:
            self._all_wanted = False
            batch, self._batch = self._batch, _Batch()
        else:
            batch, self._batch.inserts = _Batch(inserts=self._batch.inserts), []
        return batch

    async def _run(self) -> None:
        """Commits where the loop cannot, and again what the database has refused."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._asked.clear()
            failures = self._failures
            self._all_wanted = True
            batch = self._take()
            if batch and not await self._commit(batch):
                if self._ending:
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), RETRY.delay(self._failures))
                self._wanted.set()
                continue
            if failures and batch:
                log.warning("changes of tasks are written again")
                self._failures = 0
            if self._ending and not self._batch:
                return

    async def _commit(self, batch: _Batch) -> bool:
        """False when the database refused: new tasks and waiters hear of it, what was decided is tried again."""
        write = self._writing(batch)
        self._under_way = True
        try:
            holders = await self._database.write(write) if write is not None else {}
        except FAULTS as fault:
            self._refused(batch, fault)
            return False
        finally:
            self._under_way = False
        self._tell(batch, holders)
        return True

    def _writing(self, batch: _Batch) -> Callable[[Connection], dict[UserKey, str]] | None:
        """The transaction of a batch, as its tasks are now; None when there is nothing to store."""
        updates = [tasks.changing(record) for record in batch.updates.values()]
        messages = [item for item in batch.outgoing if isinstance(item, OutboxMessage)]
        moves_on = bool(updates or messages or batch.notices or batch.delivered)
        if not moves_on and not batch.inserts:
            return None
        batch.cursor = self._cursor() if moves_on else self._saved_cursor  # new tasks rest on no event

        def write(connection: Connection) -> dict[UserKey, str]:
            holders = tasks.claim_keys(connection, [new.claim for new in batch.inserts if new.claim is not None])
            kept = [new.row for new in batch.inserts if new.holder(holders) == new.task_id]
            tasks.insert_all(connection, kept)
            tasks.update_all(connection, updates)
            outbox.put_messages(connection, messages)
            outbox.remove_messages(connection, batch.delivered)
            webhooks.put_deliveries(connection, batch.notices)
            if batch.cursor not in (None, self._saved_cursor):
                tasks.write_cursor(connection, CURSOR, batch.cursor)
            return holders

        return write

    def _tell(self, batch: _Batch, holders: Mapping[UserKey, str]) -> None:
        """After the commit: who waited hears of it, and what follows from it leaves."""
        if batch.cursor is not None:
            self._saved_cursor = batch.cursor
        before = self._now()
        outgoing: list[Outgoing] = []
        for new in batch.inserts:
            holder = new.holder(holders)
            if holder != new.task_id:
                new.unwanted()
            elif new.then is not None:
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

    def _refused(self, batch: _Batch, fault: Exception) -> None:
        """Who waits hears of it; what was decided stays, to be tried again."""
        cause = getattr(fault, "orig", None) or fault
        level = logging.DEBUG if self._failures else logging.ERROR  # once, not with each attempt
        log.log(level, "%d changes of tasks were not written: %s", len(batch.inserts) + len(batch.updates), cause)
        self._failures += 1
        inserts, batch.inserts = batch.inserts, []
        for new in inserts:
            new.unwanted()
            if not new.done.done():
                new.done.set_exception(fault)
        waiters, batch.waiters = batch.waiters, []
        if self._ending:
            waiters, self._batch.waiters = waiters + self._batch.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(fault)
        batch.before(self._batch)
        self._all_wanted = True
