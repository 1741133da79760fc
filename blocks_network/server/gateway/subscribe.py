"""Subscribe v2: a handshake, or a long poll from a cursor on; and the same as one answer that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import Message
from blocks_network.server.gateway.envelope import REGION, Envelopes, answer_body
from blocks_network.server.gateway.filters import Filter, FilterError, compile_filter
from blocks_network.server.gateway.joins import joined, members_of, named
from blocks_network.server.gateway.polls import Poll, Selection
from blocks_network.server.gateway.pushes import Push
from blocks_network.server.gateway.reply import Reply, bad_request
from blocks_network.server.gateway.request import Request
from blocks_network.server.limits import Limits
from blocks_network.wire.timetokens import ANY_REGION

if TYPE_CHECKING:
    from blocks_network.server.access.authorizer import Grant
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Subscribing", "routes"]


def routes(gateway: Gateway) -> None:
    subscribing = Subscribing(gateway)
    gateway.add("GET", "/v2/subscribe/{sub}/{channels}/0", subscribing.subscribe, service="Subscribe")
    gateway.add("GET", "/v2/stream/{sub}/{channels}/0", subscribing.stream, service="Subscribe")


_REGIONS = (ANY_REGION, str(REGION))


@dataclass(slots=True)
class _Reading:
    """A reader, and what there is for it at once."""

    keyset: str
    selection: Selection
    grant: Grant | None
    is_new: bool
    """It has no cursor yet."""
    cursor: int
    """Up to here it has been looked."""
    envelopes: list[bytes]
    more: bool = False
    """There is more above the cursor."""
    was_awaited: bool = False
    """Others had their turn since the request was allowed."""

    @property
    def answer(self) -> bytes:
        return answer_body(self.cursor, self.envelopes)


class Subscribing:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._bus, self._limits = gateway, gateway.bus, gateway.limits
        self._envelopes = Envelopes()

    async def subscribe(self, request: Request, keyset: Keyset) -> Reply | Poll:
        reading = await self._read(request, keyset)
        self._check_again(request, keyset, reading)
        return self._poll(request, reading)

    async def stream(self, request: Request, keyset: Keyset) -> Reply | Poll:
        """Answers at once, and again and again as there is news (the extension `subscribe-stream`)."""
        reading = await self._read(request, keyset)
        if reading.is_new:  # something may have become visible meanwhile, and nobody will ask for it
            await self._look(reading)
        self._check_again(request, keyset, reading)
        polls = self._gateway.polls
        if not (reading.more or polls.releasing):
            key, selection = reading.keyset, reading.selection
            touch = partial(joined, self._gateway, request, key, selection.names)
            push = Push(polls, key, selection, reading.grant, request.client, touch)
            polls.hold(push)
            if push.begin(request.scope, reading.answer):
                polls.delivered += len(reading.envelopes)
                return push
            polls.remove(push)
        return self._poll(request, reading)

    def _poll(self, request: Request, reading: _Reading) -> Reply | Poll:
        # Without a region it is a first request with a time of the client's choosing: it waits to be connected. With
        # that of an earlier process, it has to learn that what was in that one's memory is gone.
        at_once = reading.is_new or request.query.get("tr", "") not in _REGIONS
        polls = self._gateway.polls
        if reading.envelopes or at_once or polls.releasing:
            polls.delivered += len(reading.envelopes)
            return Reply(200, reading.answer)
        poll = Poll(polls, reading.keyset, reading.selection, reading.grant, request.client)
        polls.hold(poll)
        return poll

    async def _read(self, request: Request, keyset: Keyset) -> _Reading:
        key = keyset.subscribe_key
        names = named(self._gateway, request, key, request.names(3))
        grant = self._gateway.authorize(request, keyset, names.needs())
        passes = _compiled(request.query.get("filter-expr", ""), self._limits)
        selection = Selection(names, passes, self._limits.messages_per_answer, self._envelopes)
        cursor = request.number("tt", 0) or 0
        reading = _Reading(key, selection, grant, not cursor, cursor, [])
        if reading.is_new:
            reading.was_awaited = True
            reading.cursor = await self._bus.current()  # before the join, so that its event is among what follows
        joined(self._gateway, request, key, names)
        if not reading.is_new:
            await self._look(reading)
        return reading

    def _check_again(self, request: Request, keyset: Keyset, reading: _Reading) -> None:
        """While the log was asked, a token may have ended and a group's members changed: nobody waited to hear of it.

        Between here and a wait that begins nothing may be awaited.
        """
        if reading.was_awaited:
            names = reading.selection.names
            self._gateway.authorize(request, keyset, names.needs())
            names.regroup(members_of(self._gateway, reading.keyset))

    async def _look(self, reading: _Reading) -> None:
        reading.envelopes, stopped_at = await self._late(reading)
        reading.cursor, reading.more = self._bus.now() if stopped_at is None else stopped_at, stopped_at is not None

    async def _late(self, reading: _Reading) -> tuple[list[bytes], int | None]:
        """What is above the cursor already. Without a cursor to stop at, it was all."""
        cursor, limit = reading.cursor, self._limits.messages_per_answer
        while True:
            messages = await self._above(reading, cursor, limit + 1)
            envelopes, stopped_at = reading.selection.choose(messages)
            if stopped_at is None and len(messages) > limit:
                stopped_at = messages[-1].timetoken
            if envelopes or stopped_at is None:
                return envelopes, stopped_at
            cursor = stopped_at  # a whole page was filtered out

    async def _above(self, reading: _Reading, cursor: int, limit: int) -> list[Message]:
        key, names = reading.keyset, reading.selection.names
        prefixes = names.prefixes() if names.wildcards else ()
        found = self._bus.tail(key, names.heard(), prefixes, after=cursor, limit=limit)
        if found is None:
            reading.was_awaited = True
            found = await self._bus.catch_up(key, list(names.heard()), prefixes, after=cursor, limit=limit)
        return found


def _compiled(text: str, limits: Limits) -> Filter | None:
    """None for no filter; 400 for one that is too long or malformed."""
    if not text.strip():
        return None
    try:
        return _compile(text, limits.filter_chars, limits.filter_depth)
    except FilterError as fault:
        raise bad_request(f"Invalid filter expression: {fault}", "Subscribe") from None


@lru_cache(maxsize=256)
def _compile(text: str, max_chars: int, max_depth: int) -> Filter:
    return compile_filter(text, max_chars=max_chars, max_depth=max_depth)
