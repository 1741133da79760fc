"""Waiting polls: who waits for which channel, and what wakes them.

A publish touches only those that wait for its channel. A wait has no thread and no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from blocks_network.server.access.authorizer import Denied
from blocks_network.server.bus import Bus, Message
from blocks_network.server.gateway.envelope import Envelopes, answer_body
from blocks_network.server.gateway.filters import Filter
from blocks_network.server.gateway.names import Names, patterns_of
from blocks_network.server.gateway.rates import PollCounts
from blocks_network.server.gateway.refusals import denial
from blocks_network.server.gateway.reply import Reply
from blocks_network.server.gateway.sending import Held
from blocks_network.server.gateway.wheel import Wheel
from blocks_network.server.limits import Limits

if TYPE_CHECKING:
    from blocks_network.server.access.authorizer import Grant
    from blocks_network.server.gateway.app import Groups

__all__ = ["Poll", "Polls", "Selection"]

log = logging.getLogger(__name__)

SOON_S = 0.1
"""A reader waits no shorter, so that it does not become due again in the turn in which it was."""
FEW = 16
"""Polls that are answered in the turn of the publish that wakes them."""


class Selection:
    """Which messages a reader gets: those of its names that its filter lets pass, up to the limit of an answer."""

    __slots__ = ("_envelopes", "_limit", "filter", "names")

    def __init__(self, names: Names, passes: Filter | None, limit: int, envelopes: Envelopes) -> None:
        self.names, self.filter, self._limit, self._envelopes = names, passes, limit, envelopes

    def choose(self, messages: Sequence[Message]) -> tuple[list[bytes], int | None]:
        """Their envelopes; and the cursor to stop at when the answer is full before the messages end, else None."""
        chosen: list[bytes] = []
        for message in messages:
            name = self.names.match(message.draft.channel)
            if name is None and message.also is not None:
                name = self.names.match(message.also)
            if name is None or (self.filter is not None and not self.filter(message.draft)):
                continue
            chosen.append(self._envelopes.encode(message, name))
            if len(chosen) == self._limit and message is not messages[-1]:
                return chosen, message.timetoken
        return chosen, None


class Poll(Held):
    """One waiting request. It ends by news, at its deadline, with its token, or when its client leaves."""

    __slots__ = ("_news", "_polls", "address", "grant", "keyset", "selection", "slot")

    def __init__(self, polls: Polls, keyset: str, selection: Selection, grant: Grant | None, address: str) -> None:
        super().__init__()
        self._polls, self.keyset, self.selection, self.grant, self.address = polls, keyset, selection, grant, address
        self._news: list[Message] | None = None
        self.slot = 0

    @property
    def token_id(self) -> str | None:
        """None without a token: who signs shares one secret with all others, and is counted by address alone."""
        return self.grant.token_id or None if self.grant is not None else None

    def hear(self, message: Message) -> None:
        """A message of one of its channels became visible. Answered with all that became visible with it."""
        if self._news is None:
            self._news = [message]
            self._polls.with_news.append(self)
        elif self._news[-1] is not message:  # it may match by several names
            self._news.append(message)

    def tell_news(self) -> None:
        news, self._news = self._news, None
        while news and self.answered is None:
            envelopes, cursor = self.selection.choose(news)
            if envelopes and self.tell(envelopes, cursor):
                self._polls.delivered += len(envelopes)
            news = [message for message in news if message.timetoken > cursor] if cursor is not None else None

    def tell(self, envelopes: Iterable[bytes], cursor: int | None) -> bool:
        """Answers. Without a cursor: up to what is visible now, all of which it has been asked about."""
        return self.answer(Reply(200, answer_body(self._polls.bus.now() if cursor is None else cursor, envelopes)))

    def due(self) -> None:
        """Its deadline has passed: that of the wait, or of its token."""
        expires_at_s = self.grant.expires_at_s if self.grant is not None else None
        if expires_at_s is not None and time.time() >= expires_at_s:
            self.deny("Token is expired.")
        else:
            self.release()

    def release(self) -> None:
        """Answers with what it has heard, if it is nothing."""
        self.tell_news()
        self.tell((), None)

    def deny(self, message: str) -> None:
        self.answer(denial(Denied(message, cause="4001")).reply)

    def left(self) -> None:
        self._polls.remove(self)


class Polls:
    """All waiting polls, found by channel, wildcard, group and token. Belongs to one loop."""

    def __init__(self, bus: Bus, limits: Limits) -> None:
        self.bus, self._limits = bus, limits
        self.counts = PollCounts(limits)
        self.delivered = 0
        """Messages in all answers so far, those of requests that did not have to wait included."""
        self.with_news: list[Poll] = []
        """Those that have heard something and were not answered yet."""
        self.releasing = False
        """Nobody waits any more: the gateway ends."""
        self._telling: asyncio.Handle | None = None
        self._wheel = Wheel(slot_s=min(1.0, limits.hold_s / 8))
        self._by_channel: dict[tuple[str, str], dict[Poll, None]] = {}
        self._by_wildcard: dict[tuple[str, str], dict[Poll, None]] = {}
        self._by_group: dict[tuple[str, str], dict[Poll, None]] = {}
        self._by_token: dict[str, dict[Poll, None]] = {}
        self._all: dict[Poll, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def hold(self, poll: Poll) -> None:
        """From here on it is woken. 429 when its token or its address has too many."""
        self.counts.begin(poll.address, poll.token_id)
        if poll.grant is not None:
            _into(self._by_token, poll.grant.token_id, poll)
        self.hold_on(poll)
        self._all[poll] = None
        names = poll.selection.names
        for channel in names.heard():
            _into(self._by_channel, (poll.keyset, channel), poll)
        for wildcard in names.wildcards:
            _into(self._by_wildcard, (poll.keyset, wildcard), poll)
        for group in names.groups:
            _into(self._by_group, (poll.keyset, group), poll)

    def hold_on(self, poll: Poll) -> None:
        """Its deadline is a whole wait ahead, or the end of its token."""
        wait_s = self._limits.hold_s
        if poll.grant is not None and poll.grant.expires_at_s is not None:
            wait_s = min(wait_s, max(SOON_S, poll.grant.expires_at_s - time.time()))
        poll.slot = self._wheel.add(poll, asyncio.get_running_loop().time() + wait_s)

    def remove(self, poll: Poll) -> None:
        """It waits no more. May be repeated."""
        if poll not in self._all:
            return
        del self._all[poll]
        grant = poll.grant
        self.counts.end(poll.address, poll.token_id)
        self._wheel.discard(poll, poll.slot)
        if grant is not None:
            _out_of(self._by_token, grant.token_id, poll)
        names = poll.selection.names
        for channel in names.heard():
            _out_of(self._by_channel, (poll.keyset, channel), poll)
        for wildcard in names.wildcards:
            _out_of(self._by_wildcard, (poll.keyset, wildcard), poll)
        for group in names.groups:
            _out_of(self._by_group, (poll.keyset, group), poll)

    def deliver(self, message: Message) -> None:
        """Told by the bus of every message."""
        keyset, channel = message.draft.keyset, message.draft.channel
        waiting = self._by_channel.get((keyset, channel))
        if waiting is not None:
            for poll in waiting:
                poll.hear(message)
        if message.also is not None:
            for poll in self._by_channel.get((keyset, message.also), ()):
                poll.hear(message)
        if self._by_wildcard:
            for pattern in patterns_of(channel):
                for poll in self._by_wildcard.get((keyset, pattern), ()):
                    poll.hear(message)

    def settled(self) -> None:
        """Told by the bus after the last of the messages that became visible together.

        A few readers are answered before the publisher. Of many, it does not have to wait for all.
        """
        if len(self.with_news) <= FEW:
            self._tell_news()
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell_news)

    def _tell_news(self) -> None:
        self._telling = None
        polls, self.with_news = self.with_news, []
        for poll in polls:
            try:
                poll.tell_news()
            except Exception:  # the edge to one reader: the others are told all the same
                log.exception("a reader was not told its news")

    def regroup(self, groups: Groups, keyset: str, group: str) -> None:
        """A group's members changed: those who wait for it hear the new ones from here on."""
        for name in (group, f"{group}-pnpres"):
            for poll in self._by_group.get((keyset, name), ()):
                names = poll.selection.names
                for channel in names.heard():
                    _out_of(self._by_channel, (keyset, channel), poll)
                names.regroup(lambda one: groups.channels_of(keyset, one))
                for channel in names.heard():
                    _into(self._by_channel, (keyset, channel), poll)

    def revoked(self, token_id: str) -> None:
        """Ends the waits of a token."""
        for poll in list(self._by_token.get(token_id, ())):
            poll.deny("Token is revoked")

    def release(self) -> None:
        """Answers all with an empty list; from here on nobody waits."""
        self.releasing = True
        for poll in list(self._all):
            poll.release()

    def stop(self) -> None:
        self._wheel.stop()


def _into(index: dict[Any, dict[Poll, None]], key: Any, poll: Poll) -> None:
    index.setdefault(key, {})[poll] = None


def _out_of(index: dict[Any, dict[Poll, None]], key: Any, poll: Poll) -> None:
    there = index.get(key)
    if there is not None:
        there.pop(poll, None)
        if not there:
            del index[key]
