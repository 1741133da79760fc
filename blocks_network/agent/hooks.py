"""The program's own functions in place of the runtime's, or beside it: on_start_task, on_cancel_task, on_error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.agent.run import Running, Watcher, describe
from blocks_network.agent.tasks import TaskTable

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["Hooks"]

log = logging.getLogger(__name__)


class Hooks:
    """What they raise is logged with its task. `client()` is the live control client, which the protocol gives them."""

    def __init__(
        self, options: AgentInstanceOptions, *, client: Callable[[], PubNub], table: TaskTable, watcher: Watcher
    ) -> None:
        self._start, self._cancel, self._error = options.on_start_task, options.on_cancel_task, options.on_error
        self._client, self._table, self._watcher = client, table, watcher

    @property
    def replaces_processing(self) -> bool:
        return self._start is not None

    @property
    def hears_cancels(self) -> bool:
        return self._cancel is not None

    def start(self, running: Running) -> None:
        """on_start_task, on a pool thread, instead of the whole processing; a fault in it is still a failed task.

        What it started stays open until publish_terminal, a cancel, an expiry or a terminate.
        """
        run, fault = running.run, None
        assert self._start is not None
        try:
            self._start(run.task, self._client())
        except BaseException as raised:
            fault = raised
            log.error("task %s: on_start_task raised", run.task_id, exc_info=fault)
            running.events.terminal({"state": "failed", "error": describe(fault)})
        finally:
            self._table.handler_returned(run, stays_open=fault is None)
        if fault is not None:
            run.leave()
            self._watcher.task_left(run.task_id)
            self._watcher.task_failed(run.task_id, fault)

    def cancelled(self, task_id: str) -> None:
        """on_cancel_task, after the task's cancel_event was set: on a thread of its own, since it may take its time."""

        def tell() -> None:
            assert self._cancel is not None
            try:
                self._cancel(task_id, self._client())
            except Exception:
                log.exception("on_cancel_task raised over task %s", task_id)

        threading.Thread(target=tell, name=f"blocks-on-cancel-{task_id}", daemon=True).start()

    def failed(self, task_id: str, fault: BaseException) -> None:
        """on_error, on the thread that met the fault."""
        if self._error is None:
            return
        try:
            self._error(task_id, fault)
        except Exception:
            log.exception("on_error raised over task %s", task_id)
