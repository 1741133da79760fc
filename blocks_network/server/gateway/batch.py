"""Batch publish, an extension: several messages in one request, each checked and answered as if it came alone.

    POST /v1/publish-batch/{pub}/{sub}?uuid=U
    {"messages": [{"channel", "message", "meta"?, "store"?, "auth"?}, ...]}
    -> {"results": [{"status": 200, "timetoken": "17..."} | {"status": 403, "message": "..."}, ...]}

Order holds for each channel: once a message is refused, those behind it on its channel answer 424 and were not looked
at, so a client that sends them again keeps their order. What was taken is committed together and becomes visible in
the order of the request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import BusFull, Draft
from blocks_network.server.gateway.jsontext import is_utf8
from blocks_network.server.gateway.reply import JSON, Refusal, Reply, bad_request
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Batches", "routes"]


class Item(msgspec.Struct):
    """One message as it was sent. Payload and meta keep their bytes."""

    channel: str
    message: msgspec.Raw
    meta: msgspec.Raw = msgspec.Raw()
    store: bool = True
    auth: str = ""


class Body(msgspec.Struct):
    messages: list[Item]


_decode, _encode = msgspec.json.Decoder(Body).decode, msgspec.json.encode

STREAM_ANSWER = 403
"""The protocol's status for an answer to a set-up, good or bad."""
SKIPPED = {"status": 424, "message": "a message before it on its channel was refused"}
UNAVAILABLE = {"status": 503, "message": "the network cannot store messages at the moment"}


def routes(gateway: Gateway) -> None:
    batches = Batches(gateway)
    gateway.add("POST", "/v1/publish-batch/{pub}/{sub}", batches.publish, service="Publish", operation="publish_batch")


class Batches:
    """One request is as much work as its messages; `limits` bound their number and their bytes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._publishing = gateway, gateway.publishing

    async def publish(self, request: Request, keyset: Keyset) -> Reply:
        self._publishing.check_key(request.pieces[2], keyset)
        body = await request.body()
        items = self._read(body)
        results: list[dict[str, Any]] = [SKIPPED] * len(items)
        taken: list[tuple[int, Draft]] = []
        broken: set[str] = set()
        permitted: dict[tuple[str, str], str] = {}
        for index, item in enumerate(items):
            if item.channel in broken:
                continue
            try:
                draft = self._draft(request, keyset, item, body, permitted)
                answered = await self._publishing.intercepted(draft)
            except Refusal as refusal:
                broken.add(item.channel)
                results[index] = {"status": refusal.reply.status, "message": refusal.reason}
                continue
            if answered is None:
                taken.append((index, draft))
            else:
                results[index] = _answered(answered)
                if answered.status not in (200, STREAM_ANSWER):  # what follows on its channel must not overtake it
                    broken.add(item.channel)
        await self._commit(taken, results)
        return Reply(200, _encode({"results": results}), JSON)

    def _read(self, body: bytes) -> list[Item]:
        try:
            items = _decode(body).messages
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise bad_request(f"Invalid batch: {fault}", "Publish") from None
        most = self._gateway.limits.messages_per_batch
        if not 1 <= len(items) <= most:
            raise bad_request(f"A batch has 1 to {most} messages", "Publish")
        return items

    def _draft(
        self, request: Request, keyset: Keyset, item: Item, body: bytes, permitted: dict[tuple[str, str], str]
    ) -> Draft:
        """Under the item's own token, or as the request as a whole may (its token, or its signature).

        `permitted` is what was found of this request's items, by channel and token: whose rate they take from.
        """
        whom = permitted.get((item.channel, item.auth))
        if whom is None:
            query = {"auth": item.auth, "uuid": request.uuid} if item.auth else request.query
            whom = self._publishing.permitted(request, keyset, item.channel, body, query=query)
            permitted[item.channel, item.auth] = whom
        self._publishing.charge(whom)
        payload = bytes(item.message)
        meta = bytes(item.meta) or None
        for part in (payload, meta):
            if part is not None:
                self._publishing.check(part, self._gateway.limits.message_bytes, is_json=is_utf8)
        return Draft(keyset.subscribe_key, item.channel, payload, request.uuid, meta, stored=item.store)

    async def _commit(self, taken: list[tuple[int, Draft]], results: list[dict[str, Any]]) -> None:
        try:
            timetokens = await self._gateway.bus.publish_all([draft for _, draft in taken])
        except BusFull:
            for index, _ in taken:
                results[index] = UNAVAILABLE
            return
        for (index, _), timetoken in zip(taken, timetokens, strict=True):
            results[index] = {"status": 200, "timetoken": str(timetoken)}


def _answered(reply: Reply) -> dict[str, Any]:
    """What an interceptor said in place of a delivery."""
    if reply.status != 200:
        return {"status": reply.status, "message": reply.body.decode("utf-8", "replace")}
    return {"status": 200, "timetoken": str(json.loads(reply.body)[2])}
