"""Requests signed with a keyset's secret key: version 2, and the older forms that clients still send.

What is signed is `METHOD\\n{publish key}\\n{path}\\n{query}\\n{body}` with the query sorted and percent-encoded in the
protocol's own strict way. Clients differ in what they encode before signing; `signed` accepts each known reading.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator, Mapping
from itertools import product
from urllib.parse import quote, unquote

from blocks_network.server.access.keysets import Keyset

__all__ = ["SignatureCheck", "within_skew"]

ENCODED_FIRST = frozenset({"channel-group", "custom_message_type", "filter-expr", "meta", "state"})
"""Parameters that some clients encode before signing, so that the signature covers the encoding of the encoding."""


class SignatureCheck:
    """One request's signature against one keyset. `body` is the body as sent, before compression."""

    def __init__(
        self, keyset: Keyset, *, method: str, raw_path: str, raw_query: bytes, query: Mapping[str, str], body: bytes
    ) -> None:
        self._keyset = keyset
        self._method, self._raw_path, self._raw_query = method, raw_path, raw_query
        self._query, self._body = query, body

    def holds(self) -> bool:
        """True when `signature` fits one of the forms. Compares in constant time; costs a few hashes, no more."""
        given = self._query.get("signature", "").encode("utf-8", "replace")
        version_2 = given.startswith(b"v2.")
        if not version_2 and not self._posted_publish:
            return False
        secret = self._keyset.secret_key.encode()
        for text, body in self._texts(version_2):
            digest = hmac.new(secret, text.encode("utf-8", "surrogatepass"), "sha256")
            digest.update(body)
            encoded = base64.urlsafe_b64encode(digest.digest())
            expected = b"v2." + encoded.rstrip(b"=") if version_2 else encoded
            if hmac.compare_digest(given, expected):
                return True
        return False

    @property
    def _posted_publish(self) -> bool:
        return self._method == "POST" and self._raw_path.startswith("/publish/")

    def _texts(self, version_2: bool) -> Iterator[tuple[str, bytes]]:
        """All that may have been signed, the likeliest first: the text up to the body, and the body."""
        publish_key, subscribe_key = self._keyset.publish_key, self._keyset.subscribe_key
        for query in self._queries():
            for path in self._paths():
                if not version_2:
                    yield f"{subscribe_key}\n{publish_key}\n{path}\n{query}", b""
                    continue
                yield f"{self._method}\n{publish_key}\n{path}\n{query}\n", self._body
                if self._posted_publish:  # the JavaScript client signs it as if it were a GET
                    yield f"GET\n{publish_key}\n{path}\n{query}\n", b""

    def _paths(self) -> list[str]:
        """As it came; and with its end decoded, as a client signs a file's name before its HTTP library encodes it."""
        front, slash, name = self._raw_path.rpartition("/")
        decoded = front + slash + unquote(name)
        return [self._raw_path] if decoded == self._raw_path else [self._raw_path, decoded]

    def _queries(self) -> Iterator[str]:
        once = {name: _strict(value) for name, value in self._query.items() if name != "signature"}
        again = {
            name: _strict(value)
            for name, value in self._raw_pairs().items()
            if name in ENCODED_FIRST and once.get(name) != _strict(value)
        }
        for choice in product((False, True), repeat=len(again)):
            chosen = dict(once)
            for name, twice in zip(again, choice, strict=True):
                if twice:
                    chosen[name] = again[name]
            yield "&".join(f"{name}={chosen[name]}" for name in sorted(chosen))

    def _raw_pairs(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for pair in self._raw_query.decode("latin-1").split("&"):
            name, _, value = pair.partition("=")
            found.setdefault(name, value)
        return found


def _strict(value: str) -> str:
    """Only letters, digits and `-_.` stay bare; `~` does not."""
    return quote(value, safe="").replace("~", "%7E")


def within_skew(timestamp: str | None, now_s: float, skew_s: int) -> bool:
    """Whether a request's own clock (seconds, as text) is at most `skew_s` off ours."""
    if timestamp is None or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        return False
    return abs(int(timestamp) - now_s) <= skew_s
