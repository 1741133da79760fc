"""What every database promises to those who write and read through `Database`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from databases import Place
from postgres_server import PostgresServer
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from test_store_tasks import task

from blocks_network.server.store import tasks
from blocks_network.server.store.database import Database, StoreFault
from blocks_network.server.store.orgs import ensure_org, org_name
from blocks_network.server.store.schema import LIVING, metadata, orgs
from blocks_network.server.store.schema import tasks as tables

GATHERED = 700
"""More closures than go into one transaction."""


def add(org_id: str) -> Callable[[Connection], str]:
    def write(connection: Connection) -> str:
        connection.execute(insert(orgs).values(org_id=org_id, name=org_id, created_at_ms=1))
        return org_id

    return write


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(orgs)).scalar_one()


def test_a_write_is_read_by_everybody_after_it(place: Place) -> None:
    async def work(database: Database) -> None:
        for number in range(20):
            assert await database.write(add(f"org{number}")) == f"org{number}"
            assert await database.read(count) == number + 1

    place.run(work)


def test_writes_that_come_together_are_told_in_their_order_and_all_are_kept(place: Place) -> None:
    async def work(database: Database) -> None:
        told: list[str] = []

        async def one(number: int) -> None:
            told.append(await database.write(add(f"org{number}")))

        await asyncio.gather(*(one(number) for number in range(GATHERED)))
        assert told == [f"org{number}" for number in range(GATHERED)]
        assert await database.read(count) == GATHERED

    place.run(work)


def test_a_closure_that_fails_is_undone_alone_and_told_what_it_raised(place: Place) -> None:
    def half_done(connection: Connection) -> None:
        ensure_org(connection, "half", 1)
        raise LookupError("and then not")

    async def work(database: Database) -> None:
        await database.write(add("first"))
        faulty = [half_done, add("first"), half_done, lambda connection: connection.execute(text("SELECT nothing"))]
        mixed = [database.write(each) for fault in faulty for each in (fault, add(f"good{faulty.index(fault)}"))]
        told = await asyncio.gather(*mixed, return_exceptions=True)
        assert [type(fault) for fault in told[0:5:2]] == [LookupError, IntegrityError, LookupError]
        assert isinstance(told[6], StoreFault)
        assert told[1] == "good0"
        assert await database.read(lambda connection: org_name(connection, "half")) is None
        assert await database.read(lambda connection: org_name(connection, "good1")) == "good1"

    place.run(work)


@pytest.mark.parametrize("fault", [LookupError("no"), KeyError("x")], ids=["lookup", "key"])
def test_a_single_closure_that_fails_leaves_nothing(place: Place, fault: Exception) -> None:
    def half_done(connection: Connection) -> None:
        ensure_org(connection, "half", 1)
        raise fault

    async def work(database: Database) -> None:
        with pytest.raises(type(fault)):
            await database.write(half_done)
        assert await database.read(count) == 0
        await database.write(add("half"))
        assert await database.read(count) == 1

    place.run(work)


def test_a_closure_reads_what_the_ones_before_it_wrote(place: Place) -> None:
    async def work(database: Database) -> None:
        answers = await asyncio.gather(
            *(each for number in range(5) for each in (database.write(add(f"org{number}")), database.write(count)))
        )
        assert answers[1::2] == [1, 2, 3, 4, 5]

    place.run(work)


def test_a_caller_that_has_gone_does_not_hurt_the_others(place: Place) -> None:
    async def work(database: Database) -> None:
        gone, stays = asyncio.ensure_future(database.write(add("gone"))), database.write(add("stays"))
        gone.cancel()
        assert await stays == "stays"

    place.run(work)


def test_reads_that_fail_tell_their_caller_and_the_next_ones_work(place: Place) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(StoreFault):
            await database.read(lambda connection: connection.execute(text("SELECT nothing")))
        with pytest.raises(LookupError):
            await database.read(lambda connection: {}["x"])
        assert await database.read(count) == 0

    place.run(work)


def test_what_was_accepted_is_committed_at_the_end_and_there_at_the_next_start(lasting: Place) -> None:
    async def accept(database: Database) -> list[object]:
        return [database.write(add(f"org{number}")) for number in range(50)]

    lasting.run(accept)
    assert lasting.run(lambda database: database.read(count)) == 50


def test_it_is_opened_once_and_closed_wholly(place: Place) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("blocks-store")}

    async def work() -> None:
        others = threads()  # another test's node may run beside this
        database = Database(place.url)
        with pytest.raises(RuntimeError):
            await database.read(count)
        await database.start()
        await database.start()
        assert await database.read(count) == 0
        await database.stop()
        await database.stop()
        with pytest.raises(RuntimeError):
            await database.write(count)
        assert threads() <= others

    asyncio.run(work())


def test_two_write_to_one_database_at_once(lasting: Place) -> None:
    async def work(first: Database) -> None:
        async with lasting.open() as second:
            writes = [(first, second)[number % 2].write(add(f"org{number}")) for number in range(100)]
            await asyncio.gather(*writes)
            assert await first.read(count) == await second.read(count) == 100

    lasting.run(work)


def test_the_migrations_build_the_tables_of_the_schema(lasting: Place) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert lasting.run(lambda database: database.read(differences)) == []


def test_a_database_of_the_first_step_keeps_its_tasks_on_the_way_to_this_one(lasting: Place) -> None:
    def of_step_one(connection: Connection) -> None:
        rows = [task(1), task(2, state="completed", ended_at_ms=7), task(3, state="running")]
        tasks.insert_all(connection, [tasks.snapshot(row) for row in rows])
        tasks.update_all(connection, [tasks.changing(row) for row in rows])
        connection.execute(text("DROP INDEX ix_tasks_living"))
        connection.execute(text("CREATE INDEX ix_tasks_state ON tasks (state)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))

    async def look(database: Database) -> list[str]:
        assert await database.read(lambda one: list(compare_metadata(MigrationContext.configure(one), metadata))) == []
        return [record.task_id for record in await database.read(tasks.living)]

    lasting.run(lambda database: database.write(of_step_one))
    assert lasting.run(look) == ["task-0001", "task-0003"]


def test_who_looks_for_living_tasks_reads_no_others(tmp_path: Path) -> None:
    def plan(connection: Connection) -> str:
        asked = select(tables.c.task_id).where(LIVING).order_by(tables.c.task_id)
        return str(connection.execute(text(f"EXPLAIN QUERY PLAN {asked}")).fetchall())

    place = Place("disk", f"sqlite:///{tmp_path / 'network.db'}")
    assert "ix_tasks_living" in place.run(lambda database: database.read(plan))


def test_a_database_of_a_later_version_is_not_touched(lasting: Place) -> None:
    async def make_later(database: Database) -> None:
        await database.write(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = 'x'"))
        )

    lasting.run(make_later)
    with pytest.raises(RuntimeError, match="does not know"):
        lasting.run(lambda database: database.read(count))


# --- PostgreSQL alone ---


def test_a_server_that_comes_back_is_used_again(postgres: PostgresServer) -> None:
    place = Place("postgres", postgres.new_database())

    async def work(database: Database) -> None:
        await database.write(add("before"))
        await database.read(count)
        await asyncio.get_running_loop().run_in_executor(None, postgres.restart)
        await database.write(add("after"))
        assert await database.read(count) == 2

    place.run(work)


def test_a_connection_that_is_cut_within_a_group_fails_the_whole_group(postgres: PostgresServer) -> None:
    place = Place("postgres", postgres.new_database())

    def cut(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def work(database: Database) -> None:
        await database.write(add("zero"))
        group = [database.write(each) for each in (add("one"), add("two"), cut, add("three"))]
        told = await asyncio.gather(*group, return_exceptions=True)
        kept = await database.read(count)
        assert kept - 1 == sum(isinstance(each, str) for each in told), told
        assert isinstance(told[2], StoreFault)
        await database.write(add("four"))
        assert await database.read(count) == kept + 1

    for _ in range(5):  # where the group's border falls is up to the threads
        place = Place("postgres", postgres.new_database())
        place.run(work)


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "hunter2", "", "postgresql://u:hunter2@h:port/d", "postgresql+psycopg2://hunter2@h"],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://HOST/NAME") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
