"""One task, from running to terminal, on a thread of the instance's pool."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from blocks_network import settings
from blocks_network.agent.context import TaskContext
from blocks_network.agent.events import TaskEvents
from blocks_network.agent.inputs import download_input_artifact
from blocks_network.agent.invoke import HandlerCancelled, Invocation
from blocks_network.agent.outputs import Outputs
from blocks_network.agent.results import Artifact, artifact_bytes
from blocks_network.agent.status import StatusReports
from blocks_network.agent.tasks import EndReason, TaskRun, TaskTable
from blocks_network.errors import AgentAuthFatalError, TaskEndedError, TaskEndingError
from blocks_network.logs import HANDLER_FAULTS
from blocks_network.wire.artifacts import DEFAULT_MIME_TYPE
from blocks_network.wire.parts import RequestPart

if TYPE_CHECKING:
    from blocks_network.agent.streams.task import TaskStreams
    from blocks_network.consumer.client import TaskClient

__all__ = ["Running", "TaskRunner", "Watcher", "terminal_fields"]

log = logging.getLogger(__name__)
log_of_handlers = logging.getLogger(HANDLER_FAULTS)

ENDED_BY = {EndReason.CANCELED, EndReason.TERMINATED, EndReason.EXPIRED}
"""Ends that somebody asked for. STOPPED is the instance's own matter, and a failure of the task."""


class Watcher(Protocol):
    """The instance, as its tasks see it."""

    def task_left(self, task_id: str) -> None:
        """The task is no longer the instance's."""

    def task_failed(self, task_id: str, fault: BaseException) -> None:
        """Called after the failed terminal; must not raise."""

    def shut_out(self, fault: AgentAuthFatalError) -> None:
        """A handler met the end of the agent's identity."""


@dataclass(slots=True)
class Running:
    """A task with all that publishes for it."""

    run: TaskRun
    events: TaskEvents
    status: StatusReports
    streams: TaskStreams


class TaskRunner:
    """Runs tasks one after another on whatever threads call it; holds nothing of a single task.

    `invocation` is looked at when a task begins, and may be replaced at any time.
    """

    def __init__(
        self,
        *,
        invocation: Invocation,
        table: TaskTable,
        outputs: Outputs,
        watcher: Watcher,
        task_client: Callable[[TaskRun], TaskClient | None],
    ) -> None:
        self.invocation, self._table = invocation, table
        self._outputs, self._watcher, self._task_client = outputs, watcher, task_client
        self._times = "timing" in {word.strip() for word in (settings.PROFILE.read() or "").split(",")}

    def __call__(self, running: Running) -> None:
        """The whole way of one task. Always ends with a free slot, and with a terminal unless a pipe stays open."""
        run, events = running.run, running.events
        stays_open = False
        fault: BaseException | None = None
        began_s = time.monotonic()
        try:
            fault = self._work(running)
            reasons = run.asked_to_end()
            stays_open = run.is_pipe and fault is None and not reasons
            if not stays_open:
                running.streams.end_all()
                fields = terminal_fields(fault, reasons, is_pipe=run.is_pipe, failure=run.failure)
                events.terminal(fields)
                log.info("task %s %s after %.3f s", run.task_id, fields["state"], time.monotonic() - began_s)
        finally:
            self._table.handler_returned(run, stays_open=stays_open)
            if not stays_open:
                run.leave()
                self._watcher.task_left(run.task_id)
        if isinstance(fault, AgentAuthFatalError):
            self._watcher.shut_out(fault)
        if fault is not None and not isinstance(fault, HandlerCancelled):
            self._watcher.task_failed(run.task_id, fault)

    def _work(self, running: Running) -> BaseException | None:
        """Running event, handler, artifacts. Returns what went wrong instead of raising it: a terminal follows.

        A request's streams end before its artifacts: they may repeat what was streamed.
        """
        run, events, status = running.run, running.events, running.status
        try:
            events.running()
            said_at = time.monotonic()
            ctx, sink = self._context(running), running.streams.sink()
            if self._times:
                _tell_times(run, said_at, time.monotonic())
            artifacts = self.invocation(run, ctx, sink)
            status.end()
            if not run.is_pipe:
                running.streams.end_all()
            if run.failure is not None and artifacts:
                log.warning("task %s failed before its handler returned; its artifacts are dropped", run.task_id)
                artifacts = []
            for artifact in artifacts:
                self._outputs.publish(run, events, artifact)
        except HandlerCancelled as fault:
            return fault
        except TaskEndingError as fault:
            return HandlerCancelled(str(fault)) if run.asked_to_end() else fault
        except BaseException as fault:
            log_of_handlers.error("task %s: the handler raised %s", run.task_id, describe(fault), exc_info=fault)
            return fault
        finally:
            _end_quietly(status)
        return None

    def _context(self, running: Running) -> TaskContext:
        run, events, status = running.run, running.events, running.status

        def publish_artifact(
            data: str | bytes | bytearray,
            *,
            mime_type: str | None = None,
            file_name: str | None = None,
            output_id: str | None = None,
        ) -> None:
            artifact = Artifact(artifact_bytes(data, "data"), mime_type or DEFAULT_MIME_TYPE, file_name, output_id)
            if events.closed:
                raise TaskEndedError(f"task {run.task_id} has ended", task_id=run.task_id)
            self._outputs.publish(run, events, artifact)

        def report_status(message: object) -> None:
            run.checkpoint()
            status.report(message)

        def download(part: RequestPart | Mapping[str, Any]) -> bytes:
            return download_input_artifact(part, run.client)

        return TaskContext(
            task_id=run.task_id,
            has_stream=run.task.has_stream,
            consumer_public_key=run.task.consumer_public_key,
            report_status=report_status,
            create_stream=running.streams.create_stream,
            download_input_artifact=download,
            publish_artifact=publish_artifact,
            checkpoint=run.checkpoint,
            wait_resumed=run.wait_resumed,
            make_cancel_event=lambda: run.ending,
            make_task_client=lambda: self._task_client(run),
            expired=lambda: EndReason.EXPIRED in run.asked_to_end(),
        )


