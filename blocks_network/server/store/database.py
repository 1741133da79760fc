"""The database: writes in groups, on the loop itself where a commit costs no wait for the disk, and readers beside it.

A handover to a thread and back costs more than a small transaction in the page cache, and, worse, the interpreter
lock changes hands at each step of SQLite. So the loop commits by itself, unless somebody else holds the database (a
backup) or each commit has to wait for the disk: then the writer thread does.

What closures may do: use the connection, and return. They run on a thread of the database, may run while others wait,
and must not touch the event loop's state.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from blocks_network.server.store.engines import (
    READERS,
    DatabaseInUse,
    at_once,
    hold_alone,
    is_sqlite,
    memory_engine,
    open_engine,
    quick_engine,
    read_url,
)
from blocks_network.server.store.schema import metadata

__all__ = ["IN_MEMORY", "Connection", "Database", "DatabaseBusy", "DatabaseInUse", "StoreFault"]

log = logging.getLogger(__name__)
T = TypeVar("T")

StoreFault = SQLAlchemyError
"""What the database itself refuses, as against a fault of a closure."""

IN_MEMORY = "sqlite://"

GROUP_MAX = 512
"""Closures in one transaction: enough to make a commit nearly free, few enough that nobody waits long for it."""
CHECKPOINT_GROUPS = 200
"""Groups committed on the loop between two checkpoints, which the writer thread makes."""


class DatabaseBusy(RuntimeError):
    """The loop cannot commit by itself now: the database is held by somebody else, or its commits wait for a disk."""


@dataclass(slots=True)
class _Job:
    fn: Callable[[Connection], Any]
    future: asyncio.Future[Any] | None
    """None: nobody waits for it."""
    value: Any = None
    fault: BaseException | None = None


_CHECKPOINT = _Job(lambda connection: None, None)


class Database:
    """`url`: `sqlite://` (in memory), `sqlite:////data/network.db`, `postgresql://...`; ValueError for any other.
    `fsync` is SQLite's: whether a commit waits for the disk.

    Belongs to the loop that `start` ran on. `write` and `read` raise what the closure raised, and RuntimeError
    before `start` and after `stop`.
    """

    def __init__(self, url: str = IN_MEMORY, *, fsync: bool = False) -> None:
        self._url = read_url(url)
        self._fsync = fsync
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._quick_engine: Engine | None = None
        self._quick: Connection | None = None
        """The loop's own, kept open."""
        self._hold: Connection | None = None
        self._gathered: list[_Job] = []
        self._handed_over = 0
        self._quick_groups = 0
        self._failing = False
        self._readers: ThreadPoolExecutor | None = None

    @property
    def in_memory(self) -> bool:
        return is_sqlite(self._url) and self._url.database in (None, "", ":memory:")

    async def start(self, *, alone: bool = False) -> None:
        """Opens the database, brings its tables up to date and starts the writer. Nothing when it runs already.

        `alone`: as the one node of a PostgreSQL; DatabaseInUse when there is another. (A data directory has a lock.)
        """
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        if self.in_memory:
            self._engine = self._quick_engine = memory_engine()
            metadata.create_all(self._engine)
        else:
            engine = open_engine(self._url, fsync=self._fsync)
            try:
                if alone and not is_sqlite(self._url):
                    self._hold = await self._loop.run_in_executor(None, hold_alone, engine)
                await self._loop.run_in_executor(None, _migrate, engine)
            except BaseException:
                self._let_go()
                engine.dispose()
                raise
            self._engine = engine
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="blocks-store-reader")
            if is_sqlite(self._url) and not self._fsync:
                self._quick_engine = quick_engine(self._url)
        if self._quick_engine is not None:
            self._quick = self._quick_engine.connect()
        self._thread = threading.Thread(target=self._run, name="blocks-store-writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Runs what was accepted, commits and closes."""
        thread, engine, loop = self._thread, self._engine, self._loop
        if thread is None or engine is None or loop is None:
            return
        self._commit_gathered()
        self._thread = None
        self._jobs.put(None)
        await loop.run_in_executor(None, thread.join)
        if self._readers is not None:
            await loop.run_in_executor(None, self._readers.shutdown)
            self._readers = None
        if self._quick is not None and self._quick_engine is not None:
            self._quick.close()
            self._quick_engine.dispose()
            self._quick = self._quick_engine = None
        self._let_go()
        engine.dispose()
        self._engine = None

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.invalidate()  # back in the pool it would hold on
            self._hold.close()
            self._hold = None

    def write(self, fn: Callable[[Connection], T]) -> Awaitable[T]:
        """Runs `fn` in the writer's next transaction, in a savepoint of its own; done after the commit."""
        if self._thread is None or self._loop is None:
            raise RuntimeError("the database is not open")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(fn, future)
        if self._quick is None or self._handed_over:  # behind what the thread has, never past it
            self._hand_over([job])
        else:
            self._gathered.append(job)
            if len(self._gathered) == 1:
                self._loop.call_soon(self._commit_gathered)
        return future

    def write_now(self, fn: Callable[[Connection], T]) -> T:
        """The same here and now, in a transaction of its own. DatabaseBusy when that is not to be had."""
        self._commit_gathered()
        job: _Job = _Job(fn, None)
        if self._quick is None or self._handed_over or not self._transact([job], patient=False):
            raise DatabaseBusy
        self._count_group()
        if job.fault is not None:
            raise job.fault
        return job.value  # type: ignore[no-any-return]

    def _hand_over(self, group: list[_Job]) -> None:
        self._handed_over += len(group)
        for job in group:
            self._jobs.put(job)

    def _commit_gathered(self) -> None:
        """On the loop: what this turn of it has gathered, in one transaction."""
        group, self._gathered = self._gathered, []
        if not group:
            return
        if self._quick is None or self._handed_over or not self._transact(group, patient=False):
            self._hand_over(group)
            return
        _tell(group)
        self._count_group()

    def _count_group(self) -> None:
        self._quick_groups += 1
        if self._quick_groups >= CHECKPOINT_GROUPS:
            self._quick_groups = 0
            if not self.in_memory:
                self._jobs.put(_CHECKPOINT)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Runs `fn` on what was committed so far; it must not write."""
        if self._readers is None:  # one connection in memory: it serves reads in their turn
            return await self.write(fn)
        engine, loop = self._engine, self._loop
        if engine is None or loop is None:
            raise RuntimeError("the database is not open")

        def look() -> T:
            with engine.connect() as connection:
                return fn(connection)

        return await loop.run_in_executor(self._readers, look)

    def _run(self) -> None:
        """The writer thread: takes what has gathered, one transaction a group."""
        ending = False
        while not ending:
            first = self._jobs.get()
            group: list[_Job] = []
            ending = first is None
            if first is not None:
                group.append(first)
            while not ending and len(group) < GROUP_MAX:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    ending = True
                else:
                    group.append(job)
            if _CHECKPOINT in group:
                group = [job for job in group if job is not _CHECKPOINT]
                self._checkpoint()
            if group:
                self._commit(group)

    def _checkpoint(self) -> None:
        """What it waits for the disk, nobody else does."""
        assert self._engine is not None
        try:
            with self._engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (SQLAlchemyError, sqlite3.Error) as fault:
            log.warning("the database was not checkpointed: %s", fault)

    def _commit(self, group: list[_Job]) -> None:
        """On the writer thread."""
        assert self._loop is not None
        self._transact(group, patient=True)
        try:
            self._loop.call_soon_threadsafe(self._told, group)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.warning("%d writes ended after their event loop", len(group))

    def _told(self, group: list[_Job]) -> None:
        self._handed_over -= len(group)
        _tell(group)

    def _transact(self, group: list[_Job], *, patient: bool) -> bool:
        """False when the database is held by somebody else and nobody was to wait; nothing has happened then."""
        try:
            with self._transaction(patient=patient) as connection:
                for job in group:
                    if len(group) == 1:
                        job.value = job.fn(connection)
                    else:
                        _run_in_savepoint(connection, job)
        except (SQLAlchemyError, sqlite3.Error, OSError) as fault:
            if not patient and _is_locked(fault):
                return False
            level = logging.DEBUG if self._failing else logging.ERROR  # once, not with each attempt
            log.log(level, "the database does not take writes: %s", getattr(fault, "orig", None) or fault)
            self._failing = True
            for job in group:
                job.fault = _of_one_kind(fault)
        except Exception as fault:  # noqa: BLE001 - the closure's author gets it through the future
            group[0].fault = fault
        else:
            if self._failing and not any(isinstance(job.fault, SQLAlchemyError) for job in group):
                log.warning("the database takes writes again")
                self._failing = False
        return True

    def _transaction(self, *, patient: bool) -> AbstractContextManager[Connection]:
        if patient:
            assert self._engine is not None
            return self._engine.begin()
        assert self._quick is not None
        return at_once(self._quick)


def _is_locked(fault: BaseException) -> bool:
    cause = getattr(fault, "orig", None) or fault
    return isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)


def _of_one_kind(fault: Exception) -> Exception:
    """The driver's own faults come from statements that it was given past SQLAlchemy."""
    return OperationalError(None, None, fault) if isinstance(fault, sqlite3.Error) else fault


def _run_in_savepoint(connection: Connection, job: _Job) -> None:
    point = connection.begin_nested()
    try:
        job.value = job.fn(connection)
    except Exception as fault:  # noqa: BLE001 - the closure's author gets it through the future
        job.fault = _of_one_kind(fault)
        point.rollback()
    else:
        point.commit()


def _tell(group: list[_Job]) -> None:
    """In the loop, after the commit: everybody in the order of their writes."""
    for job in group:
        if job.future is None or job.future.done():  # its caller was cancelled
            continue
        if job.fault is not None:
            job.future.set_exception(job.fault)
        else:
            job.future.set_result(job.value)


def _migrate(engine: Engine) -> None:
    from blocks_network.server.store.migrations import upgrade  # alembic costs start-up time that memory needs not pay

    upgrade(engine)
