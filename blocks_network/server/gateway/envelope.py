"""Messages as a subscriber gets them. Payload and meta go out byte for byte as they came."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

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
        return b'%b,"b":%b}' % (self._shared, quoted(name))


def _shared(message: Message) -> bytes:
    draft = message.draft
    parts = [b'{"a":"1","f":514']
    if draft.kind is not Kind.MESSAGE:
        parts.append(b',"e":%d' % draft.kind)
    if draft.publisher:
        parts.append(b',"i":%b' % quoted(draft.publisher))
    parts.append(
        b',"p":{"t":"%d","r":%d},"k":%b,"c":%b,"d":%b'
        % (message.timetoken, REGION, quoted(draft.keyset), quoted(draft.channel), draft.payload)
    )
    if draft.meta is not None:
        parts.append(b',"u":%b' % draft.meta)
    if draft.custom_type is not None:
        parts.append(b',"cmt":%b' % quoted(draft.custom_type))
    return b"".join(parts)


def answer_body(cursor: int, envelopes: Iterable[bytes]) -> bytes:
    """The body of a subscribe answer."""
    return b'{"t":{"t":"%d","r":%d},"m":[%b]}' % (cursor, REGION, b",".join(envelopes))
