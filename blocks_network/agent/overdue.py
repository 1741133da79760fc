"""Handlers that go on after they were asked to end: reported, and their slots counted as lost until they return."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from blocks_network.agent.tasks import TaskRun, TaskTable
from blocks_network.agent.timers import Timers
from blocks_network.errors import HandlerOverdueError

__all__ = ["Overdue"]

log = logging.getLogger(__name__)


class Overdue:
    """`report(task_id, fault)` is called once for each such handler, on a thread of its own.

    Nothing can interrupt a Python thread: the slot is lost, and presence says so, until the handler looks at
    `ctx.cancel_event` or returns by itself. `grace_s` is how long it may take to do so.
    """

    def __init__(
        self, table: TaskTable, timers: Timers, *, grace_s: float, report: Callable[[str, BaseException], None]
    ) -> None:
        self._table, self._timers, self._grace_s, self._report = table, timers, grace_s, report

    def watch(self, run: TaskRun) -> None:
        """From the moment when the task is asked to end."""

        def asked() -> None:
            run.when_left(self._timers.after(self._grace_s, lambda: self._due(run)))

        run.when_ending(asked)

    def _due(self, run: TaskRun) -> None:
        """On the timers' thread."""
        if not self._table.count_lost(run):
            return
        fault = HandlerOverdueError(
            f"the handler of task {run.task_id} still runs {self._grace_s:g} s after it was asked to end",
            task_id=run.task_id,
            hint="look at ctx.cancel_event in long work; its slot is lost until it returns",
        )
        log.error("%s", fault)
        threading.Thread(
            target=self._report, args=(run.task_id, fault), name=f"blocks-on-error-{run.task_id}", daemon=True
        ).start()