def terminal_fields(
    fault: BaseException | None, reasons: frozenset[EndReason], *, is_pipe: bool, failure: str | None = None
) -> dict[str, Any]:
    """The terminal's state and its reasons, from what the handler did and what was asked of it.

    `failure` beats both: a stream of the task failed.
    """
    if failure is not None:
        return {"state": "failed", "error": failure}
    fields: dict[str, Any] = {}
    if fault is not None and not isinstance(fault, HandlerCancelled):
        fields["error"] = describe(fault)
    asked = reasons & ENDED_BY
    if EndReason.TERMINATED in reasons:
        fields["reason"] = "terminated"
    if EndReason.EXPIRED in reasons:
        fields["completionReason"] = "duration_expired"
    if asked:
        # a pipe task that lived its whole life has done what it was for
        expired = EndReason.EXPIRED in reasons and is_pipe and EndReason.CANCELED not in reasons
        fields["state"] = "completed" if expired else "canceled"
    elif EndReason.STOPPED in reasons:
        fields["state"] = "failed"
        fields["reason"] = EndReason.STOPPED.value
        fields.setdefault("error", "the instance was stopped before the task was done")
    else:
        fields["state"] = "completed" if fault is None else "failed"
    return fields


def _tell_times(run: TaskRun, said_at: float, called_at: float) -> None:
    """For BLOCKS_PROFILE=timing: how long a task took from its arrival to its handler, all by one clock."""
    log.info(
        "dispatch timing task_id=%s received_to_running_ms=%.3f running_to_handler_ms=%.3f received_to_handler_ms=%.3f",
        run.task_id,
        (said_at - run.received_at) * 1000,
        (called_at - said_at) * 1000,
        (called_at - run.received_at) * 1000,
    )


def describe(fault: BaseException) -> str:
    """An exception's text, or its type when it has none."""
    return str(fault) or f"Agent instance error ({type(fault).__name__})"


def _end_quietly(status: StatusReports) -> None:
    try:
        status.end()
    except TaskEndedError:
        log.debug("a status message came after the terminal")
