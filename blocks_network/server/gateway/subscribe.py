"""Subscribe v2: a handshake, or a long poll from a cursor on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import Message
from blocks_network.server.gateway.envelope import REGION, Envelopes, answer_body
from blocks_network.server.gateway.filters import Filter, FilterError, compile_filter
from blocks_network.server.gateway.joins import joined, named
from blocks_network.server.gateway.names import Names
from blocks_network.server.gateway.polls import Poll, Selection
from blocks_network.server.gateway.reply import Reply, bad_request
from blocks_network.server.gateway.request import Request
from blocks_network.server.limits import Limits
from blocks_network.wire.timetokens import ANY_REGION

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Subscribing", "routes"]


def routes(gateway: Gateway) -> None:
    subscribing = Subscribing(gateway)
    gateway.add("GET", "/v2/subscribe/{sub}/{channels}/0", subscribing.subscribe, service="Subscribe")


_REGIONS = (ANY_REGION, str(REGION))


class Subscribing:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._bus, self._limits = gateway, gateway.bus, gateway.limits
        self._envelopes = Envelopes()

    async def subscribe(self, request: Request, keyset: Keyset) -> Reply | Poll:
        key = keyset.subscribe_key
        names = named(self._gateway, request, key, request.names(3))
        grant = self._gateway.authorize(request, keyset, names.needs())
        passes = _compiled(request.query.get("filter-expr", ""), self._limits)
        cursor = request.number("tt", 0) or 0
        if not cursor:
            cursor = await self._bus.current()  # before the join, so that its event is among what follows
            joined(self._gateway, request, key, names)
            return Reply(200, answer_body(cursor, ()))
        joined(self._gateway, request, key, names)
        selection = Selection(names, passes, self._limits.messages_per_answer, self._envelopes)
        envelopes, stopped_at = await self._late(key, selection, cursor)
        # Without a region it is a first request with a time of the client's choosing: it waits to be connected. With
        # that of an earlier process, it has to learn that what was in that one's memory is gone.
        at_once = request.query.get("tr", "") not in _REGIONS
        if envelopes or at_once or self._gateway.polls.releasing:
            self._gateway.polls.delivered += len(envelopes)
            return Reply(200, answer_body(self._bus.now() if stopped_at is None else stopped_at, envelopes))
        poll = Poll(self._gateway.polls, key, selection, grant, request.client)
        self._gateway.polls.hold(poll)
        return poll

    async def _late(self, key: str, selection: Selection, cursor: int) -> tuple[list[bytes], int | None]:
        """What is above the cursor already. Without a cursor to stop at, it was all."""
        names, limit = selection.names, self._limits.messages_per_answer
        while True:
            messages = await self._above(key, names, cursor, limit + 1)
            envelopes, stopped_at = selection.choose(messages)
            if stopped_at is None and len(messages) > limit:
                stopped_at = messages[-1].timetoken
            if envelopes or stopped_at is None:
                return envelopes, stopped_at
            cursor = stopped_at  # a whole page was filtered out

    async def _above(self, key: str, names: Names, cursor: int, limit: int) -> list[Message]:
        prefixes = names.prefixes() if names.wildcards else ()
        found = self._bus.tail(key, names.heard(), prefixes, after=cursor, limit=limit)
        if found is None:
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
