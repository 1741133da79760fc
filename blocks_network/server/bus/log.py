"""The log behind the bus: stored messages in SQLite, appended by group commit on one writer thread.

What is handed in while a commit runs goes into the next one, so that durability costs one disk flush for many messages.
It also keeps the reserve: timetokens are given only up to a persisted bound, so that none is given twice after a crash
and a backward step of the clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from blocks_network.server.bus import BusFull, Draft, Kind, Message
from blocks_network.server.limits import Limits
from blocks_network.wire.timetokens import TICKS_PER_S

__all__ = ["Append", "AppendLog"]

log = logging.getLogger(__name__)
T = TypeVar("T")

RESERVE = 5 * TICKS_PER_S
"""How far the persisted bound runs ahead: one more write in half that time, and the most that a crash can skip."""
ROWS_PER_INSERT = 100
"""One statement for so many rows: each step of SQLite costs a handover of the interpreter lock."""
BATCH_ROWS = 1_000
CHECKPOINT_ROWS = 1_000
"""Rows stored without the writer between two checkpoints."""
SWEEP_S = 30.0
SWEEP_ROWS = 500
"""Rows removed between two commits, so that retention never holds up a publish."""
NEVER = 2**62
HOUR = 3600 * TICKS_PER_S

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    timetoken INTEGER PRIMARY KEY, place INTEGER NOT NULL, keyset TEXT NOT NULL, channel TEXT NOT NULL,
    payload BLOB NOT NULL, publisher TEXT NOT NULL, meta BLOB, kind INTEGER NOT NULL, custom_type TEXT,
    ttl_hours INTEGER, expires INTEGER);
CREATE INDEX IF NOT EXISTS message_place ON message (place);
CREATE INDEX IF NOT EXISTS message_expires ON message (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS action (
    timetoken INTEGER PRIMARY KEY, message INTEGER NOT NULL, place INTEGER NOT NULL, keyset TEXT NOT NULL,
    channel TEXT NOT NULL, uuid TEXT NOT NULL, type TEXT NOT NULL, value TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS action_once ON action (message, type, value, uuid);
CREATE INDEX IF NOT EXISTS action_place ON action (place);
CREATE TRIGGER IF NOT EXISTS message_gone AFTER DELETE ON message
    BEGIN DELETE FROM action WHERE message = old.timetoken; END;
CREATE TABLE IF NOT EXISTS reserve (one INTEGER PRIMARY KEY CHECK (one = 1), upto INTEGER NOT NULL);
INSERT OR IGNORE INTO reserve VALUES (1, 0);
"""
COLUMNS = "timetoken, keyset, channel, payload, publisher, meta, kind, custom_type, ttl_hours"
INSERT = f"INSERT INTO message ({COLUMNS}, place, expires) VALUES "  # noqa: S608 - made of constants
ROW, PLAIN_ROW = "(?,?,?,?,?,?,?,?,?,?,?)", "(?,?,?,?,?,?,?,NULL,NULL,?,NULL)"
"""Of any message, and of one with neither a type nor a time to live of its own."""
ALIVE = "(expires IS NULL AND timetoken > :cutoff OR expires > :now)"


@dataclass(slots=True, eq=False)
class Append:
    """A share of a commit: `messages` to store, and the reserve to hold at least `upto`. Settled once, in the loop."""

    messages: Sequence[Message]
    upto: int


@dataclass(slots=True, eq=False)
class _Call:
    """Something to run on the writer thread, after the appends before it."""

    run: Callable[[sqlite3.Connection], None]


