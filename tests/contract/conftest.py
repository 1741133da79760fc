from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import KINDS, Place, Store, place_of
from postgres_server import PostgresServer, find_programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL. `.ci/run` installs one: there the tests fail without it, elsewhere they are skipped."""
    programs = find_programs()
    if programs is None:
        why = "there is no PostgreSQL here (Debian and Ubuntu: apt-get install postgresql)"
        if os.environ.get("BLOCKS_CI") == "1":
            pytest.fail(why)
        pytest.skip(why)
    server = PostgresServer(programs)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of each kind."""
    return place_of(request.param, request, tmp_path)


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The same, of those that outlive the process."""
    return place_of(request.param, request, tmp_path)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    store = Store(place)
    try:
        yield store
    finally:
        store.close()
