"""The bus: ordered channels with timetokens, catch-up, history and wake-up. A seam; `embedded` is the default.

A channel belongs to a keyset: the same name under two subscribe keys is two channels.

Every implementation keeps these rules (tests/contract runs them over all):

1. Timetokens strictly increase over all channels, across restarts and backward steps of the clock.
2. Messages become visible in timetoken order. `now()` is never above a message that is still to become visible,
   so a reader that passes back a cursor it was given sees every later message, each once.
3. `publish` returns after the message is visible; with `stored=True`, after it is durable as well.
4. A tail per channel (at least 100 messages and 16 minutes) serves readers that come late; what is stored is served
   from the log beyond that.
5. All methods belong to the event loop that `start` ran on, but for `now()`.
6. A publish that cannot be stored raises BusFull and leaves nothing behind; the next one is tried afresh.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from blocks_network.server.bus.actions import Actions

__all__ = ["Answered", "Bus", "BusFull", "Draft", "Interceptor", "Kind", "Message"]


class BusFull(Exception):
    """The log takes nothing now (a full or failing disk). Nothing of the publish is kept; trying later may succeed."""


class Kind(IntEnum):
    """The envelope's `e`."""

    MESSAGE = 0
    SIGNAL = 1
    ACTION = 3
    FILE = 4


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message on its way in. `payload` and `meta` are JSON texts in UTF-8, kept byte for byte."""

    keyset: str
    """The subscribe key: the namespace of the channel."""
    channel: str
    payload: bytes
    publisher: str = ""
    """The publishing client's uuid; empty for the network's own messages."""
    meta: bytes | None = None
    kind: Kind = Kind.MESSAGE
    custom_type: str | None = None
    stored: bool = True
    ttl_hours: int | None = None
    """Hours in the log; None is the network's default, 0 no expiry."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that readers can see. `also` is a second name that it is delivered under, from memory alone."""

    timetoken: int
    draft: Draft
    also: str | None = None


class Bus(Protocol):
    """See the module's docstring for the contract."""

    @property
    def actions(self) -> Actions:
        """What is attached to stored messages; goes with them."""

    async def start(self) -> None:
        """Opens the log and finds the highest timetoken ever given."""

    async def stop(self) -> None:
        """Flushes what was accepted and closes the log. Later publishes raise RuntimeError."""

    def now(self) -> int:
        """A cursor: every message that becomes visible from now on has a greater timetoken."""

    async def current(self) -> int:
        """As `now()`, brought up to the clock, which may take a commit."""

    async def publish(self, draft: Draft) -> int:
        """Returns the message's timetoken once it is visible (and durable when stored)."""

    async def publish_all(self, drafts: Sequence[Draft]) -> list[int]:
        """Several messages in their order, with one commit; all or none."""

    def publish_now(self, drafts: Sequence[Draft]) -> list[int] | None:
        """The same without a wait, where that can be: None, and nothing has happened, where it cannot."""

    async def history(
        self,
        keyset: str,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        newest: bool,
    ) -> list[Message]:
        """Stored messages with `after < timetoken < before`, ascending; the newest or the oldest `limit`."""

    async def count(self, keyset: str, channel: str, *, after: int, limit: int) -> int:
        """How many stored messages are newer than `after`, counted up to `limit`."""

    async def delete(self, keyset: str, channel: str, *, after: int | None = None, before: int | None = None) -> int:
        """Removes stored messages with `after < timetoken < before`, from the tail as well. Returns how many."""

    def tail(
        self, keyset: str, channels: Iterable[str], prefixes: Iterable[str], *, after: int, limit: int
    ) -> list[Message] | None:
        """Visible messages above the cursor `after`, stored or not, ascending; the oldest `limit` of them.

        On the channels named, and on those whose name starts with a prefix. None when memory does not reach back to
        `after` on one of them: ask `catch_up` then.
        """

    async def catch_up(
        self, keyset: str, channels: Iterable[str], prefixes: Iterable[str], *, after: int, limit: int
    ) -> list[Message]:
        """The same, with what is stored from the log where memory does not reach.

        A cursor that is no time at all (`timetokens.ALL_CACHED`) means what a complete tail would hold.
        """

    async def replay(self, prefix: str, *, after: int, limit: int) -> list[Message]:
        """Stored messages of every keyset's channels whose name starts with `prefix`, ascending, oldest first."""

    def alias(self, prefix: str, also: Callable[[Draft], str | None]) -> None:
        """Asks for a second name for each message published to channels that start with `prefix`.

        Readers of that name get it with the same timetoken, as long as memory holds it; nothing is stored under it.
        """

    def follow(
        self, prefix: str, deliver: Callable[[Message], None], settled: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Calls `deliver` in the loop for each message, as it becomes visible, on channels that start with `prefix`.

        In timetoken order, stored or not; `settled` after the last one of those that become visible together. Both
        must be quick and must not raise. Returns the way to stop.
        """


Interceptor = Callable[[Draft], Awaitable["Answered | None"]]
"""Asked before a publish on a channel that the platform owns: None lets it pass, an answer is given instead."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The platform's answer in place of a delivery: an HTTP status and a JSON body."""

    status: int
    body: bytes
