"""Control messages to decisions: run, refuse, ignore, cancel. On the subscription's thread, which it never blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from blocks_network.agent.run import Running, terminal_fields
from blocks_network.agent.tasks import EndReason, TaskRun, TaskTable, Verdict
from blocks_network.agent.timers import Timers
from blocks_network.errors import TransportError
from blocks_network.transport.subscription import Received
from blocks_network.wire.channels import owner_of, task_channel
from blocks_network.wire.control import (
    StartTaskMessage,
    extract_start_task_tokens,
    is_broadcast,
    parse_control_message,
    start_task_fault,
)
from blocks_network.wire.versions import PROTOCOL_VERSION, is_supported

__all__ = ["Commands", "Dispatcher"]

log = logging.getLogger(__name__)

_ENDS = {
    "CancelTask": EndReason.CANCELED,
    "ExpireTask": EndReason.EXPIRED,
    "TerminateTask": EndReason.TERMINATED,
}


class Commands:
    """What the dispatcher needs of the instance that it works for. All of it returns at once."""

    def __init__(
        self,
        *,
        prepare: Callable[[TaskRun, object], Running],
        client_for: Callable[[str | None], Any],
        submit: Callable[[Running], None],
        close: Callable[[Running, Mapping[str, Any]], None],
        control_token: Callable[[str], None],
        switch: Callable[[Mapping[str, Any]], None],
        cancelled: Callable[[str], None] | None = None,
    ) -> None:
        self.prepare, self.client_for, self.submit, self.close = prepare, client_for, submit, close
        self.control_token, self.switch, self.cancelled = control_token, switch, cancelled


class Dispatcher:
    """One for an instance. What it cannot use is logged and ignored; what it refuses gets a terminal."""

    def __init__(self, table: TaskTable, timers: Timers, instance: Commands) -> None:
        self._table, self._timers, self._instance = table, timers, instance
        self._running: dict[str, Running] = {}

    def received(self, message: Received) -> None:
        wire = message.payload
        control = parse_control_message(wire)
        if control is None:
            log.debug("ignored a control message of unknown type: %.200r", wire)
        elif isinstance(control, StartTaskMessage):
            self._start(control, wire, broadcast=is_broadcast(message.meta))
        elif control.type in _ENDS:
            self._end(control.task_id, _ENDS[control.type])
        elif control.type in ("PauseTask", "ResumeTask"):
            self._pause(control.task_id, paused=control.type == "PauseTask")
        elif control.type == "SwitchEnvironment":
            self._instance.switch(wire)
        else:
            log.info("%s of task %s: the network places it anew by itself", control.type, control.task_id)

    def forget(self, task_id: str) -> None:
        """The task has left the instance."""
        self._running.pop(task_id, None)

    def find(self, task_id: str) -> Running | None:
        """A task whose handler runs, or that it left open."""
        return self._running.get(task_id)

    def open_pipe(self, task_id: str) -> Running | None:
        """Takes an open pipe task out, to end it; None when there is none."""
        run = self._table.close_pipe(task_id)
        return self._running.pop(task_id, None) if run is not None else None

    def _start(self, task: StartTaskMessage, wire: Mapping[str, Any], *, broadcast: bool) -> None:
        task_id = wire.get("taskId")
        if not isinstance(task_id, str) or not task_id:
            log.warning("ignored a StartTask without a usable taskId")
            return
        version = wire.get("protocolVersion")
        if not is_supported(version):
            if broadcast:
                log.debug("task %s speaks protocol %r, which we do not", task_id, version)
            else:
                self._refuse(task, wire, "unsupported_protocol_version", version)
            return
        fault = start_task_fault(wire)
        if fault is not None:
            log.error("task %s cannot be run: %s", task_id, fault)
            self._refuse(task, wire, "invalid_start_task", PROTOCOL_VERSION if version is None else version)
            return
        if self._table.knows(task_id, task.attempt):
            log.debug("task %s is known already", task_id)
            return
        if broadcast and self._table.is_full():
            log.debug("no free slot for task %s", task_id)
            return
        self._take(task, wire)

    def _take(self, task: StartTaskMessage, wire: Mapping[str, Any]) -> None:
        _, control_token = extract_start_task_tokens(wire)
        running = self._running_of(task, wire, PROTOCOL_VERSION)
        self._running[task.task_id] = running
        verdict = self._table.take(running.run)
        if verdict is not Verdict.TAKEN:
            self._running.pop(task.task_id, None)
        if verdict is Verdict.AT_CAPACITY:
            running.events.terminal({"state": "failed", "error": "agent_at_capacity"})
        elif verdict is Verdict.CANCELED_BEFORE:
            running.events.terminal({"state": "canceled"})
        elif verdict is Verdict.TAKEN:
            if control_token:
                self._instance.control_token(control_token)
            if running.run.is_pipe and task.duration_expires_at_ms is not None:
                self._watch_life(running.run, task.duration_expires_at_ms)
            self._hand_over(running)

    def _hand_over(self, running: Running) -> None:
        """To a worker. Where none can be had the task fails, and its slot is free again."""
        try:
            self._instance.submit(running)
        except RuntimeError as fault:  # no thread to be had, or the interpreter is on its way out
            log.error("task %s cannot be started: %s", running.run.task_id, fault)
            running.events.terminal({"state": "failed", "error": str(fault)})
            self._table.handler_returned(running.run, stays_open=False)
            running.run.leave()
            self.forget(running.run.task_id)

    def _watch_life(self, run: TaskRun, expires_at_ms: float) -> None:
        """A pipe task ends at its instant also when the network's own message does not come."""
        withdraw = self._timers.after(
            expires_at_ms / 1000 - time.time(), lambda: self._end(run.task_id, EndReason.EXPIRED)
        )
        run.when_left(withdraw)

    def _refuse(self, task: StartTaskMessage, wire: Mapping[str, Any], error: str, version: object) -> None:
        """With the message's own token: the task is not ours, and only its token may write to its channel."""
        try:
            self._running_of(task, wire, version).events.terminal({"state": "failed", "error": error})
        except (TransportError, ValueError) as fault:
            log.error("task %s could not be refused: %s", task.task_id, fault)

    def _running_of(self, task: StartTaskMessage, wire: Mapping[str, Any], version: object) -> Running:
        write_token, _ = extract_start_task_tokens(wire)
        org_id = task.org_id or owner_of(wire.get("ownerId"), wire.get("callerClaims") or {})
        run = TaskRun(
            task=task,
            org_id=org_id,
            channel=task_channel(task.task_id, org_id),
            client=self._instance.client_for(write_token if isinstance(write_token, str) else None),
        )
        return self._instance.prepare(run, version)

    def _end(self, task_id: str, reason: EndReason) -> None:
        opened = self.open_pipe(task_id)
        if opened is not None:
            opened.run.end(reason)
            self._instance.close(opened, terminal_fields(None, frozenset({reason}), is_pipe=True))
            return
        run = self._table.find(task_id)
        if run is not None:
            run.end(reason)
            if reason is EndReason.CANCELED and self._instance.cancelled is not None:
                self._instance.cancelled(task_id)
        elif reason is EndReason.CANCELED:
            self._table.cancel_early(task_id)

    def _pause(self, task_id: str, *, paused: bool) -> None:
        running = self._running.get(task_id)
        if running is None or running.events.closed:
            return
        if paused:
            running.run.pause()
        else:
            running.run.resume()
        running.events.system("paused" if paused else "resumed")
