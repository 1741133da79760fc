"""What one poll listens to: channels, wildcards and groups, and which of them a message belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.gateway.reply import bad_request

__all__ = ["PRESENCE", "Names", "patterns_of"]

PRESENCE = "-pnpres"
"""Ends the names that carry presence events."""
MAX_DOTS = 2


class Names:
    """`members` are the groups' channels, each with the group's name; they follow the groups by `regroup`."""

    __slots__ = ("channels", "groups", "members", "wildcards")

    def __init__(
        self,
        names: Iterable[str],
        groups: Sequence[str],
        members_of: Callable[[str], Iterable[str]],
        service: str = "Subscribe",
    ) -> None:
        """400 for a star that is no wildcard. `members_of` tells a group's channels."""
        self.channels: dict[str, None] = {}
        self.wildcards: dict[str, None] = {}
        for name in names:
            if "*" not in name:
                self.channels[name] = None
            elif _is_wildcard(name):
                self.wildcards[name] = None
            else:
                raise bad_request("Invalid wildcard", service)
        self.groups = tuple(groups)
        self.members: dict[str, str] = {}
        self.regroup(members_of)

    def regroup(self, members_of: Callable[[str], Iterable[str]]) -> None:
        """Takes the groups' channels as they are now."""
        self.members = {}
        for group in self.groups:
            if group.endswith(PRESENCE):
                for channel in members_of(group[: -len(PRESENCE)]):
                    self.members.setdefault(channel + PRESENCE, group)
            else:
                for channel in members_of(group):
                    self.members.setdefault(channel, group)

    def match(self, channel: str) -> str | None:
        """The subscribed name that a message of this channel goes by; the channel before a wildcard before a group."""
        if channel in self.channels:
            return channel
        if self.wildcards:
            for pattern in patterns_of(channel):
                if pattern in self.wildcards:
                    return pattern
        return self.members.get(channel)

    def needs(self) -> list[Need]:
        """Every name needs read: a presence channel or a wildcard by its own, a group for all its members."""
        return [
            *(Need(name, Bits.READ) for name in self.channels),
            *(Need(name, Bits.READ) for name in self.wildcards),
            *(Need(name, Bits.READ, group=True) for name in self.groups),
        ]

    def heard(self) -> Iterator[str]:
        """Every single channel, members included, each once."""
        yield from self.channels
        for member in self.members:
            if member not in self.channels:
                yield member

    def prefixes(self) -> list[str]:
        """What the wildcards' channels begin with."""
        return sorted({name.removesuffix(PRESENCE)[:-1] for name in self.wildcards})

    def joined(self) -> list[str]:
        """The channels that a poll makes its uuid present on."""
        return [name for name in self.heard() if not name.endswith(PRESENCE)]

    def __bool__(self) -> bool:
        return bool(self.channels or self.wildcards or self.groups)


def _is_wildcard(name: str) -> bool:
    plain = name.removesuffix(PRESENCE)
    return plain.endswith(".*") and len(plain) > 2 and plain.count("*") == 1 and plain.count(".") <= MAX_DOTS


def patterns_of(channel: str) -> list[str]:
    """The wildcards that match a channel: "a.b.c" is matched by "a.*" and "a.b.*", its presence by "a.*-pnpres"."""
    plain = channel.removesuffix(PRESENCE)
    ending = ".*" + channel[len(plain) :]
    pieces = plain.split(".")
    return [".".join(pieces[:count]) + ending for count in range(1, min(len(pieces), MAX_DOTS + 1))]
