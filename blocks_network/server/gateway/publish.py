"""Publish, fire and signal: a message comes in, is checked, stored, and becomes visible."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote_to_bytes

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import Bus, Draft, Kind
from blocks_network.server.gateway.jsontext import is_json
from blocks_network.server.gateway.names import PRESENCE
from blocks_network.server.gateway.rates import PublishRates
from blocks_network.server.gateway.reply import Refusal, Reply, bad_request
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Options", "Publishing", "routes"]

CUSTOM_TYPE = re.compile(r"[A-Za-z0-9_-]{3,50}")
TTL_MAX_HOURS = 24 * 366 * 100


def routes(gateway: Gateway) -> None:
    publishing = gateway.publishing = Publishing(gateway)
    path = "/publish/{pub}/{sub}/0/{channel}/0"
    gateway.add("POST", path, publishing.publish_body, service="Publish", operation="publish")
    gateway.add("GET", path + "/{json}", publishing.publish_path, service="Publish", operation="publish")
    signal = "/signal/{pub}/{sub}/0/{channel}/0/{json}"
    gateway.add("GET", signal, publishing.signal, service="Publish", operation="signal")


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of a publish, checked."""

    meta: bytes | None
    stored: bool
    ttl_hours: int | None
    custom_type: str | None
    fire: bool

    @classmethod
    def of(cls, request: Request) -> Options:
        """400 for a parameter that is malformed."""
        query = request.query
        meta = query.get("meta")
        raw_meta = meta.encode("utf-8") if meta else None
        if raw_meta is not None and not is_json(raw_meta):
            raise bad_request("Invalid meta", "Publish")
        custom_type = query.get("custom_message_type") or None
        if custom_type is not None and CUSTOM_TYPE.fullmatch(custom_type) is None:
            raise bad_request("Invalid custom_message_type", "Publish")
        stored = query.get("store") != "0"
        # Python says "1" for a fire and JavaScript "true", as both say for a publish that is not to be replicated
        fire = not stored and query.get("norep") in ("1", "true")
        ttl_hours = request.number("ttl", high=TTL_MAX_HOURS)
        return cls(raw_meta, stored, ttl_hours, custom_type, fire)


class Publishing:
    """Takes messages in. Also used by whatever else lets a client publish (file events)."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bus: Bus = gateway.bus
        self._rates = PublishRates(gateway.limits.publishes_per_s)

    async def publish_body(self, request: Request, keyset: Keyset) -> Reply:
        self.check_key(request.pieces[1], keyset)
        limit = self._gateway.limits.message_bytes
        try:
            payload = await request.body(limit)
        except Refusal as refusal:
            if refusal.reply.status != 413:
                raise
            self._refuse("Message Too Large", 413)
        channel = self.allow(request, keyset, request.text(4), payload)
        self.check(payload, limit)
        return await self._publish(request, keyset, channel, payload, Options.of(request))

    async def publish_path(self, request: Request, keyset: Keyset) -> Reply:
        limit = self._gateway.limits.message_bytes
        return await self._publish(request, keyset, *self.from_path(request, keyset, limit))

    async def signal(self, request: Request, keyset: Keyset) -> Reply:
        channel, payload, options = self.from_path(request, keyset, self._gateway.limits.signal_bytes)
        draft = Draft(
            keyset.subscribe_key,
            channel,
            payload,
            request.uuid,
            kind=Kind.SIGNAL,
            custom_type=options.custom_type,
            stored=False,
        )
        return await self.deliver(draft)

    def from_path(
        self, request: Request, keyset: Keyset, limit: int, *, at: tuple[int, int, int] = (1, 4, 6)
    ) -> tuple[str, bytes, Options]:
        """Channel, payload and options of a message that stands in the path, everything checked.

        `at` are the segments of publish key, channel and payload.
        """
        key_at, channel_at, payload_at = at
        self.check_key(request.pieces[key_at], keyset)
        channel = self.allow(request, keyset, request.text(channel_at), b"")
        payload = unquote_to_bytes(request.pieces[payload_at])
        self.check(payload, limit)
        return channel, payload, Options.of(request)

    def check_key(self, publish_key: bytes, keyset: Keyset) -> None:
        """Refuses a publish key that is not the keyset's."""
        if publish_key != keyset.publish_key.encode():
            self._refuse("Invalid Key", 400)

    def allow(self, request: Request, keyset: Keyset, channel: str, body: bytes) -> str:
        """The channel, when its name can be published to and the request may; its rate is charged."""
        self.charge(self.permitted(request, keyset, channel, body))
        return channel

    def charge(self, whom: str) -> None:
        """Takes one message from the rate of `permitted`; 429 when it has none left."""
        self._rates.take(whom)

    def permitted(
        self, request: Request, keyset: Keyset, channel: str, body: bytes, *, query: Mapping[str, str] | None = None
    ) -> str:
        """Whose rate a message to the channel takes from, when its name can be published to and the request may.

        `query` stands in for the request's own where one request holds messages under several tokens.
        """
        if (
            not channel
            or _bytes(channel) > self._gateway.limits.name_bytes
            or PRESENCE in channel  # an envelope there must have a shape that only presence events have
            or "*" in channel
            or "," in channel
            or not channel.isprintable()
        ):
            self._refuse("Invalid Channel", 400)
        if _bytes(request.uuid) > self._gateway.limits.name_bytes:  # it is kept with every message
            raise bad_request("Invalid uuid", request.service)
        grant = self._gateway.authorize(request, keyset, (Need(channel, Bits.WRITE),), body, query=query)
        # without a token the address counts: a uuid is anybody's to choose
        return grant.token_id if grant is not None and grant.token_id else request.client

    async def _publish(self, request: Request, keyset: Keyset, channel: str, payload: bytes, options: Options) -> Reply:
        draft = Draft(
            keyset.subscribe_key,
            channel,
            payload,
            request.uuid,
            options.meta,
            custom_type=options.custom_type,
            stored=options.stored,
            ttl_hours=options.ttl_hours,
        )
        return await self.deliver(draft, fire=options.fire)

    async def deliver(self, draft: Draft, *, fire: bool = False) -> Reply:
        """Asks who intercepts, publishes, and answers as for a publish. A fire is heard by interceptors alone."""
        answered = await self.intercepted(draft)
        if answered is not None:
            return answered
        timetoken = self._bus.now() if fire else await self._bus.publish(draft)
        return Reply(200, b'[1,"Sent","%d"]' % timetoken)

    async def intercepted(self, draft: Draft) -> Reply | None:
        """The answer of whoever owns the channel; None when the message is to be published."""
        for prefix, interceptor in self._gateway.interceptors.items():
            if draft.channel.startswith(prefix):
                answered = await interceptor(draft)
                if answered is not None:
                    return Reply(answered.status, answered.body)
        return None

    def check(self, payload: bytes, limit: int, *, is_json: Callable[[bytes], bool] = is_json) -> None:
        """Refuses a message that is too large, or no JSON: for a part of what was read as JSON, its encoding tells."""
        if len(payload) > limit:
            self._refuse("Message Too Large", 413)
        if not is_json(payload):
            self._refuse("Invalid JSON", 400)

    def _refuse(self, message: str, status: int) -> NoReturn:
        body = b'[0,"%b","%d"]' % (message.encode(), self._bus.now())
        raise Refusal(Reply(status, body), message.lower().replace(" ", "_"))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
