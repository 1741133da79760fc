"""How each database is opened: SQLite in memory or in a file, PostgreSQL by its URL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

__all__ = [
    "READERS",
    "DatabaseInUse",
    "at_once",
    "hold_alone",
    "is_sqlite",
    "memory_engine",
    "open_engine",
    "quick_engine",
    "read_url",
]

READERS = 2
"""Threads, and so connections, that read beside the writer."""
DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
HELD_BY_NODE = 0x626C6F636B73
"""The number of the lock ("blocks"): locks of this kind are a database's own."""
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds for a connection, and milliseconds for what was sent on it to be acknowledged, where the URL says nothing:
a database behind a network that is gone is a fault, not a wait for ever."""


def read_url(text: str) -> URL:
    """ValueError for what is no URL of a database that is supported; it does not repeat the URL, which has secrets."""
    try:
        url = make_url(text)
        return url.set(drivername=DRIVERS[url.drivername])
    except (ArgumentError, KeyError, ValueError):
        raise ValueError("the database's URL is none of sqlite:///FILE and postgresql://HOST/NAME") from None


class DatabaseInUse(RuntimeError):
    """Another node has this database."""


@contextmanager
def at_once(connection: Connection) -> Iterator[Connection]:
    """A transaction on a connection to SQLite that is kept open. SQLAlchemy's own way to begin and commit one takes as
    long as a small write; here it notices the transaction where something is executed through it."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        if connection.in_transaction():
            connection.rollback()
        raise
    if connection.in_transaction():
        connection.commit()


def hold_alone(engine: Engine) -> Connection:
    """PostgreSQL: the connection that holds the database for one node, until it is closed or cut. DatabaseInUse."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    if not connection.execute(text("SELECT pg_try_advisory_lock(:number)"), {"number": HELD_BY_NODE}).scalar_one():
        connection.close()
        raise DatabaseInUse("another node is running on this database")
    return connection


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def memory_engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    _listen(engine, durable=False)
    return engine


def open_engine(url: URL, *, fsync: bool = False) -> Engine:
    """A database that outlives the process."""
    if is_sqlite(url):
        engine = create_engine(url, pool_size=READERS + 1)
        _listen(engine, durable=True, fsync=fsync)
        return engine
    patience = {name: value for name, value in PATIENCE.items() if name not in url.query}
    # a connection that was cut while it rested is noticed, and replaced, before it is used
    return create_engine(url, pool_size=READERS + 2, pool_pre_ping=True, connect_args=patience)


def quick_engine(url: URL) -> Engine:
    """For `at_once`. Never waits: not for another writer, and not for a checkpoint."""
    engine = create_engine(url, poolclass=StaticPool, connect_args={"timeout": 0, "check_same_thread": False})
    _listen(engine, durable=True, quick=True)
    return engine


def _listen(engine: Engine, *, durable: bool, fsync: bool = False, quick: bool = False) -> None:
    """SQLite as we need it: transactions begun by us, foreign keys on. A commit survives the process, with `fsync` the
    machine's power too."""

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions at moments of its own
        connection.execute("PRAGMA foreign_keys = ON")
        if durable:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
            connection.execute(f"PRAGMA busy_timeout = {0 if quick else 10_000}")
        if quick:
            connection.execute("PRAGMA wal_autocheckpoint = 0")

    def begun(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        if not driver.in_transaction:  # else by `at_once`
            driver.execute("BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
