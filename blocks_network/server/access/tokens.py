"""Capability tokens of the PubNub protocol, version 2: a signed CBOR map of resources and permission bits.

The map is as the clients read it: format keys are byte strings, names are text strings, `sig` comes last. `sig` is
HMAC-SHA256 under the keyset's secret over the encoding of the map without it. It is checked on the raw bytes, so that
nothing is decoded which this keyset has not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import cbor2

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.patterns import Pattern
from blocks_network.server.access.permissions import Bits, Denied, Grant
from blocks_network.server.access.revocations import Revocations
from blocks_network.server.limits import Limits

__all__ = ["CapabilityTokens", "MAX_TTL_MINUTES", "Token", "prefix_pattern"]

log = logging.getLogger(__name__)

MAX_TTL_MINUTES = 43_200
"""Thirty days: the protocol's own bound."""
MAP, EMPTY_MAP = 0xA0, b"\xa0"
"""The first byte of a map in CBOR, to which the number of its entries is added, up to 23 of them."""
SIGNATURE_KEY = b"\x43sig\x58\x20"
SIGNATURE_BYTES = 32
NAMES_REMEMBERED = 256
"""Results of pattern matches kept with a token: more names than a busy token uses."""
ALL_BITS = int(Bits.READ | Bits.WRITE | Bits.MANAGE | Bits.DELETE | Bits.CREATE | Bits.GET | Bits.UPDATE | Bits.JOIN)


class Token:
    """A verified token. `uuid` None binds it to nobody; `grant` is what a request that it allowed is given."""

    __slots__ = ("_channels", "_group_patterns", "_groups", "_patterns", "_remembered", "grant", "token_id", "uuid")

    def __init__(
        self,
        token_id: str,
        expires_at_s: float,
        uuid: str | None,
        channels: Mapping[str, int],
        groups: Mapping[str, int],
        patterns: Sequence[tuple[Pattern, int]],
        group_patterns: Sequence[tuple[Pattern, int]],
    ) -> None:
        self.token_id, self.uuid = token_id, uuid
        self.grant = Grant(token_id, expires_at_s)
        self._channels, self._groups = channels, groups
        self._patterns, self._group_patterns = patterns, group_patterns
        self._remembered: dict[tuple[str, bool], int] = {}

    @classmethod
    def read(cls, token_id: str, content: Mapping[bytes, Any], limits: Limits) -> Token:
        """Raises ValueError for a map that is not a token's."""
        try:
            issued_s, ttl_minutes = content[b"t"], content[b"ttl"]
            resources, patterns = content[b"res"], content[b"pat"]
            if content[b"v"] != 2 or not isinstance(issued_s, int) or not isinstance(ttl_minutes, int):
                raise ValueError("version, time or ttl")
            uuid: str | None = content.get(b"uuid")
            if uuid is not None and not isinstance(uuid, str):
                raise ValueError("uuid")
            return cls(
                token_id,
                float(issued_s + 60 * ttl_minutes),
                uuid,
                _bits_by_name(resources[b"chan"]),
                _bits_by_name(resources[b"grp"]),
                _compiled(patterns[b"chan"], limits),
                _compiled(patterns[b"grp"], limits),
            )
        except (KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"no token: {fault!r}") from None

    @property
    def expires_at_s(self) -> float:
        assert self.grant.expires_at_s is not None
        return self.grant.expires_at_s

    def bits_on(self, name: str, *, group: bool = False) -> int:
        """The union of the bits of the exact entry and of all patterns that are found in the name."""
        key = (name, group)
        bits = self._remembered.get(key)
        if bits is None:
            exact, patterns = (self._groups, self._group_patterns) if group else (self._channels, self._patterns)
            bits = exact.get(name, 0)
            for pattern, more in patterns:
                if more & ~bits and pattern.found_in(name):
                    bits |= more
            if len(self._remembered) < NAMES_REMEMBERED:
                self._remembered[key] = bits
        return bits