class AppendLog:
    """`settled(appends, reserved, fault)` is called on the writer thread after each commit, or failure of one.

    `path` None keeps the log in memory, bounded by `limits.memory_log_bytes`.
    """

    def __init__(
        self,
        path: Path | None,
        limits: Limits,
        *,
        clock: Callable[[], int],
        settled: Callable[[list[Append], int, BusFull | None], None],
        fsync: bool = False,
    ) -> None:
        self._path, self._limits, self._clock, self._settled = path, limits, clock, settled
        self._fsync = fsync
        self._queue: SimpleQueue[Append | _Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="blocks-bus-log", daemon=True)
        self._reserved = 0
        self._failing = False
        self._next_sweep = 0.0
        self._write: sqlite3.Connection | None = None
        self._reader: _Reader | None = None
        self._quick: sqlite3.Connection | None = None
        self._quick_stores = 0

    @property
    def durable(self) -> bool:
        return self._path is not None

    @property
    def backlog(self) -> int:
        """Appends that wait for the writer."""
        return self._queue.qsize()

    def open(self) -> int:
        """The lowest timetoken that nothing ever given exceeds. Blocks; sqlite3.Error when the file cannot be used."""
        self._write = _connect(self._path, fsync=self._fsync)
        version = self._write.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"{self._path} has format {version}, this version reads {SCHEMA_VERSION}")
        self._write.executescript(SCHEMA)
        self._write.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        (self._reserved,) = self._write.execute("SELECT upto FROM reserve").fetchone()
        (highest,) = self._write.execute("SELECT max(timetoken) FROM message").fetchone()
        if self._path is not None:
            self._reader = _Reader(self._path)
            if not self._fsync:
                self._quick = _connect(self._path, quick=True)
        self._thread.start()
        return max(self._reserved, highest or 0)

    def append(self, append: Append) -> None:
        """Any thread. Order of calls is the order of commits."""
        self._queue.put(append)

    def store_now(self, messages: Sequence[Message]) -> bool:
        """Stores a few messages on the calling thread, which is the loop's, when nobody is in line before them.

        Without fsync a commit is a write into the page cache: it costs less than a handover to the writer and back.
        False when it cannot be done here (the writer is at work, the reserve is short, the disk is full): hand them in.
        """
        quick = self._quick
        if quick is None or len(messages) > ROWS_PER_INSERT or self._queue.qsize():
            return False
        if messages[-1].timetoken > self._reserved - RESERVE // 2:
            return False
        try:
            quick.execute(*_insert([self._row(message) for message in messages]))
        except sqlite3.OperationalError as fault:
            log.debug("left to the writer: %s", fault)
            return False
        self._quick_stores += len(messages)
        if self._quick_stores >= CHECKPOINT_ROWS:
            self._quick_stores = 0
            self._queue.put(_Call(_checkpoint))
        return True

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a query that sees every append handed in before it (in memory), or settled before it (on disk)."""
        done: Future[T] = Future()

        def run(connection: sqlite3.Connection) -> None:
            _into(done, query, connection)

        if self._reader is not None:
            self._reader.put(run)
        else:
            self._queue.put(_Call(run))
        return await asyncio.wrap_future(done)

    async def change(self, statement: Callable[[sqlite3.Connection], T]) -> T:
        """Runs one writing statement on the writer thread, between commits."""
        done: Future[T] = Future()
        self._queue.put(_Call(lambda connection: _into(done, statement, connection)))
        return await asyncio.wrap_future(done)

    def close(self, given: int) -> None:
        """Commits what was handed in, sets the reserve to the highest timetoken given, and ends the thread. Blocks."""

        def settle_reserve(connection: sqlite3.Connection) -> None:
            try:
                connection.execute("UPDATE reserve SET upto = ?", (given,))
            except sqlite3.OperationalError as fault:  # the higher bound of before holds; that is safe
                log.warning("the reserve of %s was not lowered: %s", self._path, fault)

        self._queue.put(_Call(settle_reserve))
        self._queue.put(None)
        self._thread.join()
        if self._reader is not None:
            self._reader.close()
        if self._quick is not None:
            self._quick.close()
        if self._write is not None:
            self._write.close()

    # -- the writer thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._write is not None
        self._next_sweep = time.monotonic()
        more_to_sweep = False
        while True:
            items = self._take(0 if more_to_sweep else max(0.0, self._next_sweep - time.monotonic()))
            appends: list[Append] = []
            rows = 0
            for item in items:
                if isinstance(item, Append) and rows < BATCH_ROWS:
                    appends.append(item)
                    rows += len(item.messages)
                    continue
                self._commit(appends)
                appends, rows = [], 0
                if item is None:
                    return
                if isinstance(item, Append):
                    appends, rows = [item], len(item.messages)
                else:
                    item.run(self._write)
            self._commit(appends)
            if more_to_sweep or time.monotonic() >= self._next_sweep:
                more_to_sweep = self._sweep(self._write)
                self._next_sweep = time.monotonic() + SWEEP_S

    def _take(self, timeout_s: float) -> list[Append | _Call | None]:
        """All that waits; blocks for the first at most `timeout_s`."""
        try:
            items = [self._queue.get(timeout_s > 0, timeout_s or None)]
        except Empty:
            return []
        for _ in range(self._queue.qsize()):  # the only taker: what is counted is there
            items.append(self._queue.get_nowait())  # noqa: PERF401 - a comprehension would hide what each step takes
        return items

    def _commit(self, appends: list[Append]) -> None:
        if not appends:
            return
        assert self._write is not None
        rows = [self._row(message) for append in appends for message in append.messages]
        upto = max(append.upto for append in appends)
        reserve = max(upto, self._clock()) + RESERVE if upto > self._reserved - RESERVE // 2 else 0
        fault: BusFull | None = None
        try:
            self._write_rows(self._write, rows, reserve)
            self._reserved = reserve or self._reserved
            if self._failing:
                self._failing = False
                log.warning("the log %s takes messages again", self._path)
        except sqlite3.Error as cause:
            if self._write.in_transaction:
                self._write.rollback()
            fault = BusFull(f"the log does not take messages: {cause}")
            if not self._failing:
                self._failing = True
                log.error("the log %s does not take messages: %s", self._path, cause)
        self._settled(appends, self._reserved, fault)

    def _write_rows(self, connection: sqlite3.Connection, rows: list[tuple[object, ...]], reserve: int) -> None:
        """One statement is a transaction of its own; more are bracketed."""
        statements = -(-len(rows) // ROWS_PER_INSERT) + (1 if reserve else 0)
        if statements > 1:
            connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), ROWS_PER_INSERT):
            connection.execute(*_insert(rows[start : start + ROWS_PER_INSERT]))
        if reserve:
            connection.execute("UPDATE reserve SET upto = ?", (reserve,))
        if statements > 1:
            connection.execute("COMMIT")

    def _row(self, message: Message) -> tuple[object, ...]:
        """As ROW has it, or PLAIN_ROW. The driver looks for an adapter of each None and bytes, and for none of a
        bytearray."""
        draft = message.draft
        meta = None if draft.meta is None else bytearray(draft.meta)
        begin = (
            message.timetoken,
            draft.keyset,
            draft.channel,
            bytearray(draft.payload),
            draft.publisher,
            meta,
            int(draft.kind),
        )
        place = place_of(draft.keyset, draft.channel)
        if draft.custom_type is None and draft.ttl_hours is None:
            return (*begin, place)
        expires: int | None = None
        if draft.ttl_hours is not None:
            expires = message.timetoken + draft.ttl_hours * HOUR if draft.ttl_hours else NEVER
        return (*begin, draft.custom_type, draft.ttl_hours, place, expires)

    def _sweep(self, connection: sqlite3.Connection) -> bool:
        """Removes some of what is too old, and gives its pages back. True when there is more."""
        try:
            gone = 0
            for which, bound in (("expires IS NULL AND timetoken < ?", self.cutoff()), ("expires < ?", self._now())):
                gone = max(gone, connection.execute(_DELETE_SOME.format(which), (bound, SWEEP_ROWS)).rowcount)
            most = self._limits.memory_log_bytes if self._path is None else self._limits.log_bytes
            if self._size_bytes(connection) > most:
                gone = max(gone, connection.execute(_DELETE_SOME.format("timetoken > ?"), (0, SWEEP_ROWS)).rowcount)
            if gone:
                connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        except sqlite3.OperationalError as fault:
            log.warning("old messages of %s were not removed: %s", self._path, fault)
            return False
        return gone >= SWEEP_ROWS

    def _size_bytes(self, connection: sqlite3.Connection) -> int:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _now(self) -> int:
        return self._clock()

    def cutoff(self) -> int:
        """Messages without a ttl of their own are kept above this timetoken."""
        hours = self._limits.history_ttl_hours
        return self._clock() - hours * HOUR if hours else 0

    def alive(self) -> dict[str, int]:
        """The parameters of ALIVE."""
        return {"cutoff": self.cutoff(), "now": self._now()}


_PLAIN_VALUES = PLAIN_ROW.count("?")


def _insert(rows: Sequence[tuple[object, ...]]) -> tuple[str, list[object]]:
    """A statement for all of them, and its values."""
    shapes = [PLAIN_ROW if len(row) == _PLAIN_VALUES else ROW for row in rows]
    return INSERT + ",".join(shapes), [value for row in rows for value in row]


_DELETE_SOME = (
    "DELETE FROM message WHERE timetoken IN (SELECT timetoken FROM message WHERE {} ORDER BY timetoken LIMIT ?)"
)


class _Reader:
    """Queries on a connection and thread of their own, so that a long one holds up no commit."""

    def __init__(self, path: Path) -> None:
        self._connection = _connect(path)
        self._queue: SimpleQueue[Callable[[sqlite3.Connection], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="blocks-bus-reader", daemon=True)
        self._thread.start()

    def put(self, run: Callable[[sqlite3.Connection], None]) -> None:
        self._queue.put(run)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while (run := self._queue.get()) is not None:
            run(self._connection)


def _checkpoint(connection: sqlite3.Connection) -> None:
    """On the writer thread: what it waits for the disk, nobody else does."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError as fault:
        log.warning("the log was not checkpointed: %s", fault)


