"""One request of the PubNub protocol: its path split before it is decoded, its query, its bounded body."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from blocks_network.server.gateway.reply import Refusal, bad_request, json_reply, too_large
from blocks_network.server.http.headers import header_of
from blocks_network.server.limits import Limits

__all__ = ["Receive", "Request", "Scope", "Send", "is_from_browser"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Request:
    """`pieces` are the raw path segments after the leading slash; `text` and `names` decode them.

    Clients encode `/` as %2F and `,` as %2C inside names, so decoding comes last.
    """

    __slots__ = ("_receive", "client", "limits", "method", "pieces", "query", "raw_query", "scope", "service")

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, service: str = "Gateway") -> None:
        self.scope, self._receive, self.limits, self.service = scope, receive, limits, service
        self.method: str = scope["method"]
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.raw_query: bytes = scope.get("query_string", b"")
        if len(raw_path) + len(self.raw_query) > limits.address_bytes:
            raise Refusal(
                json_reply(
                    {"status": 414, "service": "Balancer", "error": True, "message": "Request URI Too Long"}, 414
                ),
                "too_long",
            )
        self.pieces: list[bytes] = raw_path.partition(b"?")[0].split(b"/")[1:]
        self.query: dict[str, str] = self._parse_query(self.raw_query)
        self.client: str = (scope.get("client") or ("", 0))[0]

    def _parse_query(self, raw: bytes) -> dict[str, str]:
        """Pairs are cut at their first `=` (tokens hold more), `+` is a space; the first of a name counts."""
        found: dict[str, str] = {}
        for pair in raw.split(b"&"):
            if pair:
                name, _, value = pair.partition(b"=")
                found.setdefault(self._decode(name.replace(b"+", b" ")), self._decode(value.replace(b"+", b" ")))
        return found

    def _decode(self, raw: bytes) -> str:
        try:
            return unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise bad_request("Invalid UTF-8 in the address", self.service) from None

    @property
    def raw_path(self) -> str:
        return "/" + b"/".join(self.pieces).decode("latin-1")

    @property
    def uuid(self) -> str:
        return self.query.get("uuid", "")

    @property
    def from_browser(self) -> bool:
        """Whether a page of another origin asks: browsers say so, and nobody else does."""
        return is_from_browser(self.scope)

    def header(self, name: str) -> str:
        """A header's value, "" without it. `name` is in lower case."""
        return header_of(self.scope, name.encode("latin-1")).decode("latin-1")

    def text(self, index: int) -> str:
        """The decoded path segment; 404 is the router's matter, so it must exist."""
        return self._decode(self.pieces[index])

    def names(self, index: int) -> list[str]:
        """A comma-separated segment as decoded names, without empty ones and doubles; "," alone is none."""
        return self._split(self.pieces[index])

    def query_names(self, parameter: str) -> list[str]:
        """The same for a query parameter, split in its raw form."""
        for pair in self.raw_query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if self._decode(name) == parameter:
                return self._split(value)
        return []

    def _split(self, raw: bytes) -> list[str]:
        seen: dict[str, None] = {}
        for piece in raw.split(b","):
            if not piece:
                continue
            name = self._decode(piece)
            # the Python client encodes group lists twice in places; a comma that survived one decoding ends a name
            for single in name.split(","):
                if single:
                    if len(single.encode()) > self.limits.name_bytes:
                        raise bad_request("Name too long", self.service)
                    if any(ord(char) < 32 or ord(char) == 127 for char in single):
                        raise bad_request("Control character in a name", self.service)
                    seen.setdefault(single)
        return list(seen)

    def number(self, parameter: str, default: int | None = None, *, low: int = 0, high: int = 10**18) -> int | None:
        """A whole number of the query within bounds; 400 when it is something else."""
        text = self.query.get(parameter, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise bad_request(f"Invalid {parameter}", self.service)
        return max(low, min(high, int(text)))

    def flag(self, parameter: str) -> bool:
        return self.query.get(parameter, "").lower() in ("1", "true")

    async def gone(self) -> None:
        """Returns when the client has gone, or the answer is sent. What is left of the body is dropped."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, never held whole and never inflated. ConnectionError when the client leaves."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client left while it sent its request")
            chunk: bytes = message.get("body", b"")
            if chunk:
                yield chunk
            if not message.get("more_body"):
                return

    async def body(self, limit_bytes: int | None = None) -> bytes:
        """The whole body, inflated when its first bytes say so (the encoding header lies), within the limit."""
        limit = self.limits.body_bytes if limit_bytes is None else limit_bytes
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client left while it sent its request")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise too_large()
            chunks.append(chunk)
            if not message.get("more_body"):
                break
        raw = b"".join(chunks)
        encoded = any(name == b"content-encoding" for name, _ in self.scope.get("headers", ()))
        return _inflate(raw, limit) if encoded else raw


def is_from_browser(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope.get("headers", ()))


def _inflate(raw: bytes, limit: int) -> bytes:
    """gzip, zlib or raw deflate by the first bytes, refused as too large beyond `limit`."""
    window = 31 if raw[:2] == b"\x1f\x8b" else 15 if raw[:1] == b"\x78" else -15
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(raw, limit + 1)
    except zlib.error:
        return raw  # said to be compressed, but is not
    if len(plain) > limit or inflater.unconsumed_tail:
        raise too_large()
    return plain
