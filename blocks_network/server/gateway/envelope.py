"""Messages as a subscriber gets them. Payload and meta go out byte for byte as they came."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from blocks_network.server.bus import Kind, Message

__all__ = ["REGION", "Envelopes", "answer_body", "quoted"]

REGION = 2 + secrets.randbelow(9_998)
"""Another one at each start, so that a reader learns that the memory of the network that it read before is gone. 0 is
refused by the JavaScript client."""
quoted = msgspec.json.encode
"""A text as a JSON string in UTF-8."""


class Envelopes:
    """Encodes envelopes, the part that all readers share once for the message at hand."""

    __slots__ = ("_latest", "_shared")

    def __init__(self) -> None:
        self._latest: Message | None = None
        self._shared = b""

    def encode(self, message: Message, name: str) -> bytes:
        """`name` is the subscribed one that matched: the channel, a wildcard or a group."""
        if message is not self._latest:
            self._shared, self._latest = _shared(message), message
        return b'%b,"b":%b}' % (self._shared, _name(name))


def _shared(message: Message) -> bytes:
    draft = message.draft
    parts = [
        _head(draft.kind, draft.publisher),
        b"%d" % message.timetoken,
        _place(draft.keyset),
        _name(draft.channel),
        b',"d":',
        draft.payload,
    ]
    if draft.meta is not None:
        parts += b',"u":', draft.meta
    if draft.custom_type is not None:
        parts += b',"cmt":', quoted(draft.custom_type)
    return b"".join(parts)


# What many messages share is encoded once.
@lru_cache(maxsize=1_024)
def _head(kind: Kind, publisher: str) -> bytes:
    event = b"" if kind is Kind.MESSAGE else b',"e":%d' % kind
    issuer = b',"i":%b' % quoted(publisher) if publisher else b""
    return b'{"a":"1","f":514%b%b,"p":{"t":"' % (event, issuer)


@lru_cache(maxsize=256)
def _place(keyset: str) -> bytes:
    return b'","r":%d},"k":%b,"c":' % (REGION, quoted(keyset))


_name = lru_cache(maxsize=1_024)(quoted)


def answer_body(cursor: int, envelopes: Iterable[bytes]) -> bytes:
    """The body of a subscribe answer."""
    return b'{"t":{"t":"%d","r":%d},"m":[%b]}' % (cursor, REGION, b",".join(envelopes))
