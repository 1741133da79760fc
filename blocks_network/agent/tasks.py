"""Which tasks an instance has: running, left open by their handler, ended, or cancelled before they came."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from blocks_network.wire.control import StartTaskMessage

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["EndReason", "TaskRun", "TaskTable", "Verdict"]

log = logging.getLogger(__name__)

REMEMBERED = 10_000
REMEMBERED_S = 3600.0
"""How many ended tasks are known, and for how long: the network repeats a StartTask until it sees that we have it."""
EARLY_CANCEL_S = 60.0
"""How long a cancel waits for a StartTask that it overtook."""


class EndReason(Enum):
    """Why a task was asked to end. A task may be asked for several."""

    CANCELED = "canceled"
    EXPIRED = "duration_expired"
    TERMINATED = "terminated"
    STOPPED = "instance_lost"
    """The instance itself is ending, and its drain is over."""
    FAILED = "failed"
    """One of its streams did; the run's `failure` says why."""


class Verdict(Enum):
    """What becomes of a StartTask."""

    TAKEN = "taken"
    KNOWN = "known"
    AT_CAPACITY = "agent_at_capacity"
    CANCELED_BEFORE = "canceled"


@dataclass(slots=True)
class TaskRun:
    """All that the instance knows of one task. `client` publishes with the task's own token.

    Events are made when somebody asks for them: most tasks are neither paused nor cancelled, and end before.
    """

    task: StartTaskMessage
    org_id: str
    channel: str
    client: PubNub
    received_at: float = field(default_factory=time.monotonic)
    reasons: set[EndReason] = field(default_factory=set)
    failure: str | None = None
    """Why the task has failed, whatever its handler still does."""
    _when_ending: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _when_left: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _ending: threading.Event | None = field(default=None, repr=False)
    _resumed: threading.Event | None = field(default=None, repr=False)
    """Waited for while the task is paused."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def ending(self) -> threading.Event:
        """Set when the task is asked to end."""
        with self._lock:
            if self._ending is None:
                self._ending = threading.Event()
                if self.reasons:
                    self._ending.set()
            return self._ending

    @property
    def is_ending(self) -> bool:
        """It was asked to end, or its handler has set `cancel_event` by itself."""
        return bool(self.reasons) or (self._ending is not None and self._ending.is_set())

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def is_pipe(self) -> bool:
        return self.task.task_kind == "pipe"

    def end(self, reason: EndReason) -> None:
        """Asks the handler to end. Harmless when repeated."""
        with self._lock:
            self.reasons.add(reason)
            called, self._when_ending = self._when_ending, []
            if self._ending is not None:
                self._ending.set()
        self.resume()
        for call in called:
            call()

    def fail(self, reason: str) -> None:
        """The task has failed, whatever its handler makes of it. The first reason counts."""
        with self._lock:
            self.failure = self.failure or reason
        self.end(EndReason.FAILED)

    def when_ending(self, call: Callable[[], None]) -> None:
        """Calls `call` once when the task is asked to end; at once when it was already."""
        with self._lock:
            if not self.reasons:
                self._when_ending.append(call)
                return
        call()

    def when_left(self, call: Callable[[], None]) -> None:
        """Calls `call` when the task leaves the instance."""
        with self._lock:
            self._when_left.append(call)

    def leave(self) -> None:
        """The task has left the instance: what was kept for it goes."""
        with self._lock:
            called, self._when_left, self._when_ending = self._when_left, [], []
        for call in called:
            call()

    def asked_to_end(self) -> frozenset[EndReason]:
        with self._lock:
            return frozenset(self.reasons)

    def pause(self) -> None:
        """Its context blocks at the next checkpoint, until `resume` or `end`."""
        with self._lock:
            if not self.reasons and self._resumed is None:
                self._resumed = threading.Event()

    def resume(self) -> None:
        with self._lock:
            resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set()

    def checkpoint(self) -> None:
        """Waits while the task is paused. Not on an event loop: that would hold up every other coroutine."""
        if self._resumed is not None and asyncio._get_running_loop() is None:
            self.wait_resumed()

    def wait_resumed(self) -> None:
        while (resumed := self._resumed) is not None:
            resumed.wait()


class TaskTable:
    """The instance's tasks under one lock. `slots` is how many run at one time, 0 for no limit."""

    def __init__(self, slots: int, changed: Callable[[], None]) -> None:
        self._slots, self._changed = slots, changed
        self._lock = threading.Condition()
        self._running: dict[str, TaskRun] = {}
        self._open: dict[str, TaskRun] = {}
        self._lost: set[str] = set()
        self._ended: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When, and in which attempt."""
        self._cancelled_early: dict[str, float] = {}
        self._closed = False

    @property
    def active(self) -> int:
        """Tasks whose handler runs."""
        return len(self._running)

    @property
    def lost(self) -> int:
        """Of these, tasks whose handler goes on long after it was asked to end."""
        return len(self._lost)

    def running(self) -> list[TaskRun]:
        with self._lock:
            return list(self._running.values())

    def open_pipes(self) -> list[TaskRun]:
        """Pipe tasks whose handler has returned."""
        with self._lock:
            return list(self._open.values())

    def find(self, task_id: str) -> TaskRun | None:
        with self._lock:
            return self._running.get(task_id) or self._open.get(task_id)

    def is_full(self) -> bool:
        with self._lock:
            return self._closed or 0 < self._slots <= len(self._running)

    def knows(self, task_id: str, attempt: int) -> bool:
        """Whether it has, or had, this run of the task. A retry is a run of its own once the one before has ended."""
        with self._lock:
            self._forget_old()
            return self._knows(task_id, attempt)

    def _knows(self, task_id: str, attempt: int) -> bool:
        if task_id in self._running or task_id in self._open:
            return True
        _, last = self._ended.get(task_id, (0.0, 0))
        return attempt <= last

    def take(self, run: TaskRun) -> Verdict:
        """Takes a task, or says why not."""
        with self._lock:
            self._forget_old()
            if self._knows(run.task_id, run.task.attempt):
                return Verdict.KNOWN
            if self._cancelled_early.pop(run.task_id, None) is not None:
                self._note_end(run)
                return Verdict.CANCELED_BEFORE
            if self._closed or 0 < self._slots <= len(self._running):
                return Verdict.AT_CAPACITY
            self._running[run.task_id] = run
        self._changed()
        return Verdict.TAKEN

    def handler_returned(self, run: TaskRun, *, stays_open: bool) -> None:
        """The slot is free. `stays_open`: a pipe task that goes on until somebody ends it."""
        with self._lock:
            self._running.pop(run.task_id, None)
            was_lost = run.task_id in self._lost
            self._lost.discard(run.task_id)
            if stays_open:
                self._open[run.task_id] = run
            else:
                self._note_end(run)
            self._lock.notify_all()
        if was_lost:
            log.warning("the handler of task %s has returned after all; its slot is free again", run.task_id)
        self._changed()

    def count_lost(self, run: TaskRun) -> bool:
        """Counts the slot as lost until the handler returns. False when it has."""
        with self._lock:
            if self._running.get(run.task_id) is not run:
                return False
            self._lost.add(run.task_id)
        self._changed()
        return True

    def close_pipe(self, task_id: str) -> TaskRun | None:
        """Takes an open pipe task out; None when there is none, or somebody else was quicker."""
        with self._lock:
            run = self._open.pop(task_id, None)
            if run is not None:
                self._note_end(run)
        return run

    def cancel_early(self, task_id: str) -> None:
        """Remembers a cancel whose task has not come yet."""
        with self._lock:
            if task_id not in self._ended and len(self._cancelled_early) < REMEMBERED:
                self._cancelled_early[task_id] = time.monotonic()

    def refuse_new(self) -> None:
        """From now on no task is taken."""
        with self._lock:
            self._closed = True

    def wait_idle(self, timeout_s: float) -> bool:
        """True when no handler runs any more, within `timeout_s`."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running, timeout_s)

    def _note_end(self, run: TaskRun) -> None:
        self._ended.pop(run.task_id, None)  # an earlier run of it: the order is that of the ends
        self._ended[run.task_id] = (time.monotonic(), run.task.attempt)

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= REMEMBERED and now - self._ended[oldest][0] < REMEMBERED_S:
                break
            del self._ended[oldest]
        if self._cancelled_early:
            self._cancelled_early = {t: at for t, at in self._cancelled_early.items() if now - at < EARLY_CANCEL_S}
