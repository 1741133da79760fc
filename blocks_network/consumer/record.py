"""What a session knows of its task: each event once, in order, with the first terminal as the last word."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blocks_network.wire.artifacts import ArtifactRef
from blocks_network.wire.events import TaskEvent, is_terminal_event

if TYPE_CHECKING:
    from blocks_network.stream.refs import StreamRef

__all__ = ["Entry", "Kind", "TaskRecord", "made_up_terminal"]

log = logging.getLogger(__name__)

Kind = Literal["progress", "artifact", "terminal", "cancel_requested", "system", "other", "stream"]
_KINDS: Mapping[str, Kind] = {"progress": "progress", "artifact": "artifact", "system": "system"}

SEEN_TIMETOKENS = 200
"""How many timetokens are remembered, to drop what history and the subscription both bring."""
MAX_ENTRIES = 20_000
"""Entries kept for late registrants and `list_events`. Beyond, the older half of plain progress is forgotten, so that
a task of 30 days does not fill the memory; artifacts, streams and the terminal never are."""


@dataclass(slots=True)  # a frozen one takes twice as long to make
class Entry:
    """One thing to tell, in the order of `number`: an event, or a stream that an event announced."""

    number: int
    kind: Kind
    value: TaskEvent | StreamRef


def made_up_terminal(task_id: str, state: str) -> dict[str, Any]:
    """The terminal event of a task whose own is not at hand."""
    return {"type": "terminal", "taskId": task_id, "state": state}


class TaskRecord:
    """Not safe for threads: its session guards it with one lock, held for data only."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.state: str | None = None
        self.terminal: Entry | None = None
        self.artifacts: list[TaskEvent] = []
        self.streams: dict[str, StreamRef] = {}
        self._entries: list[Entry] = []
        self._next_number = 0
        self._forgotten_before = 0
        self._cancel_requested = False
        self._seen: OrderedDict[int, None] = OrderedDict()

    def add(self, raw: object, timetoken: int | None = None) -> bool:
        """Takes an event as it came. False when it says nothing new: seen, no event, or after the terminal."""
        if timetoken is not None and self._repeated(timetoken):
            return False
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            return False
        event = TaskEvent(raw, timetoken)
        if raw["type"] == "terminal":
            return self._end(event)
        if raw["type"] == "cancel_requested":
            if self.terminal is not None or self._cancel_requested:
                return False
            self._cancel_requested = True
            self._append("cancel_requested", event)
            return True
        self._append(_KINDS.get(raw["type"], "other"), event)
        if raw["type"] == "artifact" and isinstance(raw.get("artifactRef"), Mapping):
            self.artifacts.append(event)
        return True

    def add_stream(self, ref: StreamRef) -> None:
        """A stream that the event just added announces; nothing when it is known."""
        stream_id = ref.descriptor.stream_id
        if stream_id not in self.streams:
            self.streams[stream_id] = ref
            self._append("stream", ref)

    def end(self, state: str) -> None:
        """Makes the terminal up, when the task is known to be over and its own terminal event is not at hand."""
        self._end(TaskEvent(made_up_terminal(self.task_id, state)))

    def entry_from(self, number: int) -> Entry | None:
        """The first entry whose number is at least `number`."""
        if number < self._next_number and self._forgotten_before == 0:
            return self._entries[number]
        index = bisect_left(self._entries, number, key=lambda entry: entry.number)
        return self._entries[index] if index < len(self._entries) else None

    @property
    def next_number(self) -> int:
        """The number of the entry to come."""
        return self._next_number

    def events(self) -> list[TaskEvent]:
        """All events so far, in order."""
        return [entry.value for entry in self._entries if isinstance(entry.value, TaskEvent)]

    def artifact_refs(self) -> list[ArtifactRef]:
        return [ref for event in self.artifacts if (ref := event.artifact_ref) is not None]

    def crowded(self) -> bool:
        """True when `forget` is due."""
        return len(self._entries) > MAX_ENTRIES

    def forget(self, before: int) -> None:
        """Drops plain progress among the older half of the entries, none whose number is `before` or later."""
        keep_from = min(before, self._entries[len(self._entries) // 2].number)
        self._entries = [
            entry
            for entry in self._entries
            if entry.number >= keep_from or entry.kind not in ("progress", "system", "other")
        ]
        self._forgotten_before = keep_from

    def _end(self, event: TaskEvent) -> bool:
        if self.terminal is not None or not is_terminal_event(event.raw):
            return False  # the first one holds: a forced cancel and the agent's own end are one to the user
        self.state = event.state
        self.terminal = self._append("terminal", event)
        return True

    def _append(self, kind: Kind, value: TaskEvent | StreamRef) -> Entry:
        entry = Entry(self._next_number, kind, value)
        self._entries.append(entry)
        self._next_number += 1
        return entry

    def _repeated(self, timetoken: int) -> bool:
        if timetoken in self._seen:
            return True
        self._seen[timetoken] = None
        if len(self._seen) > SEEN_TIMETOKENS:
            self._seen.popitem(last=False)
        return False