def _connect(path: Path | None, *, fsync: bool = False, quick: bool = False) -> sqlite3.Connection:
    """A commit survives the process; with `fsync` the machine's power too. Pages are given back by the sweep.

    `quick` never waits: not for another writer, and not for a checkpoint.
    """
    connection = sqlite3.connect(
        path if path is not None else ":memory:",
        isolation_level=None,
        check_same_thread=False,
        cached_statements=2 * ROWS_PER_INSERT,
        timeout=0 if quick else 10,
    )
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if path is not None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        if quick:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def _into(done: Future[T], run: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(run(connection))
    except sqlite3.OperationalError as fault:
        refused = BusFull(f"the log does not answer: {fault}")
        refused.__cause__ = fault
        done.set_exception(refused)
    except Exception as fault:  # noqa: BLE001 - the thread's edge: whoever asked gets it
        done.set_exception(fault)


@lru_cache(maxsize=4_096)
def place_of(keyset: str, channel: str) -> int:
    """Where a channel's messages are found: a 64-bit hash; queries compare the names as well."""
    digest = hashlib.blake2b(f"{keyset}\0{channel}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def message_of(row: Sequence[object]) -> Message:
    """A message from a row of COLUMNS."""
    timetoken, keyset, channel, payload, publisher, meta, kind, custom_type, ttl_hours = row
    draft = Draft(keyset, channel, payload, publisher, meta, Kind(kind), custom_type, True, ttl_hours)  # type: ignore[arg-type]
    return Message(timetoken, draft)  # type: ignore[arg-type]
