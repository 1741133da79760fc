"""The order of frames: each writer's own, by its sequence numbers, with gaps waited for and then reported."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from blocks_network.wire.frames import DataFrame, EndFrame, RawFrame

__all__ = ["Gap", "Reorder", "Sequenced"]

MAX_WRITERS = 1024
"""Writers remembered; those that were silent for longest, with nothing held back, are forgotten."""
MAX_HELD = 1000
"""Frames of one writer held back behind a gap: more than a network's cache can still deliver out of order."""
NEAR = 8
"""Published writers send up to this many messages at once, so a first frame this close may have overtaken others."""

Sequenced = DataFrame | RawFrame


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames `first` to `last` (inclusive) of a writer did not come."""

    sender: str
    first: int
    last: int


@dataclass(slots=True)
class _Writer:
    """What is known of one writer: the next number, what came too early, and its end."""

    expected: int
    held: dict[int, Sequenced] = field(default_factory=dict)
    end: int | None = None
    deadline_s: float | None = None


class Reorder:
    """Not safe for threads, and without a clock: callers say what time it is, in seconds.

    `timeout_s` is how long a gap is waited for; 0 or less hands everything on as it comes. `shared`: a stream that is
    joined at any time, by several writers, and never ended by one of them.
    """

    def __init__(self, first_seq: int, *, timeout_s: float, shared: bool) -> None:
        self._first_seq, self._timeout_s, self._shared = first_seq, timeout_s, shared
        self._writers: OrderedDict[str, _Writer] = OrderedDict()
        self.done = False
        """True once a writer's end was reached: nothing is handed on after it."""
        self.error: str | None = None
        """Why a writer gave up, when one did."""

    def add(self, sender: str, frame: Sequenced | EndFrame, now_s: float) -> list[Sequenced | Gap]:
        """What can be handed on now, in order."""
        if self.done or (self._shared and isinstance(frame, EndFrame)):
            return []
        if self._timeout_s <= 0:
            return self._as_it_comes(frame)
        if isinstance(frame, EndFrame):
            if frame.seq is None:
                return []
            self.error = self.error or frame.error
            writer = self._writer(sender, frame.seq)
            writer.end = frame.seq if writer.end is None else writer.end
            ready: list[Sequenced | Gap] = []
        else:
            writer, ready = self._met(sender, frame.seq)
            self._take(writer, frame)
        before = writer.expected
        ready += self._following(writer)
        return ready + self._settle(writer, sender, now_s, moved=writer.expected != before)

    def next_deadline_s(self) -> float | None:
        """When `expire` has something to do; None when no gap is open."""
        deadlines = [writer.deadline_s for writer in self._writers.values() if writer.deadline_s is not None]
        return None if self.done or not deadlines else min(deadlines)

    def expire(self, now_s: float) -> list[Sequenced | Gap]:
        """Gives up the gaps whose time is over."""
        ready: list[Sequenced | Gap] = []
        for sender, writer in list(self._writers.items()):
            if not self.done and writer.deadline_s is not None and writer.deadline_s <= now_s:
                ready += self._skip(writer, sender)
                ready += self._settle(writer, sender, now_s, moved=True)
        return ready

    def _as_it_comes(self, frame: Sequenced | EndFrame) -> list[Sequenced | Gap]:
        if isinstance(frame, EndFrame):
            self.done, self.error = True, self.error or frame.error
            return []
        return [frame]

    def _met(self, sender: str, seq: int) -> tuple[_Writer, list[Sequenced | Gap]]:
        """The writer of a frame; a new one that is far along is taken up where it is."""
        known = sender in self._writers
        writer = self._writer(sender, self._first_seq)
        if known or seq <= self._first_seq:
            return writer, []
        if self._shared:
            writer.expected = seq
        elif seq > self._first_seq + NEAR:
            writer.expected = seq
            return writer, [Gap(sender, self._first_seq, seq - 1)]
        return writer, []

    def _writer(self, sender: str, first_seq: int) -> _Writer:
        writer = self._writers.get(sender)
        if writer is None:
            writer = self._writers[sender] = _Writer(min(first_seq, self._first_seq))
            if len(self._writers) > MAX_WRITERS:
                silent = next((name for name, one in self._writers.items() if not one.held and name != sender), None)
                if silent is not None:
                    del self._writers[silent]
        self._writers.move_to_end(sender)
        return writer

    def _take(self, writer: _Writer, frame: Sequenced) -> None:
        late = frame.seq < writer.expected or frame.seq in writer.held
        beyond = writer.end is not None and frame.seq >= writer.end
        if not late and not beyond:
            writer.held[frame.seq] = frame

    def _following(self, writer: _Writer) -> list[Sequenced | Gap]:
        ready: list[Sequenced | Gap] = []
        while (frame := writer.held.pop(writer.expected, None)) is not None:
            ready.append(frame)
            writer.expected += 1
        return ready

    def _settle(self, writer: _Writer, sender: str, now_s: float, *, moved: bool) -> list[Sequenced | Gap]:
        """Arms the gap's timer, or ends. Too many frames behind one gap end the waiting."""
        ready: list[Sequenced | Gap] = []
        while len(writer.held) > MAX_HELD:
            ready += self._skip(writer, sender)
        if writer.end is not None and writer.expected >= writer.end:
            self.done = True
            return ready + self._all_held()
        waiting = bool(writer.held) or writer.end is not None
        if not waiting:
            writer.deadline_s = None
        elif moved or writer.deadline_s is None:
            writer.deadline_s = now_s + self._timeout_s
        return ready

    def _skip(self, writer: _Writer, sender: str) -> list[Sequenced | Gap]:
        """Goes on behind the gap."""
        ready: list[Sequenced | Gap] = []
        to = min(writer.held) if writer.held else writer.end
        if to is None:
            return ready
        if to > writer.expected:
            ready.append(Gap(sender, writer.expected, to - 1))
            writer.expected = to
        return ready + self._following(writer)

    def _all_held(self) -> list[Sequenced | Gap]:
        """At the end, what other writers' gaps still hold back."""
        ready: list[Sequenced | Gap] = []
        for sender, writer in self._writers.items():
            while writer.held:
                ready += self._skip(writer, sender)
        return ready
