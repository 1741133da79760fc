"""Keysets: the namespaces of the PubNub protocol, each with its three keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Keyset", "Keysets"]


@dataclass(frozen=True, slots=True)
class Keyset:
    """`playground` serves free agents, `network` paid ones. Without `access_control` every request is allowed."""

    name: str
    publish_key: str
    subscribe_key: str
    secret_key: str = field(repr=False)
    access_control: bool = True

    @classmethod
    def generate(cls, name: str, *, access_control: bool = True) -> Keyset:
        """New random keys, in the field's usual forms."""
        return cls(
            name=name,
            publish_key=f"pub-c-{secrets.token_hex(16)}",
            subscribe_key=f"sub-c-{secrets.token_hex(16)}",
            secret_key=f"sec-c-{secrets.token_urlsafe(32)}",
            access_control=access_control,
        )


class Keysets:
    """The keysets that a network serves, found by subscribe key or by name."""

    def __init__(self, keysets: Iterable[Keyset]) -> None:
        self._by_subscribe_key = {keyset.subscribe_key: keyset for keyset in keysets}
        self._by_name = {keyset.name: keyset for keyset in self._by_subscribe_key.values()}

    def by_subscribe_key(self, key: str) -> Keyset | None:
        return self._by_subscribe_key.get(key)

    def by_name(self, name: str) -> Keyset:
        return self._by_name[name]

    def for_billing(self, billing_mode: Literal["free", "paid"]) -> Keyset:
        """Free work travels on `playground`, paid work on `network`."""
        return self._by_name["playground" if billing_mode == "free" else "network"]

    def __iter__(self) -> Iterator[Keyset]:
        return iter(self._by_subscribe_key.values())
