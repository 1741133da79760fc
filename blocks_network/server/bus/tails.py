"""The newest messages of each channel, in memory, for readers that come a little late."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable

from blocks_network.server.bus import Message
from blocks_network.wire.timetokens import TICKS_PER_S

__all__ = ["Tails"]

MESSAGE_OVERHEAD_BYTES = 600
"""What a message costs beside its payload and meta: its objects, its names and its places in lists."""
CHANNEL_OVERHEAD_BYTES = 600


def _timetoken(message: Message) -> int:
    return message.timetoken


def _cost(message: Message) -> int:
    draft = message.draft
    names = len(draft.channel) + len(draft.publisher)
    return MESSAGE_OVERHEAD_BYTES + names + len(draft.payload) + len(draft.meta or b"")


class _Tail:
    """One channel. `floor`: everything that became visible above it is in `messages`."""

    __slots__ = ("floor", "messages", "size_bytes", "trim_at")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.messages: list[Message] = []
        self.trim_at = self.size_bytes = 0


class Tails:
    """Keeps at least `count` messages for `age_s` in each channel, while all fit into `limit_bytes`.

    Beyond that the channels idle for longest give theirs up. Belongs to one loop.
    """

    def __init__(self, *, count: int, age_s: float, limit_bytes: int, floor: int) -> None:
        self._count, self._age, self._limit_bytes = count, int(age_s * TICKS_PER_S), limit_bytes
        self._floor = floor
        """For channels without a tail: nothing above it became visible there."""
        self._tails: OrderedDict[tuple[str, str], _Tail] = OrderedDict()
        self.size_bytes = 0

    def append(self, message: Message) -> None:
        """In timetoken order over all channels."""
        draft, cost = message.draft, _cost(message)
        busy = self._append((draft.keyset, draft.channel), message, cost)
        if message.also is not None:
            busy = self._append((draft.keyset, message.also), message, cost)
        self._evict(busy, message.timetoken)

    def _append(self, key: tuple[str, str], message: Message, cost: int) -> _Tail:
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = _Tail(self._floor)
            tail.trim_at = 2 * self._count
            self.size_bytes += CHANNEL_OVERHEAD_BYTES
        else:
            self._tails.move_to_end(key)
        tail.messages.append(message)
        self._grow(tail, cost)
        if len(tail.messages) > tail.trim_at:
            self._trim(tail, message.timetoken)
        return tail

    def read(self, keyset: str, channel: str, after: int, limit: int) -> list[Message] | None:
        """The oldest `limit` messages above `after`; None when this tail does not reach back so far."""
        tail = self._tails.get((keyset, channel))
        if tail is None:
            return [] if after >= self._floor else None
        if after < tail.floor:
            return None
        return _above(tail.messages, after, limit)

    def held(self, keyset: str, channel: str, after: int, limit: int) -> list[Message]:
        """As `read`, but what there is, complete or not."""
        tail = self._tails.get((keyset, channel))
        return _above(tail.messages, after, limit) if tail is not None else []

    def floor_of(self, keyset: str, channel: str) -> int:
        """The cursor from which on this tail is complete."""
        tail = self._tails.get((keyset, channel))
        return self._floor if tail is None else tail.floor

    def channels_below(self, keyset: str, prefix: str, after: int) -> list[str]:
        """Channels with news above `after` whose name starts with `prefix`."""
        found = []
        for (owner, channel), tail in reversed(self._tails.items()):  # the latest first, so that it ends early
            if not tail.messages or tail.messages[-1].timetoken <= after:
                if tail.messages:
                    break
                continue
            if owner == keyset and channel.startswith(prefix):
                found.append(channel)
        return found

    def complete_since(self) -> int:
        """The cursor from which on all tails are complete, those that were given up included."""
        return self._floor

    def remove(self, keyset: str, channel: str, unwanted: Callable[[Message], bool]) -> None:
        """Takes single messages out."""
        tail = self._tails.get((keyset, channel))
        if tail is not None:
            self._grow(tail, -sum(_cost(message) for message in tail.messages if unwanted(message)))
            tail.messages = [message for message in tail.messages if not unwanted(message)]

    def _trim(self, tail: _Tail, now: int) -> None:
        """Beyond the count, what is too old goes. Looked at again only after a quarter more, so that it stays cheap."""
        excess = min(len(tail.messages) - self._count, bisect_right(tail.messages, now - self._age, key=_timetoken))
        self._drop(tail, excess)
        tail.trim_at = len(tail.messages) + max(self._count, len(tail.messages) // 4)

    def _drop(self, tail: _Tail, number: int) -> None:
        if number > 0:
            gone = tail.messages[:number]
            del tail.messages[:number]
            tail.floor = max(tail.floor, gone[-1].timetoken)
            self._grow(tail, -sum(map(_cost, gone)))

    def _grow(self, tail: _Tail, by_bytes: int) -> None:
        tail.size_bytes += by_bytes
        self.size_bytes += by_bytes

    def _evict(self, busy: _Tail, now: int) -> None:
        while self._tails:
            key, oldest = next(iter(self._tails.items()))
            last = oldest.messages[-1].timetoken if oldest.messages else oldest.floor
            if oldest is busy:
                if self.size_bytes > self._limit_bytes and len(busy.messages) > 1:
                    self._drop(busy, max(1, len(busy.messages) // 8))
                    continue
                return
            if self.size_bytes <= self._limit_bytes and last > now - self._age:
                return
            self._floor = max(self._floor, last)
            self.size_bytes -= CHANNEL_OVERHEAD_BYTES + oldest.size_bytes
            del self._tails[key]


def _above(messages: list[Message], after: int, limit: int) -> list[Message]:
    if not messages or messages[-1].timetoken <= after:
        return []
    start = bisect_right(messages, after, key=_timetoken)
    return messages[start : start + limit]


def merged(runs: Iterable[list[Message]], limit: int) -> list[Message]:
    """The oldest `limit` of several ascending runs, each message once."""
    by_timetoken = {message.timetoken: message for run in runs for message in run}
    return [by_timetoken[timetoken] for timetoken in sorted(by_timetoken)[:limit]]
