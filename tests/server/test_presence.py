"""Presence in one process: who is there, for how long, with what state, and who hears of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blocks_network.server.limits import Limits
from blocks_network.server.presence import Change, Occupant, Presence
from blocks_network.server.presence.embedded import EmbeddedPresence

KEYSET = "sub-c-1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Room:
    """Presence with a clock of the test's own and a list of what its follower heard."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.presence = EmbeddedPresence(self.clock, limits=limits)
        self.heard: list[Change] = []
        self.presence.follow(self.heard.append)

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.presence.expire()

    def actions(self) -> list[tuple[str, str, str, int]]:
        return [(change.action, change.channel, change.uuid, change.occupancy) for change in self.heard]


@pytest.fixture
def room() -> Room:
    return Room()


def test_it_is_a_presence() -> None:
    presence: Presence = EmbeddedPresence()
    assert presence.occupants(KEYSET, "a") == []


def test_the_first_touch_joins_and_further_ones_prolong(room: Room) -> None:
    room.presence.touch(KEYSET, ["a", "b"], "u1", timeout_s=20)
    room.presence.touch(KEYSET, ["a"], "u2", timeout_s=20)
    room.wait(15)
    room.presence.touch(KEYSET, ["a"], "u1")
    assert room.actions() == [("join", "a", "u1", 1), ("join", "b", "u1", 1), ("join", "a", "u2", 2)]
    room.wait(10)
    assert room.actions()[3:] == [("timeout", "b", "u1", 0), ("timeout", "a", "u2", 1)]
    assert room.presence.occupants(KEYSET, "a") == [Occupant("u1", None)]
    room.wait(10)
    assert room.actions()[5:] == [("timeout", "a", "u1", 0)]
    assert room.presence.occupied_channels(KEYSET) == []
    assert room.presence.channels_of(KEYSET, "u1") == []


def test_the_last_timeout_named_counts_and_300_seconds_at_first(room: Room) -> None:
    room.presence.touch(KEYSET, ["a"], "u1")
    room.wait(299)
    assert room.presence.occupants(KEYSET, "a")
    room.presence.touch(KEYSET, ["a"], "u1", timeout_s=10)
    room.presence.touch(KEYSET, ["a"], "u1")
    room.wait(9)
    assert room.presence.occupants(KEYSET, "a")
    room.wait(1)
    assert [change.action for change in room.heard] == ["join", "timeout"]


def test_leaving_is_announced_once(room: Room) -> None:
    room.presence.touch(KEYSET, ["a"], "u1")
    room.presence.leave(KEYSET, ["a", "b"], "u1")
    room.presence.leave(KEYSET, ["a"], "u1")
    assert room.actions() == [("join", "a", "u1", 1), ("leave", "a", "u1", 0)]
    room.wait(1_000)
    assert len(room.heard) == 2


def test_keysets_do_not_see_each_other(room: Room) -> None:
    room.presence.touch(KEYSET, ["a"], "u1")
    room.presence.touch("sub-c-2", ["a"], "u2")
    assert [occupant.uuid for occupant in room.presence.occupants(KEYSET, "a")] == ["u1"]
    assert room.presence.occupied_channels("sub-c-2") == ["a"]


def test_state_set_before_the_join_is_attached_at_the_join(room: Room) -> None:
    room.presence.set_state(KEYSET, ["a"], "u1", {"free": 3})
    assert room.presence.state_of(KEYSET, "a", "u1") == {"free": 3}
    assert room.presence.occupants(KEYSET, "a") == []
    assert room.heard == []
    room.presence.touch(KEYSET, ["a"], "u1", timeout_s=20)
    assert [(change.action, change.state) for change in room.heard] == [("join", {"free": 3})]
    assert room.presence.occupants(KEYSET, "a") == [Occupant("u1", {"free": 3})]


def test_state_set_before_a_join_that_never_comes_is_forgotten(room: Room) -> None:
    room.presence.set_state(KEYSET, ["a"], "u1", {"free": 3})
    room.wait(301)
    assert room.presence.state_of(KEYSET, "a", "u1") == {}
    room.presence.touch(KEYSET, ["a"], "u1")
    assert [(change.action, change.state) for change in room.heard] == [("join", None)]


def test_state_is_replaced_and_ends_with_the_stay(room: Room) -> None:
    room.presence.touch(KEYSET, ["a"], "u1", state={"a": {"x": 1}, "other": {"y": 1}})
    room.presence.set_state(KEYSET, ["a"], "u1", {"z": 2})
    room.presence.set_state(KEYSET, ["a"], "u1", {"z": 2})
    room.presence.touch(KEYSET, ["a"], "u1", state={"a": {"z": 2}})
    assert [(change.action, change.state) for change in room.heard] == [
        ("join", {"x": 1}),
        ("state-change", {"z": 2}),
    ]
    room.presence.leave(KEYSET, ["a"], "u1")
    room.presence.touch(KEYSET, ["a"], "u1")
    assert room.presence.state_of(KEYSET, "a", "u1") == {}


