"""Which channels belong to which channel group; kept in the bus's log, so that groups outlive a restart.

Every change is a stored message on a channel of its keyset that no client can name. What the bus tells of that channel
is the only thing that changes the groups. When the log holds far more changes than there are groups, the groups are
written anew and what lies below is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from blocks_network.server.bus import Bus, BusFull, Draft, Message
from blocks_network.wire.channels import SESSIONS_PREFIX

__all__ = ["Memberships", "TooManyMembers"]

log = logging.getLogger(__name__)

CHANNEL = "\x01groups"
"""Control characters are refused in the names of requests."""
AT_ONCE = 500
"""Changes in one commit, and messages read at a time."""
ANEW_ABOVE = 1_000
"""Changes in the log beyond twice the number of groups."""


class TooManyMembers(Exception):
    """A group would get more channels, or a keyset more groups, than allowed. Nothing was changed."""


class _Change(msgspec.Struct, frozen=True):
    """`set` replaces all members. A group without channels does not exist."""

    group: str
    verb: Literal["add", "remove", "set"]
    channels: list[str]

    def draft(self, keyset: str) -> Draft:
        return Draft(keyset, CHANNEL, msgspec.json.encode(self), ttl_hours=0)


_decode = msgspec.json.Decoder(_Change).decode


@dataclass(slots=True, eq=False)
class _Wanted:
    """A change that waits to be written."""

    change: _Change
    done: asyncio.Future[None]

    def settle(self, fault: Exception | None) -> None:
        if self.done.done():  # whoever wanted it has gone
            return
        if fault is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(fault)


@dataclass(slots=True, eq=False)
class _Groups:
    """The groups of one keyset."""

    members: dict[str, dict[str, None]] = field(default_factory=dict)
    """By group; channels in the order in which they came."""
    logged: int = 0
    """Changes in the log."""
    wanted: deque[_Wanted] = field(default_factory=deque)
    writing: asyncio.Task[None] | None = None

    def apply(self, change: _Change) -> bool:
        """Whether the group has other members now."""
        self.logged += 1
        before = self.members.get(change.group, {})
        if change.verb == "add":
            after = {**before, **dict.fromkeys(change.channels)}
        elif change.verb == "set":
            after = dict.fromkeys(change.channels)
        else:
            gone = set(change.channels)
            after = {channel: None for channel in before if channel not in gone}
        if after:
            self.members[change.group] = after
        else:
            self.members.pop(change.group, None)
        return after != before


class Memberships:
    """The groups of `keysets` (subscribe keys). Belongs to the loop that `start` ran on.

    `add`, `remove` and `delete` return when the change is durable and can be read. They raise BusFull when it cannot be
    stored, `add` also TooManyMembers.
    """

    def __init__(self, bus: Bus, keysets: Iterable[str], *, channels_max: int, groups_max: int) -> None:
        self._bus, self._channels_max, self._groups_max = bus, channels_max, groups_max
        self._keysets = {keyset: _Groups() for keyset in keysets}
        self._heard: list[Callable[[str, str], None]] = []
        self._unfollow: Callable[[], None] | None = None

    async def start(self) -> None:
        """Reads the log; nobody changes groups before it has returned."""
        for keyset, groups in self._keysets.items():
            after, whole = -1, False
            while not whole:
                page = await self._bus.history(keyset, CHANNEL, after=after, limit=AT_ONCE, newest=False)
                for message in page:
                    groups.apply(_decode(message.draft.payload))
                    after = message.timetoken
                whole = len(page) < AT_ONCE
        self._unfollow = self._bus.follow(CHANNEL, self._hear)

    async def stop(self) -> None:
        """Finishes what was asked for. May be repeated."""
        for groups in self._keysets.values():
            if groups.writing is not None:
                await groups.writing
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    # -- what is -------------------------------------------------------------------------------------------------

    def channels_of(self, keyset: str, group: str) -> Collection[str]:
        if group.startswith(SESSIONS_PREFIX):
            return (group,)  # the platform's own: one name, under which the bus delivers what it is about
        groups = self._keysets.get(keyset)
        return groups.members.get(group, {}).keys() if groups is not None else ()

    def groups_of(self, keyset: str) -> list[str]:
        groups = self._keysets.get(keyset)
        return list(groups.members) if groups is not None else []

    def on_change(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        self._heard.append(changed)

        def stop() -> None:
            if changed in self._heard:
                self._heard.remove(changed)

        return stop

    # -- what happens --------------------------------------------------------------------------------------------

    async def add(self, keyset: str, group: str, channels: Sequence[str]) -> None:
        await self._want(keyset, _Change(group, "add", list(channels)))

    async def remove(self, keyset: str, group: str, channels: Sequence[str]) -> None:
        """Nothing happens for channels that are no members."""
        await self._want(keyset, _Change(group, "remove", list(channels)))

    async def delete(self, keyset: str, group: str) -> None:
        """Nothing happens when it does not exist."""
        await self._want(keyset, _Change(group, "set", []))

    def _hear(self, message: Message) -> None:
        keyset = message.draft.keyset
        groups = self._keysets.get(keyset)
        if groups is None:
            return
        change = _decode(message.draft.payload)
        if groups.apply(change):
            for changed in list(self._heard):
                changed(keyset, change.group)

    async def _want(self, keyset: str, change: _Change) -> None:
        groups = self._keysets[keyset]
        loop = asyncio.get_running_loop()
        wanted = _Wanted(change, loop.create_future())
        groups.wanted.append(wanted)
        if groups.writing is None:
            groups.writing = loop.create_task(self._write(keyset, groups))
        await wanted.done

    async def _write(self, keyset: str, groups: _Groups) -> None:
        """One batch at a time: what gathers during a commit is the next one."""
        try:
            while groups.wanted:
                batch = self._next_batch(groups)
                fault: Exception | None = None
                try:
                    if batch:
                        await self._bus.publish_all([wanted.change.draft(keyset) for wanted in batch])
                except (BusFull, RuntimeError) as raised:  # it cannot store, or has been stopped
                    fault = raised
                for wanted in batch:
                    wanted.settle(fault)
                if fault is None and groups.logged > ANEW_ABOVE + 2 * len(groups.members):
                    await self._write_anew(keyset, groups)
        finally:
            groups.writing = None

    def _next_batch(self, groups: _Groups) -> list[_Wanted]:
        """What may be written; the others are refused. Within a batch, what is removed makes no room."""
        batch: list[_Wanted] = []
        added: dict[str, set[str]] = {}
        number = len(groups.members)
        while groups.wanted and len(batch) < AT_ONCE:
            wanted = groups.wanted.popleft()
            change = wanted.change
            if change.verb == "add":
                members = groups.members.get(change.group, {})
                more = added.get(change.group, set()).union(name for name in change.channels if name not in members)
                is_new = not members and change.group not in added
                if len(members) + len(more) > self._channels_max:
                    wanted.settle(TooManyMembers(f"a channel group holds at most {self._channels_max} channels"))
                    continue
                if number + is_new > self._groups_max:
                    wanted.settle(TooManyMembers(f"a keyset has at most {self._groups_max} channel groups"))
                    continue
                added[change.group] = more
                number += is_new
            batch.append(wanted)
        return batch

    async def _write_anew(self, keyset: str, groups: _Groups) -> None:
        """Each group as it is, then the end of all before: a fault in between leaves more than needed, never less."""
        drafts = [_Change(group, "set", list(members)).draft(keyset) for group, members in groups.members.items()]
        first: int | None = None
        try:
            for begin in range(0, len(drafts), AT_ONCE):
                timetokens = await self._bus.publish_all(drafts[begin : begin + AT_ONCE])
                first = timetokens[0] if first is None else first
            groups.logged -= await self._bus.delete(keyset, CHANNEL, before=first)
        except (BusFull, RuntimeError) as fault:
            log.warning("the log of channel groups was not shortened: %s", fault)
