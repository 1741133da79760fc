"""The bus in one process: an append log on disk or in memory, tails in memory, and one order for all.

A message is given its timetoken when it is handed in. It becomes visible when it and all before it are settled: stored
ones with the commit of the log, others at once. So one commit may hold back what comes after it, and nothing is ever
seen below a cursor that was handed out.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blocks_network.server.bus import BusFull, Draft, Message, queries
from blocks_network.server.bus.actions import LogActions
from blocks_network.server.bus.log import NEVER, Append, AppendLog
from blocks_network.server.bus.tails import Tails, merged
from blocks_network.server.limits import Limits
from blocks_network.wire.timetokens import TICKS_PER_S, from_unix_ns

__all__ = ["EmbeddedBus"]

log = logging.getLogger(__name__)

PLAUSIBLE = 10**16
"""Cursors below (before 2001) are no times, but ask for all that the tail holds."""
RENEW_AHEAD = 2 * TICKS_PER_S
"""How long before the reserve is used up it is renewed in the background."""
BACKLOG_MAX = 1_000
"""In memory a publish does not wait for the log, until so many appends are behind."""


@dataclass(slots=True, eq=False)
class _Pending(Append):
    """A publish that is not visible yet. As an Append it carries what of it is stored."""

    drafted: Sequence[Message]
    """All its messages, in order."""
    first: int
    """Cursors stay below this timetoken until it is settled."""
    done: asyncio.Future[None]
    settled: bool = False
    fault: BusFull | None = None


class EmbeddedBus:
    """See `Bus` for the contract. `path` is the log's file; None keeps everything in memory.

    `clock_ns` is the wall clock in nanoseconds since 1970.
    """

    def __init__(
        self, path: Path | None, limits: Limits, *, fsync: bool = False, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._limits, self._clock_ns = limits, clock_ns
        self._log = AppendLog(path, limits, clock=self._clock, settled=self._committed, fsync=fsync)
        self.actions = LogActions(self._log, self.now, per_message=limits.actions_per_message)
        self._order = threading.Lock()  # `now()` is asked from other threads
        self._given = 0
        """The highest timetoken or cursor handed out."""
        self._reserved = NEVER
        """Timetokens up to here may be given without asking the log."""
        self._renewing = False
        self._pending: deque[_Pending] = deque()
        self._tails = self._new_tails(0)
        self._followers: list[tuple[str, Callable[[Message], None], Callable[[], None] | None]] = []
        self._aliases: list[tuple[str, Callable[[Draft], str | None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    async def start(self) -> None:
        """sqlite3.Error when the log cannot be opened."""
        self._loop = asyncio.get_running_loop()
        highest = await self._loop.run_in_executor(None, self._log.open)
        self._given = highest
        self._tails = self._new_tails(highest)
        if self._log.durable:
            self._reserved = highest

    async def stop(self) -> None:
        """May be repeated."""
        if self._stopping or self._loop is None:
            return
        self._stopping = True
        while self._pending:
            await asyncio.wait([self._pending[-1].done])
        await self._loop.run_in_executor(None, self._log.close, self._given)

    # -- time ----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        with self._order:
            if self._pending:
                return self._pending[0].first - 1
            self._given = max(self._given, min(self._clock(), self._reserved))
            return self._given

    async def current(self) -> int:
        if self._clock() > self._reserved and not self._stopping:
            try:
                await self._renew()
            except BusFull:  # a cursor that is behind the clock is still a cursor
                log.debug("the reserve could not be renewed")
        return self.now()

    def _clock(self) -> int:
        return from_unix_ns(self._clock_ns())

    def _next(self) -> int:
        """Must hold the order."""
        self._given = max(self._clock(), self._given + 1)
        return self._given

    # -- how it does, for the metrics ----------------------------------------------------------------------------

    @property
    def tails_bytes(self) -> int:
        return self._tails.size_bytes

    @property
    def backlog(self) -> int:
        """Appends that wait for the log's writer."""
        return self._log.backlog

    @property
    def lag_s(self) -> float:
        """For how long the oldest message that is not visible yet has waited. Ask in the loop."""
        return max(0, self._clock() - self._pending[0].first) / TICKS_PER_S if self._pending else 0.0

    # -- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, draft: Draft) -> int:
        waits = draft.stored and (self._log.durable or self._log.backlog > BACKLOG_MAX)
        return (await self._give((draft,), waits=waits))[0]

    async def publish_all(self, drafts: Sequence[Draft]) -> list[int]:
        return await self._give(drafts, waits=any(draft.stored for draft in drafts))

    def publish_now(self, drafts: Sequence[Draft]) -> list[int] | None:
        messages, _ = self._place(drafts, waits=any(draft.stored for draft in drafts), or_hold=False)
        return None if messages is None else [message.timetoken for message in messages]

    async def _give(self, drafts: Sequence[Draft], *, waits: bool) -> list[int]:
        """With `waits`, what is stored is in the log before anybody sees any of them."""
        messages, pending = self._place(drafts, waits=waits, or_hold=True)
        if pending is not None:
            self._submit(pending)
            await pending.done
        return [message.timetoken for message in messages or ()]

    def _place(
        self, drafts: Sequence[Draft], *, waits: bool, or_hold: bool
    ) -> tuple[list[Message] | None, _Pending | None]:
        """Shows them, where nothing has to be waited for; else puts them in line, or gives None for them."""
        self._refuse_when_stopped()
        if not drafts:
            return [], None
        with self._order:
            messages = [Message(self._next(), draft, self._also(draft)) for draft in drafts]
            free = not self._pending and messages[-1].timetoken <= self._reserved
            stored = [message for message in messages if message.draft.stored]
            kept = free and bool(stored) and self._log.store_now(stored)
            if not kept and (waits or not free):
                return (messages, self._hold(messages)) if or_hold else (None, None)
            for message in messages:
                self._tails.append(message)
        for message in messages:
            if not (kept and message.draft.stored):
                self._keep(message)
        self._tell(messages)
        return messages, None

    def _refuse_when_stopped(self) -> None:
        if self._stopping or self._loop is None:
            raise RuntimeError("the bus does not run")

    def _hold(self, messages: Sequence[Message]) -> _Pending:
        """In line for visibility. Must hold the order."""
        assert self._loop is not None
        stored = [message for message in messages if message.draft.stored]
        first, last = messages[0].timetoken, messages[-1].timetoken
        pending = _Pending(stored, last, messages, first, self._loop.create_future())
        self._pending.append(pending)
        return pending

    def _submit(self, pending: _Pending) -> None:
        """To the log when it has to do with it, else settled as far as it goes."""
        if pending.messages or pending.upto > self._reserved:
            self._log.append(pending)
        else:
            pending.settled = True
            self._advance()

    async def _renew(self) -> None:
        """Brings the reserve up to the clock. BusFull when the log does not take it."""
        assert self._loop is not None
        with self._order:
            upto = self._next()
            pending = _Pending((), upto, (), upto, self._loop.create_future())
            self._pending.append(pending)
        self._log.append(pending)
        await pending.done

    def _keep(self, message: Message) -> None:
        """What the log has to do, without anybody waiting, for a message that was visible at once."""
        if message.draft.stored:
            self._log.append(Append((message,), message.timetoken))
        elif message.timetoken > self._reserved - RENEW_AHEAD and not self._renewing:
            self._renewing = True
            self._log.append(Append((), message.timetoken))

    # -- becoming visible ----------------------------------------------------------------------------------------

    def _committed(self, appends: list[Append], reserved: int, fault: BusFull | None) -> None:
        """On the writer thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._settle, appends, reserved, fault)

    def _settle(self, appends: list[Append], reserved: int, fault: BusFull | None) -> None:
        self._renewing = False
        if self._log.durable and fault is None:
            self._reserved = reserved
        for append in appends:
            if isinstance(append, _Pending):
                append.settled, append.fault = True, fault
        self._advance()

    def _advance(self) -> None:
        """Shows what is settled, in order."""
        while self._pending and self._pending[0].settled:
            with self._order:  # at once out of the line and into the tails: no cursor may pass between
                pending = self._pending.popleft()
                shown = pending.drafted if pending.fault is None else ()
                for message in shown:
                    self._tails.append(message)
            self._tell(shown)
            if not pending.done.done():  # whoever waited may have been cancelled
                if pending.fault is None:
                    pending.done.set_result(None)
                else:
                    pending.done.set_exception(pending.fault)

    def _tell(self, messages: Sequence[Message]) -> None:
        """Those that have become visible together."""
        for message in messages:
            for prefix, deliver, _ in self._followers:
                if message.draft.channel.startswith(prefix):
                    try:
                        deliver(message)
                    except Exception:  # the edge to whoever follows: one of them must not stop the others
                        log.exception("a follower of %r failed", prefix)
        for prefix, _, settled in self._followers:
            if settled is not None:
                try:
                    settled()
                except Exception:  # the same edge
                    log.exception("a follower of %r failed", prefix)

    def alias(self, prefix: str, also: Callable[[Draft], str | None]) -> None:
        self._aliases.append((prefix, also))

    def _also(self, draft: Draft) -> str | None:
        for prefix, also in self._aliases:
            if draft.channel.startswith(prefix):
                return also(draft)
        return None

    def follow(
        self, prefix: str, deliver: Callable[[Message], None], settled: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        entry = (prefix, deliver, settled)
        self._followers = [*self._followers, entry]

        def stop() -> None:
            self._followers = [one for one in self._followers if one is not entry]

        return stop

    # -- reading -------------------------------------------------------------------------------------------------

    def tail(
        self, keyset: str, channels: Iterable[str], prefixes: Iterable[str], *, after: int, limit: int
    ) -> list[Message] | None:
        runs: list[list[Message]] = []
        for channel in channels:
            run = self._tails.read(keyset, channel, after, limit)
            if run is None:
                return None
            if run:
                runs.append(run)
        for prefix in prefixes:
            names = self._tails.channels_below(keyset, prefix, after)
            if after < self._tails.complete_since() or any(self._tails.floor_of(keyset, n) > after for n in names):
                return None
            runs += [self._tails.held(keyset, name, after, limit) for name in names]
        return runs[0] if len(runs) == 1 else merged(runs, limit) if runs else []

    async def catch_up(
        self, keyset: str, channels: Iterable[str], prefixes: Iterable[str], *, after: int, limit: int
    ) -> list[Message]:
        channels, prefixes = list(channels), list(prefixes)
        while True:
            known = self.now()
            behind = [name for name in channels if self._tails.floor_of(keyset, name) > after]
            runs = await self._log.read(partial(self._late, keyset, behind, prefixes, after, limit))
            runs = [[message for message in run if message.timetoken <= known] for run in runs]
            if all(self._tails.floor_of(keyset, name) <= max(after, known) for name in channels):
                break  # else a tail gave up, meanwhile, what the log was not asked for
        runs += [self._tails.held(keyset, channel, after, limit) for channel in channels]
        for prefix in prefixes:
            names = self._tails.channels_below(keyset, prefix, after)
            runs += [self._tails.held(keyset, name, after, limit) for name in names]
        return merged(runs, limit)

    def _late(
        self,
        keyset: str,
        behind: Sequence[str],
        prefixes: Sequence[str],
        after: int,
        limit: int,
        connection: sqlite3.Connection,
    ) -> list[list[Message]]:
        """On the log's reading thread: what memory no longer holds, a run a channel."""
        alive, starts = self._log.alive(), [(name, after) for name in behind]
        if after < PLAUSIBLE:
            after = self._clock() - int(self._limits.tail_s * TICKS_PER_S)
            count = self._limits.tail_messages
            starts = [(name, queries.tail_start(connection, alive, keyset, name, count, after)) for name in behind]
        return queries.late(connection, alive, keyset, starts, prefixes, after, limit)

    async def history(
        self,
        keyset: str,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        newest: bool,
    ) -> list[Message]:
        alive, bound = self._log.alive(), self._visible(before)
        return await self._log.read(
            lambda connection: queries.history(connection, alive, keyset, channel, after, bound, limit, newest)
        )

    async def count(self, keyset: str, channel: str, *, after: int, limit: int) -> int:
        alive, bound = self._log.alive(), self._visible(None)
        return await self._log.read(
            lambda connection: queries.counted(connection, alive, keyset, channel, after, bound, limit)
        )

    async def replay(self, prefix: str, *, after: int, limit: int) -> list[Message]:
        alive, bound = self._log.alive(), self._visible(None)
        return await self._log.read(lambda connection: queries.replayed(connection, alive, prefix, after, bound, limit))

    async def delete(self, keyset: str, channel: str, *, after: int | None = None, before: int | None = None) -> int:
        bound = self._visible(before)
        low = after if after is not None else -1
        number = await self._log.change(lambda connection: queries.deleted(connection, keyset, channel, after, bound))
        self._tails.remove(keyset, channel, lambda message: message.draft.stored and low < message.timetoken < bound)
        return number

    def _visible(self, before: int | None) -> int:
        """What is committed but not visible yet must not be read either."""
        bound = self.now() + 1
        return bound if before is None else min(bound, before)

    def _new_tails(self, floor: int) -> Tails:
        limits = self._limits
        return Tails(count=limits.tail_messages, age_s=limits.tail_s, limit_bytes=limits.tails_bytes, floor=floor)