def test_a_change_is_heard_after_it_can_be_read_and_in_order(room: Room) -> None:
    seen: list[tuple[str, int, int]] = []

    def look(change: Change) -> None:
        if change.action == "join" and change.uuid == "u1":
            room.presence.touch(KEYSET, ["a"], "u2")  # a follower may change presence
        seen.append((change.uuid, change.occupancy, len(room.presence.occupants(KEYSET, "a"))))

    room.presence.follow(look)
    room.presence.touch(KEYSET, ["a"], "u1")
    assert seen == [("u1", 1, 2), ("u2", 2, 2)]
    assert [change.uuid for change in room.heard] == ["u1", "u2"]


def test_a_follower_that_fails_costs_the_others_nothing(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    def fail(change: Change) -> None:
        raise ValueError(change.uuid)

    later: list[Change] = []
    room.presence.follow(fail)
    stop = room.presence.follow(later.append)
    room.presence.touch(KEYSET, ["a"], "u1")
    stop()
    room.presence.touch(KEYSET, ["a"], "u2")
    assert [change.uuid for change in later] == ["u1"]
    assert "follower" in caplog.text


def test_newcomers_are_not_taken_in_when_it_is_full(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(Limits(presence_records=2))
    room.presence.touch(KEYSET, ["a"], "u1")
    room.presence.set_state(KEYSET, ["a"], "u2", {"x": 1})
    room.presence.touch(KEYSET, ["a"], "u3")
    room.presence.set_state(KEYSET, ["a"], "u4", {"x": 1})
    assert caplog.text.count("full") == 1
    room.presence.touch(KEYSET, ["a"], "u2")
    room.presence.leave(KEYSET, ["a"], "u1")
    room.presence.touch(KEYSET, ["a"], "u3")
    assert [occupant.uuid for occupant in room.presence.occupants(KEYSET, "a")] == ["u2", "u3"]


def test_many_short_stays_leave_nothing_behind(room: Room) -> None:
    for n in range(10_000):
        room.presence.touch(KEYSET, ["a"], f"u{n}")
        room.presence.leave(KEYSET, ["a"], f"u{n}")
    assert len(room.presence._heap) < 2_000


def test_the_timer_announces_a_timeout_by_itself() -> None:
    async def run() -> Change:
        presence = EmbeddedPresence()
        heard: asyncio.Queue[Change] = asyncio.Queue()
        await presence.start()
        presence.touch(KEYSET, ["a"], "long", timeout_s=300)
        presence.touch(KEYSET, ["a"], "u1", timeout_s=0)
        presence.follow(heard.put_nowait)
        try:
            return await asyncio.wait_for(heard.get(), 5)
        finally:
            await presence.stop()

    change = asyncio.run(run())
    assert (change.action, change.uuid, change.occupancy) == ("timeout", "u1", 1)


class Model(RuleBasedStateMachine):
    """Presence against a dictionary of due times."""

    channels = st.lists(st.sampled_from("abc"), max_size=3)
    uuids = st.sampled_from(["u1", "u2"])

    def __init__(self) -> None:
        super().__init__()
        self.room = Room()
        self.due: dict[tuple[str, str], float] = {}
        self.timeouts: dict[tuple[str, str], int] = {}

    def _expire(self) -> None:
        now_s = self.room.clock.now_s
        self.due = {key: due for key, due in self.due.items() if due > now_s}
        self.timeouts = {key: timeout for key, timeout in self.timeouts.items() if key in self.due}

    @rule(channels=channels, uuid=uuids, timeout_s=st.none() | st.integers(1, 50))
    def touch(self, channels: list[str], uuid: str, timeout_s: int | None) -> None:
        self.room.presence.touch(KEYSET, channels, uuid, timeout_s=timeout_s)
        for channel in channels:
            timeout = timeout_s or self.timeouts.get((channel, uuid), 300)
            self.timeouts[channel, uuid] = timeout
            self.due[channel, uuid] = self.room.clock.now_s + timeout

    @rule(channels=channels, uuid=uuids)
    def leave(self, channels: list[str], uuid: str) -> None:
        self.room.presence.leave(KEYSET, channels, uuid)
        for channel in channels:
            self.due.pop((channel, uuid), None)
            self.timeouts.pop((channel, uuid), None)

    @rule(seconds=st.integers(0, 60))
    def wait(self, seconds: int) -> None:
        self.room.wait(seconds)
        self._expire()

    @invariant()
    def the_same_are_present(self) -> None:
        present = {
            (channel, occupant.uuid) for channel in "abc" for occupant in self.room.presence.occupants(KEYSET, channel)
        }
        assert present == set(self.due)

    @invariant()
    def the_events_tell_the_same_story(self) -> None:
        told: dict[str, set[str]] = {}
        for change in self.room.heard:
            here = told.setdefault(change.channel, set())
            (here.add if change.action == "join" else here.discard)(change.uuid)
            assert change.occupancy == len(here)
        assert {(channel, uuid) for channel, here in told.items() for uuid in here} == set(self.due)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
