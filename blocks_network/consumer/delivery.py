"""Brings a session's record to those who registered for it: each entry once to each, in order, late ones included."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from blocks_network.consumer.callbacks import Callbacks
from blocks_network.consumer.record import Entry, TaskRecord
from blocks_network.wire.events import TaskEvent

if TYPE_CHECKING:
    from blocks_network.stream.refs import StreamRef

__all__ = ["CallbackErrorContext", "Delivery", "Interest"]

log = logging.getLogger(__name__)

Interest = Literal["event", "progress", "artifact", "terminal", "cancel_requested", "stream"]
_TYPES = {
    "event": "onEvent",
    "progress": "onProgress",
    "artifact": "onArtifact",
    "terminal": "onTerminal",
    "cancel_requested": "onCancelRequested",
    "stream": "onStream",
}


@dataclass(frozen=True, slots=True)
class CallbackErrorContext:
    """Where a callback raised: `entry_point` "taskSession" or "subscribeToTask", which callback, and over what."""

    entry_point: str
    callback_type: str
    event: TaskEvent | StreamRef | dict[str, Any] | None = None


@dataclass(slots=True, eq=False)
class _Registration:
    """One callback and the entry that is next for it. `late` while the registering thread replays to it itself."""

    interest: Interest
    callback: Callable[[Any], object]
    next_number: int = 0
    late: bool = True

    def wants(self, entry: Entry) -> bool:
        if self.interest == "event":
            return entry.kind != "stream"
        return entry.kind == self.interest


@dataclass(slots=True)
class Delivery:
    """The registrations of one session over its record, both guarded by the session's condition.

    One thread at a time works through what is due, so callbacks of a session never overlap; only a replay runs on the
    thread that registers, before `register` returns, as users of the protocol rely on. No lock is held during a call.
    `settled` is called, on the delivering thread, each time when everything known has been delivered. It comes with
    each call: kept here, it would keep its session alive for the garbage collector to find.
    """

    record: TaskRecord
    changed: threading.Condition
    pool: Callbacks
    _registrations: list[_Registration] = field(default_factory=list)
    _on_error: list[Callable[[Exception, CallbackErrorContext], object]] = field(default_factory=list)
    _working: bool = False
    _worker: threading.Thread | None = None

    def register(
        self, interest: Interest, callback: Callable[[Any], object], settled: Callable[[], None]
    ) -> Callable[[], None]:
        """Replays what is known, then delivers what comes. The answer unregisters; twice is fine."""
        registration = _Registration(interest, callback)
        with self.changed:
            if interest == "cancel_requested" and self.record.terminal is not None:
                registration.next_number = self.record.next_number  # of no use any more
            target = self.record.next_number
            self._registrations.append(registration)
        while True:
            with self.changed:
                entry = self._due(registration, target)
                if entry is None or registration not in self._registrations:
                    registration.late = False
                    break
                registration.next_number = entry.number + 1
            self._call(registration, entry)
        self.wake(settled)
        return lambda: self._unregister(registration)

    def register_on_error(self, callback: Callable[[Exception, CallbackErrorContext], object]) -> Callable[[], None]:
        """For what callbacks raise, and for faults of the session itself."""
        with self.changed:
            self._on_error.append(callback)

        def unregister() -> None:
            with self.changed:
                if callback in self._on_error:
                    self._on_error.remove(callback)

        return unregister

    def wake(self, settled: Callable[[], None]) -> None:
        """Something is new: delivers it on the pool, or notes at once that nobody waits for it."""
        with self.changed:
            if self._working:
                return
            self._working = True
            if self._next() is not None:
                self.pool.submit(partial(self._work, settled))
                return
            self._working = False
        settled()

    def clear(self) -> None:
        """Forgets every registration: no further call begins."""
        with self.changed:
            self._registrations.clear()
            self._on_error.clear()

    @property
    def idle(self) -> bool:
        """With the lock held: everything known was delivered to everybody."""
        return not self._working and self._next() is None

    def delivers_here(self) -> bool:
        """True on the thread that is delivering right now, i.e. within a callback."""
        return self._worker is threading.current_thread()

    def oldest_needed(self) -> int:
        """With the lock held: entries before this number were delivered to all."""
        return min((r.next_number for r in self._registrations), default=self.record.next_number)

    def report(self, fault: Exception, callback_type: str, subject: Any = None) -> None:
        """Tells the on_error callbacks; without any, a warning is logged."""
        context = CallbackErrorContext("taskSession", callback_type, subject)
        with self.changed:
            listeners = list(self._on_error)
        if not listeners:
            log.warning("%s of task %s: %s", callback_type, self.record.task_id, fault, exc_info=fault)
        for listener in listeners:
            try:
                listener(fault, context)
            except Exception:
                log.debug("on_error of task %s raised", self.record.task_id, exc_info=True)

    def _work(self, settled: Callable[[], None]) -> None:
        self._worker = threading.current_thread()
        while True:
            with self.changed:
                due = self._next()
                if due is None:
                    self._worker, self._working = None, False
                    break
                registration, entry = due
                registration.next_number = entry.number + 1
            self._call(registration, entry)
        settled()

    def _next(self) -> tuple[_Registration, Entry] | None:
        """With the lock held: who is called next. An event goes to on_event first, then to its own kind, in order."""
        best: tuple[int, bool, int] | None = None
        found: tuple[_Registration, Entry] | None = None
        for place, registration in enumerate(self._registrations):
            if registration.late:
                continue
            entry = self._due(registration, self.record.next_number)
            if entry is None:
                continue
            rank = (entry.number, registration.interest != "event", place)
            if best is None or rank < best:
                best, found = rank, (registration, entry)
        return found

    def _due(self, registration: _Registration, before: int) -> Entry | None:
        """With the lock held: the next entry that the registration wants, skipping what it does not."""
        while registration.next_number < before:
            entry = self.record.entry_from(registration.next_number)
            if entry is None or entry.number >= before:
                return None
            if registration.wants(entry):
                return entry
            registration.next_number = entry.number + 1
        return None

    def _call(self, registration: _Registration, entry: Entry) -> None:
        try:
            registration.callback(entry.value)
        except Exception as fault:  # noqa: BLE001 - users' code: its fault goes to its on_error and stops nothing
            self.report(fault, _TYPES[registration.interest], entry.value)

    def _unregister(self, registration: _Registration) -> None:
        with self.changed:
            if registration in self._registrations:
                self._registrations.remove(registration)
