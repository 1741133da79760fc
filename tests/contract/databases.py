"""The databases that a network may live in, each as its tests see it: a URL under which to open it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from postgres_server import PostgresServer

from blocks_network.server.store.database import IN_MEMORY, Database

T = TypeVar("T")
KINDS = ("memory", "disk", "fsync", "postgres")


@dataclass(frozen=True)
class Place:
    """One database, empty at first. `fsync` is SQLite's."""

    kind: str
    url: str
    fsync: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Database]:
        database = Database(self.url, fsync=self.fsync)
        await database.start()
        try:
            yield database
        finally:
            await database.stop()

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Opens it for `work` in a loop of its own."""

        async def opened() -> T:
            async with self.open() as database:
                return await work(database)

        return asyncio.run(opened())


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if kind == "memory":
        return Place(kind, IN_MEMORY)
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return Place(kind, server.new_database())
    return Place(kind, f"sqlite:///{tmp_path / 'network.db'}", fsync=kind == "fsync")


class Store:
    """Calls the store's functions, each in a transaction of its own."""

    def __init__(self, place: Place) -> None:
        self._loop = asyncio.new_event_loop()
        self._database = Database(place.url, fsync=place.fsync)
        self._loop.run_until_complete(self._database.start())

    def close(self) -> None:
        self._loop.run_until_complete(self._database.stop())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def write(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async def run() -> T:
            return await self._database.write(lambda connection: work(connection, *arguments, **named))

        return self._loop.run_until_complete(run())

    def read(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async def run() -> T:
            return await self._database.read(lambda connection: work(connection, *arguments, **named))

        return self._loop.run_until_complete(run())
