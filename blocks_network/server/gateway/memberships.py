"""Which channels belong to which channel group; kept in the bus's log, so that groups outlive a restart.

Every change is a stored message on a channel of each keyset that no client can name. What the bus tells of that
channel is the only thing that changes the groups, so whoever follows it comes to the same groups in the same order.
When the log holds much more than the groups, they are written anew and what lies below is removed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from blocks_network.server.bus import Bus, BusFull, Draft, Message

__all__ = ["Memberships", "TooManyMembers"]

CHANNEL = "\x01groups"
"""Requests cannot name it: control characters are refused in them."""
PAGE = 1_000
ANEW_ABOVE = 1_000
"""Changes in the log beyond the number of groups before they are written anew."""

Verb = Literal["add", "remove", "set"]


class TooManyMembers(Exception):
    """A group would get more channels, or a keyset more groups, than allowed. Nothing was changed."""


class _Change(msgspec.Struct, frozen=True):
    """`set` replaces all members; without channels the group is gone."""

    group: str
    verb: Verb
    channels: list[str]


_decode = msgspec.json.Decoder(_Change).decode


@dataclass(slots=True, eq=False)
class _Pending:
    change: _Change
    done: asyncio.Future[None]


class _Keyset:
    """The groups of one keyset, and what waits to be written of them."""

    __slots__ = ("groups", "logged", "waiting", "writing")

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, None]] = {}
        """Channels in the order in which they came."""
        self.logged = 0
        """Changes in the log."""
        self.waiting: deque[_Pending] = deque()
        self.writing: asyncio.Task[None] | None = None

    def apply(self, change: _Change) -> None:
        self.logged += 1
        members = self.groups.get(change.group, {})
        if change.verb == "add":
            members.update(dict.fromkeys(change.channels))
        elif change.verb == "set":
            members = dict.fromkeys(change.channels)
        else:
            for channel in change.channels:
                members.pop(channel, None)
        if members:
            self.groups[change.group] = members
        else:
            self.groups.pop(change.group, None)


class Memberships:
    """The groups of `keysets` (subscribe keys). Belongs to the loop that `start` ran on.

    `add`, `remove` and `delete` return when the change is durable and can be read; BusFull when it cannot be stored.
    """

    def __init__(self, bus: Bus, keysets: Iterable[str], *, channels_max: int, groups_max: int) -> None:
        self._bus, self._channels_max, self._groups_max = bus, channels_max, groups_max
        self._keysets = {keyset: _Keyset() for keyset in keysets}
        self._heard: list[Callable[[str, str], None]] = []
        self._unfollow: Callable[[], None] | None = None

    async def start(self) -> None:
        """Reads the log. Nobody changes groups before it has returned."""
        for keyset in self._keysets:
            after, page = -1, await self._page(keyset, -1)
            while page:
                for message in page:
                    self._keysets[keyset].apply(_decode(message.draft.payload))
                after = page[-1].timetoken
                page = await self._page(keyset, after) if len(page) == PAGE else []
        self._unfollow = self._bus.follow(CHANNEL, self._hear)

    async def stop(self) -> None:
        """Finishes what was asked for. May be repeated."""
        for state in self._keysets.values():
            if state.writing is not None:
                await state.writing
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    async def _page(self, keyset: str, after: int) -> list[Message]:
        return await self._bus.history(keyset, CHANNEL, after=after, limit=PAGE, newest=False)

    # -- what is -------------------------------------------------------------------------------------------------

    def channels_of(self, keyset: str, group: str) -> Collection[str]:
        state = self._keysets.get(keyset)
        return state.groups.get(group, {}).keys() if state is not None else ()

    def groups_of(self, keyset: str) -> list[str]:
        state = self._keysets.get(keyset)
        return list(state.groups) if state is not None else []

    def on_change(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        self._heard.append(changed)

        def stop() -> None:
            if changed in self._heard:
                self._heard.remove(changed)

        return stop

    # -- what happens --------------------------------------------------------------------------------------------

    async def add(self, keyset: str, group: str, channels: Sequence[str]) -> None:
        """TooManyMembers, counting also what waits to be written."""
        state = self._keysets[keyset]
        expected = set(state.groups.get(group, ())).union(channels)
        unborn = {group} - state.groups.keys()
        for pending in state.waiting:
            if pending.change.verb == "add":
                if pending.change.group == group:
                    expected.update(pending.change.channels)
                unborn.update({pending.change.group} - state.groups.keys())
        if len(expected) > self._channels_max:
            raise TooManyMembers(f"a channel group holds at most {self._channels_max} channels")
        if len(state.groups) + len(unborn) > self._groups_max:
            raise TooManyMembers(f"a keyset has at most {self._groups_max} channel groups")
        await self._write(keyset, _Change(group, "add", list(channels)))

    async def remove(self, keyset: str, group: str, channels: Sequence[str]) -> None:
        """Nothing happens for those that are no members."""
        await self._write(keyset, _Change(group, "remove", list(channels)))

    async def delete(self, keyset: str, group: str) -> None:
        """Nothing happens when it does not exist."""
        await self._write(keyset, _Change(group, "set", []))

    async def _write(self, keyset: str, change: _Change) -> None:
        state = self._keysets[keyset]
        if change.verb != "add" and change.group not in state.groups and not state.waiting and not state.writing:
            return
        loop = asyncio.get_running_loop()
        pending = _Pending(change, loop.create_future())
        state.waiting.append(pending)
        if state.writing is None:
            state.writing = loop.create_task(self._write_all(keyset, state))
        await pending.done

    async def _write_all(self, keyset: str, state: _Keyset) -> None:
        """One batch at a time, each with what gathered while the one before it was committed."""
        try:
            while state.waiting:
                batch = [state.waiting.popleft() for _ in range(min(PAGE, len(state.waiting)))]
                fault: BaseException | None = None
                try:
                    await self._bus.publish_all([_draft(keyset, pending.change) for pending in batch])
                    await self._write_anew(keyset, state)
                except (BusFull, RuntimeError) as raised:  # it cannot store, or it has been stopped
                    fault = raised
                for pending in batch:
                    if pending.done.done():  # whoever asked has gone
                        continue
                    if fault is None:
                        pending.done.set_result(None)
                    else:
                        pending.done.set_exception(fault)
        finally:
            state.writing = None
