"""Where a webhook may go: the addresses behind a host name, and which of them are everybody's.

A name is resolved here, and the connection goes to an address that was looked at: what the name says a moment later
(DNS rebinding) does not matter.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address

__all__ = ["TargetRefused", "Resolve", "addresses_of", "is_public", "look_up", "names_this_machine"]

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses; OSError when the name has none."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
MAX_ADDRESSES = 4
"""Tried in one attempt, in the resolver's order."""


class TargetRefused(Exception):
    """The target is none that this network calls: an operator's decision, so it is not tried again."""


async def look_up(host: str, port: int) -> list[str]:
    """`Resolve` by the machine's own resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def addresses_of(host: str, port: int, *, allow_private: bool, resolve: Resolve = look_up) -> list[str]:
    """The addresses to connect to. TargetRefused when there are only private ones, OSError when there are none."""
    found = await resolve(host, port)
    if allow_private:
        return found[:MAX_ADDRESSES]
    public = [address for address in found if is_public(address)]
    if found and not public:
        raise TargetRefused(f"{host} is not on the public internet, and this network calls nothing else")
    return public[:MAX_ADDRESSES]


def is_public(address: str) -> bool:
    """False for loopback, private, link-local, shared, multicast and reserved addresses, also inside IPv6 ones."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = _inner(found) if isinstance(found, IPv6Address) else None
    if inner is not None:
        return is_public(str(inner))
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def names_this_machine(host: str) -> bool:
    """True when it can be told without a look-up that the host is not public."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False  # a name: see `addresses_of`


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a translator would make of this one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
