"""What every bus promises, whatever keeps its messages."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from blocks_network.server.bus import BusFull, Draft, Kind, Message
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.limits import Limits
from blocks_network.wire.timetokens import ALL_CACHED

KEY = "sub-c-1"
SECOND_NS = 1_000_000_000


class Clock:
    """The wall clock, as the test wants it: nanoseconds."""

    def __init__(self) -> None:
        self.ns = 1_750_000_000 * SECOND_NS

    def __call__(self) -> int:
        return self.ns


class Buses:
    """Makes buses of one kind over one place."""

    def __init__(self, path: Path | None, fsync: bool) -> None:
        self.path, self.fsync, self.clock = path, fsync, Clock()

    @asynccontextmanager
    async def open(self, **limits: int) -> AsyncIterator[EmbeddedBus]:
        bus = EmbeddedBus(self.path, Limits(**limits), fsync=self.fsync, clock_ns=self.clock)
        await bus.start()
        try:
            yield bus
        finally:
            await bus.stop()


@pytest.fixture(params=["memory", "disk", "disk-fsync"])
def buses(request: pytest.FixtureRequest, tmp_path: Path) -> Buses:
    return Buses(None if request.param == "memory" else tmp_path / "bus.db", request.param == "disk-fsync")


@pytest.fixture(params=["disk", "disk-fsync"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Buses:
    return Buses(tmp_path / "bus.db", request.param == "disk-fsync")


def draft(channel: str, text: str, **more: object) -> Draft:
    return Draft(KEY, channel, f'"{text}"'.encode(), **more)  # type: ignore[arg-type]


def texts(messages: list[Message] | None) -> list[str]:
    assert messages is not None
    return [message.draft.payload.decode().strip('"') for message in messages]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


def test_a_reader_sees_each_message_above_its_cursor_once_and_in_order(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            cursor, seen = bus.now(), []
            for number in range(250):
                await bus.publish(draft("a", str(number)))
                if number % 7 == 0:
                    found = bus.tail(KEY, ["a"], (), after=cursor, limit=100)
                    assert found
                    seen += texts(found)
                    cursor = found[-1].timetoken
            seen += texts(bus.tail(KEY, ["a"], (), after=cursor, limit=100))
            assert seen == [str(number) for number in range(250)]

    run(test)


def test_timetokens_rise_over_all_channels_also_when_the_clock_steps_back(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            given = [await bus.publish(draft("a", "1"))]
            buses.clock.ns -= 3_600 * SECOND_NS
            given += [await bus.publish(draft("b", "2")), *await bus.publish_all([draft("a", "3"), draft("b", "4")])]
            assert given == sorted(set(given))
            assert bus.now() >= given[-1]

    run(test)


def test_timetokens_rise_over_a_restart_with_a_clock_that_stepped_back(durable: Buses) -> None:
    async def test() -> None:
        async with durable.open() as bus:
            stored = await bus.publish(draft("a", "stored"))
            passing = await bus.publish(draft("a", "passing", stored=False))
            cursor = await bus.current()
        durable.clock.ns -= 24 * 3_600 * SECOND_NS
        async with durable.open() as bus:
            later = await bus.publish(draft("a", "later"))
            assert max(stored, passing, cursor) < later
            assert texts(await bus.catch_up(KEY, ["a"], (), after=cursor, limit=10)) == ["later"]

    run(test)


def test_what_was_stored_is_there_after_a_restart_and_what_was_not_is_gone(durable: Buses) -> None:
    async def test() -> None:
        async with durable.open() as bus:
            before = bus.now()
            for number in range(30):
                await bus.publish(draft("a", str(number), stored=number % 3 != 0))
            await bus.publish_all([draft("a", "30"), draft("a", "31", stored=False), draft("a", "32")])
        async with durable.open() as bus:
            kept = texts(await bus.catch_up(KEY, ["a"], (), after=before, limit=100))
            assert kept == [str(number) for number in range(30) if number % 3] + ["30", "32"]

    run(test)


def test_a_message_that_was_acknowledged_is_in_the_file_before_anything_else_happens(durable: Buses) -> None:
    """As after a kill: another process finds it, without an orderly end of this one."""

    async def test() -> None:
        async with durable.open() as bus:
            for number in range(20):
                timetoken = await bus.publish(draft("a", str(number)))
                with sqlite3.connect(f"file:{durable.path}?mode=ro", uri=True) as other:
                    (found,) = other.execute("SELECT payload FROM message WHERE timetoken = ?", (timetoken,)).fetchone()
                other.close()
                assert found == f'"{number}"'.encode()

    run(test)


def test_history_pages_both_ways(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            given = [await bus.publish(draft("a", str(number))) for number in range(10)]
            await bus.publish(draft("b", "other"))

            async def page(**bounds: int | bool) -> list[str]:
                return texts(await bus.history(KEY, "a", limit=3, **bounds))  # type: ignore[arg-type]

            assert await page(newest=True) == ["7", "8", "9"]
            assert await page(newest=True, before=given[7]) == ["4", "5", "6"]
            assert await page(newest=False) == ["0", "1", "2"]
            assert await page(newest=False, after=given[2]) == ["3", "4", "5"]
            assert await bus.count(KEY, "a", after=given[3], limit=100) == 6

    run(test)


def test_deleted_messages_are_gone_from_the_log_and_from_the_tail(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            before = bus.now()
            given = [await bus.publish(draft("a", str(number))) for number in range(6)]
            assert await bus.delete(KEY, "a", after=given[1], before=given[4]) == 2
            assert texts(await bus.history(KEY, "a", limit=10, newest=True)) == ["0", "1", "4", "5"]
            assert texts(bus.tail(KEY, ["a"], (), after=before, limit=10)) == ["0", "1", "4", "5"]

    run(test)


def test_a_late_reader_gets_from_the_log_what_memory_gave_up(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open(tail_messages=5, tail_s=60, tails_bytes=4_000) as bus:
            before = bus.now()
            for number in range(200):
                await bus.publish(draft("a", str(number)))
            assert bus.tail(KEY, ["a"], (), after=before, limit=100) is None
            first = await bus.catch_up(KEY, ["a"], (), after=before, limit=150)
            rest = await bus.catch_up(KEY, ["a"], (), after=first[-1].timetoken, limit=150)
            assert texts([*first, *rest]) == [str(number) for number in range(200)]

    run(test)


def test_a_cursor_that_is_no_time_means_what_a_tail_holds(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open(tail_messages=10, tail_s=60) as bus:
            for number in range(5):
                await bus.publish(draft("a", str(number)))
            found = bus.tail(KEY, ["a"], (), after=ALL_CACHED, limit=100)
            if found is None:
                found = await bus.catch_up(KEY, ["a"], (), after=ALL_CACHED, limit=100)
            assert texts(found) == ["0", "1", "2", "3", "4"]

    run(test)


def test_prefixes_are_heard_below_and_keysets_are_apart(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            before = bus.now()
            await bus.publish(draft("team.one", "1"))
            await bus.publish(draft("team.two", "2"))
            await bus.publish(draft("teams", "no"))
            await bus.publish(Draft("sub-c-2", "team.one", b'"foreign"'))
            assert texts(bus.tail(KEY, (), ["team."], after=before, limit=10)) == ["1", "2"]

    run(test)


def test_a_second_name_delivers_the_same_message_and_stores_nothing(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open() as bus:
            bus.alias("u.", lambda one: "mine" if one.channel.endswith("x") else None)
            before = bus.now()
            timetoken = await bus.publish(draft("u.x", "for me"))
            await bus.publish(draft("u.y", "not for me"))
            (found,) = bus.tail(KEY, ["mine"], (), after=before, limit=10) or ()
            assert (found.timetoken, found.draft.channel, found.also) == (timetoken, "u.x", "mine")
            assert not await bus.history(KEY, "mine", limit=10, newest=True)

    run(test)


def test_followers_hear_everything_in_order_also_what_is_not_stored(buses: Buses) -> None:
    async def test() -> None:
        heard: list[Message] = []
        async with buses.open() as bus:
            stop = bus.follow("a", heard.append)
            await asyncio.gather(*(bus.publish(draft("a", str(n), stored=bool(n % 2))) for n in range(50)))
            await bus.publish(draft("b", "elsewhere"))
            stop()
            await bus.publish(draft("a", "after"))
        assert sorted(texts(heard), key=int) == [str(number) for number in range(50)]
        assert [message.timetoken for message in heard] == sorted(message.timetoken for message in heard)

    run(test)


def test_what_travels_with_a_message_comes_back_with_it(durable: Buses) -> None:
    async def test() -> None:
        sent = draft("a", "x", publisher="me", meta=b'{"k":1}', kind=Kind.FILE, custom_type="kind-of", ttl_hours=5)
        async with durable.open() as bus:
            await bus.publish(sent)
        async with durable.open() as bus:
            (found,) = await bus.history(KEY, "a", limit=1, newest=True)
        assert found.draft == sent

    run(test)


def test_a_time_to_live_ends_a_message_and_zero_does_not(buses: Buses) -> None:
    async def test() -> None:
        async with buses.open(history_ttl_hours=2) as bus:
            for text, hours in (("an hour", 1), ("the default", None), ("for ever", 0)):
                await bus.publish(draft("a", text, ttl_hours=hours))
            buses.clock.ns += int(1.5 * 3_600) * SECOND_NS
            assert texts(await bus.history(KEY, "a", limit=9, newest=True)) == ["the default", "for ever"]
            buses.clock.ns += 3_600 * SECOND_NS
            assert texts(await bus.history(KEY, "a", limit=9, newest=True)) == ["for ever"]

    run(test)


def test_a_log_that_is_too_large_gives_up_its_oldest_messages(durable: Buses) -> None:
    async def test() -> None:
        async with durable.open() as bus:
            await bus.publish_all([draft("a", f"{number:04d}" + "x" * 1_000) for number in range(3_000)])
        async with durable.open(log_bytes=1_000_000) as bus:  # the sweep begins with the log
            kept = texts(await bus.history(KEY, "a", limit=5_000, newest=True))
            while len(kept) > 1_500:
                kept = texts(await bus.history(KEY, "a", limit=5_000, newest=True))
            assert kept[-1].startswith("2999")
            assert [text[:4] for text in kept] == [f"{number:04d}" for number in range(3_000 - len(kept), 3_000)]

    run(test)


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        buses = Buses(tmp_path / "bus.db", fsync=False)
        async with buses.open() as bus:
            await bus.publish(draft("a", "kept"))
            for connection in (bus._log._write, bus._log._quick):  # the file may not grow any more
                assert connection is not None
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                connection.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(BusFull):
                await bus.publish_all([draft("a", "x" * 3_000)] * 50)
            for connection in (bus._log._write, bus._log._quick):
                assert connection is not None
                connection.execute("PRAGMA max_page_count = 1000000")
            await bus.publish(draft("a", "again"))
            found = texts(await bus.history(KEY, "a", limit=100, newest=True))
            assert (found[0], found[-1]) == ("kept", "again")

    run(test)
