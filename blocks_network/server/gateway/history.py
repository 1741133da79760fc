"""History: fetch v3, message counts, delete, and history v2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import Kind, Message
from blocks_network.server.gateway.envelope import quoted
from blocks_network.server.gateway.reply import Reply, bad_request, json_reply
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["History", "item_of", "routes"]

MAX_OF_ONE = 100
MAX_OF_SEVERAL = 25
COUNT_MAX = 10_000
FINE = {"status": 200, "error": False, "error_message": ""}


def routes(gateway: Gateway) -> None:
    history = History(gateway)
    base = "/v3/history/sub-key/{sub}"
    gateway.add("GET", f"{base}/channel/{{channels}}", history.fetch, service="History")
    gateway.add("DELETE", f"{base}/channel/{{channel}}", history.delete, service="History", operation="history_delete")
    gateway.add("GET", f"{base}/message-counts/{{channels}}", history.message_counts, service="History")
    gateway.add("GET", "/v2/history/sub-key/{sub}/channel/{channel}", history.history_v2, service="History")


class History:
    """`start` and `end` as the protocol has them: paging backward, `start` is the newer bound and exclusive, `end` the
    older and inclusive; paging forward (`reverse`, or a `start` below `end`) the other way round.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._bus, self._limits = gateway, gateway.bus, gateway.limits

    async def fetch(self, request: Request, keyset: Keyset) -> Reply:
        channels = self.allowed_channels(request, keyset, 5, Bits.READ)
        most = MAX_OF_ONE if len(channels) == 1 else MAX_OF_SEVERAL
        limit = request.number("max", most, low=1, high=most) or most
        fields = []
        for channel in channels:
            messages = await self.page(request, keyset, channel, limit)
            if messages:
                items = b",".join(item_of(message, request) for message in messages)
                fields.append(b"%b:[%b]" % (quoted(channel), items))
        body = b'{"status":200,"error":false,"error_message":"","channels":{%b}}' % b",".join(fields)
        return Reply(200, body)

    async def history_v2(self, request: Request, keyset: Keyset) -> Reply:
        (channel,) = self.allowed_channels(request, keyset, 5, Bits.READ)[:1]
        limit = request.number("count", MAX_OF_ONE, low=1, high=MAX_OF_ONE) or MAX_OF_ONE
        messages = await self.page(request, keyset, channel, limit)
        if not messages:
            return Reply(200, b"[[],0,0]")
        items = b",".join(_item_v2(message, request) for message in messages)
        return Reply(200, b"[[%b],%d,%d]" % (items, messages[0].timetoken, messages[-1].timetoken))

    async def message_counts(self, request: Request, keyset: Keyset) -> Reply:
        channels = self.allowed_channels(request, keyset, 5, Bits.READ)
        text = request.query.get("channelsTimetoken") or request.query.get("timetoken", "")
        tokens = text.split(",")
        if not all(token.isascii() and token.isdigit() and len(token) < 20 for token in tokens):
            raise bad_request("Invalid timetoken", "History")
        if len(tokens) == 1:
            tokens *= len(channels)
        if len(tokens) != len(channels):
            raise bad_request("Number of timetokens does not match the channels", "History")
        counts = {
            channel: await self._bus.count(keyset.subscribe_key, channel, after=int(token), limit=COUNT_MAX)
            for channel, token in zip(channels, tokens, strict=True)
        }
        return json_reply({**FINE, "channels": counts})

    async def delete(self, request: Request, keyset: Keyset) -> Reply:
        """`start < timetoken <= end`; without bounds everything."""
        (channel,) = self.allowed_channels(request, keyset, 5, Bits.DELETE)[:1]
        start, end = request.number("start"), request.number("end")
        before = end + 1 if end is not None else None
        await self._bus.delete(keyset.subscribe_key, channel, after=start, before=before)
        return json_reply(FINE)

    def allowed_channels(self, request: Request, keyset: Keyset, index: int, bits: Bits) -> list[str]:
        channels = request.names(index)
        if not channels:
            raise bad_request("No channels", "History")
        if len(channels) > self._limits.channels_per_request:
            raise bad_request("Too many channels", "History")
        self._gateway.authorize(request, keyset, [Need(name, bits) for name in channels])
        return channels

    async def page(self, request: Request, keyset: Keyset, channel: str, limit: int) -> list[Message]:
        start, end = request.number("start"), request.number("end")
        forward = request.flag("reverse")
        forward_range = start < end if start is not None and end is not None else forward
        if forward_range:
            after, before = start, (end + 1 if end is not None else None)
        else:
            after, before = (end - 1 if end is not None else None), start
        return await self._bus.history(
            keyset.subscribe_key, channel, after=after, before=before, limit=limit, newest=not forward
        )


def item_of(message: Message, request: Request) -> bytes:
    """One message of fetch v3, with what the request asks for."""
    draft = message.draft
    parts = [b'{"message":%b,"timetoken":"%d"' % (draft.payload, message.timetoken)]
    if request.flag("include_meta"):
        parts.append(b',"meta":%b' % (draft.meta if draft.meta is not None else b'""'))
    if request.flag("include_uuid"):
        parts.append(b',"uuid":%b' % quoted(draft.publisher))
    if request.flag("include_message_type"):
        kind = b"null" if draft.kind is Kind.MESSAGE else b"%d" % draft.kind
        parts.append(b',"message_type":%b' % kind)
    if request.flag("include_custom_message_type") and draft.custom_type is not None:
        parts.append(b',"custom_message_type":%b' % quoted(draft.custom_type))
    parts.append(b"}")
    return b"".join(parts)


def _item_v2(message: Message, request: Request) -> bytes:
    """The bare message, or an object with what was asked for."""
    draft = message.draft
    with_token, with_meta = request.flag("include_token"), request.flag("include_meta")
    if not (with_token or with_meta):
        return draft.payload
    parts = [b'{"message":%b' % draft.payload]
    if with_token:
        parts.append(b',"timetoken":%d' % message.timetoken)
    if with_meta:
        parts.append(b',"meta":%b' % (draft.meta if draft.meta is not None else b'""'))
    return b"".join(parts) + b"}"
