"""Presence in one process: a record for each (keyset, channel, uuid), and one timer for all their timeouts."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from blocks_network.server.limits import Limits
from blocks_network.server.presence import DEFAULT_TIMEOUT_S, Change, Occupant

__all__ = ["EmbeddedPresence"]

log = logging.getLogger(__name__)

State = Mapping[str, Any]
Place = tuple[str, str]
"""(keyset, channel)."""
Action = Literal["join", "leave", "timeout", "state-change"]


@dataclass(slots=True, eq=False)
class _Record:
    """What is known of one uuid on one channel. Without `joined` there is only a state that waits for the join."""

    place: Place
    uuid: str
    timeout_s: int
    due_s: float
    joined: bool = False
    state: State | None = None
    scheduled_s: float | None = None
    """When its entry of the heap is due; None without one. Never later than `due_s`."""


class EmbeddedPresence:
    """See `Presence` for the contract. Belongs to the event loop that `start` ran on.

    `clock` gives seconds since 1970 for the changes. Timeouts run on a clock that never steps, unless a clock of a
    test's own is given: it serves both, and `expire` looks at it. Beyond `limits.presence_records` newcomers are not
    taken in, with one warning, and those who are present stay.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, limits: Limits | None = None) -> None:
        self._clock = clock
        self._steady = time.monotonic if clock is time.time else clock
        self._room = (limits or Limits()).presence_records
        self._records = 0
        self._full = False
        self._places: dict[Place, dict[str, _Record]] = {}
        """Everybody present, in the order of their joins."""
        self._waiting: dict[tuple[Place, str], _Record] = {}
        """States set before the join."""
        self._where: dict[tuple[str, str], dict[str, _Record]] = {}
        """(keyset, uuid) to the channels where they are present."""
        self._occupied: dict[str, dict[str, None]] = {}
        self._heap: list[tuple[float, int, _Record]] = []
        self._entries = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0
        self._heard: list[Callable[[Change], None]] = []
        self._changes: deque[Change] = deque()
        self._telling = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arm()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    @property
    def records(self) -> int:
        """Who is present somewhere, and states that wait for a join."""
        return self._records

    # -- what happens --------------------------------------------------------------------------------------------

    def touch(
        self,
        keyset: str,
        channels: Iterable[str],
        uuid: str,
        *,
        timeout_s: int | None = None,
        state: Mapping[str, State] | None = None,
    ) -> None:
        self._expire_due()
        now_s = self._steady()
        for channel in channels:
            given = None if state is None else state.get(channel)
            place = (keyset, channel)
            record = self._places.get(place, {}).get(uuid)
            if record is None:
                record = self._join(place, uuid, given, timeout_s, now_s)
            else:
                if timeout_s is not None:
                    record.timeout_s = timeout_s
                record.due_s = now_s + record.timeout_s
                if given is not None:
                    self._replace_state(record, given)
            if record is not None:
                self._schedule(record)
        self._tell()

    def leave(self, keyset: str, channels: Iterable[str], uuid: str) -> None:
        self._expire_due()
        for channel in channels:
            if self._waiting.pop(((keyset, channel), uuid), None) is not None:
                self._records -= 1
            record = self._places.get((keyset, channel), {}).get(uuid)
            if record is not None:
                self._remove(record, "leave")
        self._tell()

    def set_state(self, keyset: str, channels: Iterable[str], uuid: str, state: State) -> None:
        self._expire_due()
        for channel in channels:
            place = (keyset, channel)
            record = self._places.get(place, {}).get(uuid)
            if record is not None:
                self._replace_state(record, state)
                continue
            waiting = self._waiting.get((place, uuid)) or self._new_record(place, uuid)
            if waiting is not None:
                self._waiting[place, uuid] = waiting
                waiting.state = state
                waiting.due_s = self._steady() + waiting.timeout_s
                self._schedule(waiting)
        self._tell()

    def expire(self) -> None:
        """Announces everybody whose time is over. The timer does it by itself."""
        self._expire_due()
        self._tell()

    # -- what is ------------------------------------------------------------------------------------------------

    def state_of(self, keyset: str, channel: str, uuid: str) -> State:
        place = (keyset, channel)
        record = self._places.get(place, {}).get(uuid) or self._waiting.get((place, uuid))
        if record is None or record.state is None or record.due_s <= self._steady():
            return {}
        return record.state

    def occupants(self, keyset: str, channel: str) -> list[Occupant]:
        self.expire()
        return [Occupant(uuid, record.state) for uuid, record in self._places.get((keyset, channel), {}).items()]

    def channels_of(self, keyset: str, uuid: str) -> list[str]:
        self.expire()
        return list(self._where.get((keyset, uuid), ()))

    def occupied_channels(self, keyset: str) -> list[str]:
        self.expire()
        return list(self._occupied.get(keyset, ()))

    def follow(self, heard: Callable[[Change], None]) -> Callable[[], None]:
        self._heard.append(heard)

        def stop() -> None:
            if heard in self._heard:
                self._heard.remove(heard)

        return stop

    # -- records -------------------------------------------------------------------------------------------------

    def _join(
        self, place: Place, uuid: str, state: State | None, timeout_s: int | None, now_s: float
    ) -> _Record | None:
        record = self._waiting.pop((place, uuid), None) or self._new_record(place, uuid)
        if record is None:
            return None
        if timeout_s is not None:
            record.timeout_s = timeout_s
        record.due_s = now_s + record.timeout_s
        record.joined = True
        if state is not None:
            record.state = state
        record.state = record.state or None
        keyset, channel = place
        self._places.setdefault(place, {})[uuid] = record
        self._where.setdefault((keyset, uuid), {})[channel] = record
        self._occupied.setdefault(keyset, {})[channel] = None
        self._note("join", record)
        return record

    def _remove(self, record: _Record, action: Action) -> None:
        keyset, channel = record.place
        here = self._places[record.place]
        del here[record.uuid]
        if not here:
            del self._places[record.place]
            del self._occupied[keyset][channel]
            if not self._occupied[keyset]:
                del self._occupied[keyset]
        where = self._where[keyset, record.uuid]
        del where[channel]
        if not where:
            del self._where[keyset, record.uuid]
        record.joined = False
        self._records -= 1
        self._note(action, record)

    def _replace_state(self, record: _Record, state: State) -> None:
        if state != (record.state or {}):
            record.state = state or None
            self._note("state-change", record)

    def _new_record(self, place: Place, uuid: str) -> _Record | None:
        """None when there is no room."""
        if self._records < self._room:
            self._records += 1
            self._full = False
            return _Record(place, uuid, DEFAULT_TIMEOUT_S, 0.0)
        if not self._full:
            self._full = True
            log.warning("presence is full with %d records; newcomers are not taken in", self._records)
        return None

    # -- time ----------------------------------------------------------------------------------------------------

    def _schedule(self, record: _Record) -> None:
        """One entry of the heap a record: a touch moves `due_s` alone, and the entry is put back when it comes up."""
        if record.scheduled_s is not None and record.scheduled_s <= record.due_s:
            return
        record.scheduled_s = record.due_s
        self._entries += 1
        heapq.heappush(self._heap, (record.due_s, self._entries, record))
        if len(self._heap) > 2 * self._records + 1_000:  # of those who left before their time
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)
        self._arm()

    def _is_live(self, entry: tuple[float, int, _Record]) -> bool:
        """Whether an entry of the heap still says when its record is due."""
        scheduled_s, _, record = entry
        if record.scheduled_s != scheduled_s:  # a shorter timeout has put an earlier entry in its place
            return False
        return record.joined or self._waiting.get((record.place, record.uuid)) is record

    def _expire_due(self) -> None:
        now_s = self._steady()
        while self._heap and self._heap[0][0] <= now_s:
            entry = heapq.heappop(self._heap)
            if not self._is_live(entry):
                continue
            record = entry[2]
            record.scheduled_s = None
            if record.due_s > now_s:
                self._schedule(record)
            elif record.joined:
                self._remove(record, "timeout")
            else:
                del self._waiting[record.place, record.uuid]
                self._records -= 1

    def _arm(self) -> None:
        """The timer stands at the earliest entry. It follows the loop's clock, so it looks again if it rings early."""
        if self._loop is None or not self._heap:
            return
        due_s = self._heap[0][0]
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - self._steady()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.expire()
        self._arm()

    # -- who hears it --------------------------------------------------------------------------------------------

    def _note(self, action: Action, record: _Record) -> None:
        keyset, channel = record.place
        occupancy = len(self._places.get(record.place, ()))
        at_ms = int(self._clock() * 1000)
        self._changes.append(Change(keyset, channel, action, record.uuid, occupancy, at_ms, record.state))

    def _tell(self) -> None:
        """Tells the changes in their order, also those that a follower causes while it hears one."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._changes:
                change = self._changes.popleft()
                for heard in list(self._heard):
                    try:
                        heard(change)
                    except Exception:  # a follower's fault must not cost the others their change
                        log.exception("a follower of presence failed with %s on %s", change.action, change.channel)
        finally:
            self._telling = False