class CapabilityTokens:
    """Mints and verifies tokens. No I/O. A token seen before costs a look-up; the cache is bounded by its texts' size.

    Belongs to the event loop, but for `mint`, which any thread may call.
    """

    def __init__(
        self,
        revocations: Revocations | None = None,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.revocations = Revocations(clock=clock) if revocations is None else revocations
        self._limits, self._clock = limits or Limits(), clock
        self._verified: OrderedDict[tuple[str, str], Token] = OrderedDict()
        self._verified_chars = 0

    def mint(
        self,
        keyset: Keyset,
        *,
        ttl_minutes: int,
        channels: Mapping[str, Bits | int] | None = None,
        groups: Mapping[str, Bits | int] | None = None,
        uuids: Mapping[str, Bits | int] | None = None,
        patterns: Mapping[str, Bits | int] | None = None,
        group_patterns: Mapping[str, Bits | int] | None = None,
        uuid_patterns: Mapping[str, Bits | int] | None = None,
        uuid: str | None = None,
        meta: Mapping[str, Any] | None = None,
        shown_soon: bool = False,
    ) -> str:
        """A token's text. `patterns` are searched in names, so anchor them (`prefix_pattern`).

        `shown_soon`: it will be verified in a moment, and is remembered as one that was (in the event loop alone).

        Raises ValueError for a ttl out of range, wrong bits, a pattern that does not compile, or too long a token.
        """
        if not 1 <= ttl_minutes <= MAX_TTL_MINUTES:
            raise ValueError(f"ttl_minutes is {ttl_minutes}; it goes from 1 to {MAX_TTL_MINUTES}")
        matched, groups_matched, pattern_maps = _NO_PATTERNS, _NO_PATTERNS, _NO_RESOURCES
        if patterns or group_patterns or uuid_patterns:
            matched, groups_matched = _compiled(patterns, self._limits), _compiled(group_patterns, self._limits)
            _compiled(uuid_patterns, self._limits)
            pattern_maps = _resource_maps(
                *(_bits_by_name(each or {}) for each in (patterns, group_patterns, uuid_patterns))
            )
        named, grouped = _bits_by_name(channels or {}), _bits_by_name(groups or {})
        issued_s = int(self._clock())
        content = b"%b\x43res%b\x43pat%b\x44meta%b" % (
            _stamped(issued_s, ttl_minutes),
            _resource_maps(named, grouped, _bits_by_name(uuids or {})),
            pattern_maps,
            cbor2.dumps(dict(meta)) if meta else EMPTY_MAP,
        )
        entries = 6
        if uuid is not None:
            content, entries = b"%b\x44uuid%b" % (content, cbor2.dumps(uuid)), 7
        signature = _signature(keyset, b"%c%b" % (MAP + entries, content))
        raw = b"%c%b%b%b" % (MAP + entries + 1, content, SIGNATURE_KEY, signature)
        text = base64.urlsafe_b64encode(raw).decode("ascii")  # with its padding: the Python client needs it
        if len(text) > self._limits.token_chars:
            raise ValueError(f"the token would have {len(text)} characters; {self._limits.token_chars} are allowed")
        if shown_soon:
            expires_at_s = float(issued_s + 60 * ttl_minutes)
            token = Token(_id_of(signature), expires_at_s, uuid, named, grouped, matched, groups_matched)
            self._remember((keyset.subscribe_key, text), token)
        return text

    def verify(self, keyset: Keyset, text: str) -> Token:
        """The token, when it is this keyset's own, not expired and not revoked. Raises Denied."""
        key = (keyset.subscribe_key, text)
        token = self._verified.get(key)
        if token is None:
            token = self.parse(keyset, text)
            if token.expires_at_s > self._clock():
                self._remember(key, token)
        else:
            self._verified.move_to_end(key)
        if token.expires_at_s <= self._clock():
            self._forget(key)
            raise Denied("Token is expired.")
        if token.token_id in self.revocations:
            raise Denied("Token is revoked", cause="4001")
        return token

    def parse(self, keyset: Keyset, text: str) -> Token:
        """The token, when this keyset has signed it, expired or not. Raises Denied."""
        if len(text) > self._limits.token_chars:
            raise Denied("Token is too long")
        try:
            raw = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Denied("Invalid token") from None
        signed, key = raw[: -len(SIGNATURE_KEY) - SIGNATURE_BYTES], raw[-len(SIGNATURE_KEY) - SIGNATURE_BYTES :]
        # a map of 1 to 23 entries has its count in the first byte; without `sig` it is one lower
        if not signed or not MAP + 1 <= signed[0] <= MAP + 23 or not key.startswith(SIGNATURE_KEY):
            raise Denied("Invalid token")
        plain = bytes([signed[0] - 1]) + signed[1:]
        signature = raw[-SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _signature(keyset, plain)):
            raise Denied("Invalid token")
        try:
            content = cbor2.loads(plain)
            return Token.read(_id_of(signature), content, self._limits)
        except (cbor2.CBORDecodeError, ValueError, TypeError, AttributeError) as fault:
            log.warning("a signed token of keyset %s cannot be read: %s", keyset.name, fault)
            raise Denied("Invalid token") from None

    def revoke(self, token: Token) -> None:
        """Refuse it from now on; held polls end. On the disk when this returns, if revocations are kept there."""
        self.revocations.revoke(token.token_id, token.expires_at_s)

    def forget(self, keyset: Keyset, text: str) -> None:
        """It will hardly be shown again. If it is, it is verified anew."""
        self._forget((keyset.subscribe_key, text))

    def _remember(self, key: tuple[str, str], token: Token) -> None:
        self._forget(key)  # the same claims within one second are the same text
        self._verified[key] = token
        self._verified_chars += len(key[1])
        while self._verified_chars > self._limits.tokens_cached_chars:
            (_, oldest), _ = self._verified.popitem(last=False)
            self._verified_chars -= len(oldest)

    def _forget(self, key: tuple[str, str]) -> None:
        if self._verified.pop(key, None) is not None:
            self._verified_chars -= len(key[1])


def prefix_pattern(prefix: str) -> str:
    """An anchored expression for all names that begin with `prefix`."""
    return "^" + "".join(char if char.isalnum() or char in "_-" else "\\" + char for char in prefix) + ".*$"


def _id_of(signature: bytes) -> str:
    """An id that can be logged: the signature itself would complete a token whose content is known."""
    return hashlib.sha256(signature).hexdigest()[:32]


def _signature(keyset: Keyset, plain: bytes) -> bytes:
    mac = _keyed(keyset.secret_key).copy()
    mac.update(plain)
    return mac.digest()


@lru_cache(maxsize=64)
def _keyed(secret_key: str) -> hmac.HMAC:
    return hmac.new(secret_key.encode(), digestmod="sha256")


# What is the same in every token is encoded once: one is made for each task, and again for each of its readers. Keys
# are byte strings, whose first byte is 0x40 and their length.
@lru_cache(maxsize=64)
def _stamped(issued_s: int, ttl_minutes: int) -> bytes:
    return b"\x41v\x02\x41t%b\x43ttl%b" % (cbor2.dumps(issued_s), cbor2.dumps(ttl_minutes))


def _resource_maps(channels: dict[str, int], groups: dict[str, int], uuids: dict[str, int]) -> bytes:
    """The five maps in the service's order; `spc` and `usr` are older names that we leave empty."""
    chan, grp, uuid = _map(channels), _map(groups), _map(uuids)
    return b"".join((b"\xa5\x44chan", chan, b"\x43grp", grp, _OLDER_NAMES, uuid))


_OLDER_NAMES = b"\x43spc\xa0\x43usr\xa0\x44uuid"
_NO_PATTERNS: list[tuple[Pattern, int]] = []
_NO_RESOURCES = b"\xa5\x44chan\xa0\x43grp\xa0" + _OLDER_NAMES + EMPTY_MAP


def _map(bits_by_name: dict[str, int]) -> bytes:
    return cbor2.dumps(bits_by_name) if bits_by_name else EMPTY_MAP


def _bits_by_name(found: Mapping[str, Bits | int]) -> dict[str, int]:
    """Raises ValueError for names or bits that are none."""
    plain: dict[str, int] = {}
    for name, bits in found.items():
        if not isinstance(name, str) or not isinstance(bits, int) or not 0 <= bits <= ALL_BITS:
            raise ValueError(f"{name!r} with bits {bits!r} is no permission")
        plain[name] = int(bits)
    return plain


def _compiled(expressions: Mapping[str, Bits | int] | None, limits: Limits) -> list[tuple[Pattern, int]]:
    if not expressions:
        return []
    if len(expressions) > limits.patterns_per_token:
        raise ValueError(f"{len(expressions)} patterns; {limits.patterns_per_token} are allowed")
    named = _bits_by_name(expressions)
    compiled = [(Pattern(text, max_chars=limits.pattern_chars), bits) for text, bits in named.items()]
    if sum(pattern.steps for pattern, _ in compiled) > limits.pattern_steps_per_token:
        raise ValueError("the patterns are too large together")
    return compiled
