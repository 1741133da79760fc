from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
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
