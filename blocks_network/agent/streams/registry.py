"""Which streams an instance has, and which tasks are on each of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blocks_network.agent.streams.objects import StreamObject
    from blocks_network.stream.client import StreamClient

__all__ = ["StreamEntry", "StreamRegistry"]


@dataclass(slots=True, eq=False)
class StreamEntry:
    """One stream. `task_ids` are the references that keep it alive; `writer` is its client once it is set up."""

    stream_id: str
    direction: str
    format: str
    external: bool
    affinity: str
    task_ids: set[str] = field(default_factory=set)
    writer: StreamClient | None = None
    objects: dict[str, Future[StreamObject]] = field(default_factory=dict)
    """What each task's handler holds, by task id; done when it is set up for that task."""
    feed: StreamObject | None = None
    """What on_activate holds of a shared stream."""
    last_task_id: str = ""
    """Who gave its reference back last."""
    ready: threading.Event = field(default_factory=threading.Event)
    """Set when the first acquirer has set it up, or failed."""
    fault: BaseException | None = None

    def made(self) -> list[StreamObject]:
        """The objects that exist by now."""
        places = [place for place in list(self.objects.values()) if place.done() and not place.cancelled()]
        objects = [place.result() for place in places if place.exception() is None]
        return objects if self.feed is None else [*objects, self.feed]


class StreamRegistry:
    """Safe for threads. Holds data only: whoever takes a reference away ends what has to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, StreamEntry] = {}

    def acquire(
        self,
        stream_id: str,
        task_id: str,
        *,
        direction: str,
        format: str,  # noqa: A002 - the protocol's word
        external: bool = False,
        affinity: str = "dedicated",
    ) -> tuple[StreamEntry, bool, bool]:
        """(entry, is new, is new for this task). ValueError when the stream exists and is another kind of stream."""
        with self._lock:
            entry = self._entries.get(stream_id)
            if entry is None:
                entry = self._entries[stream_id] = StreamEntry(stream_id, direction, format, external, affinity)
                _add(entry, task_id)
                return entry, True, True
            asked = (direction, format, external, affinity)
            known = (entry.direction, entry.format, entry.external, entry.affinity)
            if asked != known:
                raise ValueError(f"stream {stream_id} is {known}, and was asked for as {asked}")
            is_new_for_task = task_id not in entry.task_ids
            if is_new_for_task:
                _add(entry, task_id)
            return entry, False, is_new_for_task

    def release(self, stream_id: str, task_id: str) -> int:
        """Takes a task's reference back; the number that is left. With the last one the entry goes."""
        with self._lock:
            entry = self._entries.get(stream_id)
            if entry is None:
                return 0
            return self._release(entry, task_id)

    def release_entry(self, entry: StreamEntry, task_id: str) -> bool:
        """True when this took the last reference of this very entry, so that the caller has to end it."""
        with self._lock:
            known = self._entries.get(entry.stream_id) is entry
            return known and task_id in entry.task_ids and self._release(entry, task_id) == 0

    def holds(self, entry: StreamEntry) -> bool:
        """True while this very entry is here."""
        with self._lock:
            return self._entries.get(entry.stream_id) is entry

    def discard(self, entry: StreamEntry) -> None:
        """Takes this very entry out, with all references; harmless when it is gone."""
        with self._lock:
            if self._entries.get(entry.stream_id) is entry:
                del self._entries[entry.stream_id]

    def force_remove(self, stream_id: str) -> StreamEntry | None:
        """Takes the entry out, with its task ids: whoever fails the stream needs them."""
        with self._lock:
            return self._entries.pop(stream_id, None)

    def release_all_for_task(self, task_id: str) -> list[StreamEntry]:
        """The entries that have become empty."""
        with self._lock:
            of_task = [entry for entry in self._entries.values() if task_id in entry.task_ids]
            return [entry for entry in of_task if self._release(entry, task_id) == 0]

    def get(self, stream_id: str) -> StreamEntry | None:
        with self._lock:
            return self._entries.get(stream_id)

    @property
    def active_stream_count(self) -> int:
        """Streams with a writer of ours: external ones do not count."""
        with self._lock:
            return sum(entry.writer is not None for entry in self._entries.values())

    @property
    def stream_ids(self) -> list[str]:
        with self._lock:
            return list(self._entries)

    def clear(self) -> list[StreamEntry]:
        """Takes everything out."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
            return entries

    def _release(self, entry: StreamEntry, task_id: str) -> int:
        entry.task_ids.discard(task_id)
        entry.objects.pop(task_id, None)
        if not entry.task_ids and self._entries.get(entry.stream_id) is entry:
            del self._entries[entry.stream_id]
        return len(entry.task_ids)


def _add(entry: StreamEntry, task_id: str) -> None:
    entry.task_ids.add(task_id)
    entry.objects[task_id] = Future()
