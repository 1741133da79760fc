"""The log of channel groups: what is written, in which order, within which bounds, and how it stays short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from blocks_network.server.bus import BusFull
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.gateway import memberships as module
from blocks_network.server.gateway.memberships import CHANNEL, Memberships, TooManyMembers
from blocks_network.server.limits import Limits

KEYSET, OTHER = "sub-c-1", "sub-c-2"

Scenario = Callable[[Memberships, EmbeddedBus], Awaitable[None]]


def run(scenario: Scenario, path: Path | None = None, *, channels_max: int = 2_000, groups_max: int = 1_000) -> None:
    async def whole() -> None:
        bus = EmbeddedBus(path, Limits())
        await bus.start()
        memberships = Memberships(bus, [KEYSET, OTHER], channels_max=channels_max, groups_max=groups_max)
        await memberships.start()
        try:
            await scenario(memberships, bus)
        finally:
            await memberships.stop()
            await bus.stop()

    asyncio.run(asyncio.wait_for(whole(), 30))


def test_keysets_have_groups_of_their_own() -> None:
    async def scenario(memberships: Memberships, _bus: EmbeddedBus) -> None:
        await memberships.add(KEYSET, "g", ["a"])
        assert list(memberships.channels_of(KEYSET, "g")) == ["a"]
        assert list(memberships.channels_of(OTHER, "g")) == []
        assert memberships.groups_of(OTHER) == []

    run(scenario)


def test_a_change_is_told_when_it_can_be_read_and_only_if_it_is_one() -> None:
    async def scenario(memberships: Memberships, _bus: EmbeddedBus) -> None:
        told: list[tuple[str, list[str]]] = []
        stop = memberships.on_change(
            lambda keyset, group: told.append((group, list(memberships.channels_of(keyset, group))))
        )
        await memberships.add(KEYSET, "g", ["a", "b"])
        await memberships.add(KEYSET, "g", ["b"])
        await memberships.remove(KEYSET, "g", ["x"])
        await memberships.remove(KEYSET, "g", ["a"])
        await memberships.delete(KEYSET, "g")
        await memberships.delete(KEYSET, "never")
        assert told == [("g", ["a", "b"]), ("g", ["b"]), ("g", [])]
        stop()
        await memberships.add(KEYSET, "g", ["c"])
        assert len(told) == 3

    run(scenario)


def test_what_is_asked_for_at_the_same_time_is_done_in_that_order_and_within_the_bounds(tmp_path: Path) -> None:
    async def scenario(memberships: Memberships, _bus: EmbeddedBus) -> None:
        wanted = [memberships.add(KEYSET, "g", [f"c{number}"]) for number in range(30)]
        results = await asyncio.gather(*wanted, return_exceptions=True)
        assert [type(result) for result in results] == [type(None)] * 20 + [TooManyMembers] * 10
        assert list(memberships.channels_of(KEYSET, "g")) == [f"c{number}" for number in range(20)]
        await memberships.add(KEYSET, "g", ["c0", "c19"])  # members already: nothing is added
        grown = await asyncio.gather(
            *(memberships.add(KEYSET, f"h{number}", ["a"]) for number in range(5)), return_exceptions=True
        )
        assert [type(result) for result in grown] == [type(None)] * 3 + [TooManyMembers] * 2

    run(scenario, tmp_path / "bus.db", channels_max=20, groups_max=4)


def test_the_log_is_shortened_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANEW_ABOVE", 20)
    monkeypatch.setattr(module, "AT_ONCE", 3)  # so that writing anew takes several commits
    expected: dict[str, list[str]] = {}

    async def change(memberships: Memberships, bus: EmbeddedBus) -> None:
        for number in range(60):
            await memberships.add(KEYSET, f"g{number % 7}", [f"c{number}"])
        for number in range(0, 60, 2):
            await memberships.remove(KEYSET, f"g{number % 7}", [f"c{number}"])
        await memberships.delete(KEYSET, "g3")
        expected.update(
            {group: list(memberships.channels_of(KEYSET, group)) for group in memberships.groups_of(KEYSET)}
        )
        assert sorted(expected) == ["g0", "g1", "g2", "g4", "g5", "g6"]

    async def look(memberships: Memberships, bus: EmbeddedBus) -> None:
        found = {group: list(memberships.channels_of(KEYSET, group)) for group in memberships.groups_of(KEYSET)}
        assert found == expected
        assert await bus.count(KEYSET, CHANNEL, after=0, limit=1_000) <= 20 + 2 * 7 + 3

    run(change, tmp_path / "bus.db")
    run(look, tmp_path / "bus.db")


def test_what_cannot_be_stored_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(memberships: Memberships, bus: EmbeddedBus) -> None:
        async def full(drafts: object) -> list[int]:
            raise BusFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(bus, "publish_all", full)
            with pytest.raises(BusFull):
                await memberships.add(KEYSET, "g", ["a"])
        assert memberships.groups_of(KEYSET) == []
        await memberships.add(KEYSET, "g", ["b"])
        assert list(memberships.channels_of(KEYSET, "g")) == ["b"]

    run(scenario)
