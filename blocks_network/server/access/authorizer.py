"""Whether a request of the PubNub protocol is allowed: signature, token, permission on every named resource."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.permissions import Bits, Denied, Grant, Need
from blocks_network.server.access.signatures import SignatureCheck, within_skew
from blocks_network.server.access.tokens import CapabilityTokens

__all__ = ["Authorizer", "Bits", "Denied", "Grant", "Need"]


OPEN = Grant()
SIGNED = Grant(signed=True)


class Authorizer:
    """The one place that decides. `skew_s` is how far the clock of a signed request may be off."""

    def __init__(self, tokens: CapabilityTokens, *, skew_s: int, clock: Callable[[], float] = time.time) -> None:
        self._tokens, self._skew_s, self._clock = tokens, skew_s, clock

    def check(
        self,
        keyset: Keyset,
        *,
        method: str,
        raw_path: str,
        raw_query: bytes,
        query: Mapping[str, str],
        body: bytes,
        needs: Sequence[Need],
        signature_only: bool = False,
    ) -> Grant:
        """Raises Denied. A valid signature is full access; else the token must hold a bit of every need."""
        if not keyset.access_control:
            return OPEN
        if "signature" in query:
            check = SignatureCheck(
                keyset, method=method, raw_path=raw_path, raw_query=raw_query, query=query, body=body
            )
            if not within_skew(query.get("timestamp"), self._clock(), self._skew_s):
                raise Denied("Invalid Timestamp")
            if not check.holds():
                raise Denied("Invalid Signature")
            return SIGNED
        text = query.get("auth", "")
        if signature_only or not text:
            raise Denied(refused=tuple(needs))
        token = self._tokens.verify(keyset, text)
        if token.uuid is not None and token.uuid != query.get("uuid"):
            raise Denied(refused=tuple(needs))
        refused = tuple(need for need in needs if not token.bits_on(need.name, group=need.group) & need.bits)
        if refused:
            raise Denied(refused=refused)
        return token.grant

    def on_revoked(self, callback: Callable[[str], None]) -> None:
        """Calls back with the id of every token that is revoked, in the loop, for as long as the authorizer lives."""
        self._tokens.revocations.follow(callback)
