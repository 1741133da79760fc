"""The events of one task, as its instance publishes them: in order, and nothing after the terminal."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import TaskEndedError, TransportError
from blocks_network.transport.publisher import Outgoing, Publisher
from blocks_network.wire.events import event_mark
from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = ["MAX_TEXT_CHARS", "TERMINAL_STATES", "TaskEvents"]

MAX_TEXT_CHARS = 4096
"""Error texts and status messages are cut here, so that an event always fits into the protocol's 32 KiB."""
TERMINAL_STATES = ("completed", "failed", "canceled")


class TaskEvents:
    """Publishes for one task. Safe for threads; the order of calls is the order on the wire.

    `on_lost(task_id, fault)` hears of an event that the network will never take.
    """

    def __init__(
        self,
        run: TaskRun,
        publisher: Publisher,
        agent_name: str,
        *,
        on_lost: Callable[[str, TransportError], None],
        version: object = PROTOCOL_VERSION,
    ) -> None:
        self._run, self._publisher, self._agent_name, self._on_lost = run, publisher, agent_name, on_lost
        self._version = version
        self._mark = secrets.token_hex(4)
        self._number = 0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the terminal is on its way."""
        return self._closed

    def running(self) -> None:
        self._publish({"type": "progress", "progress": 0, "state": "running"})

    def status(self, message: object, *, timeout_s: float | None = None) -> None:
        """PublisherFull when the buffer is still full after `timeout_s`."""
        self._publish({"type": "progress", "message": cut(str(message))}, timeout_s=timeout_s)

    def artifact(self, ref: Mapping[str, Any], output_id: str | None = None) -> None:
        body: dict[str, Any] = {"type": "artifact", "artifactRef": dict(ref)}
        if output_id is not None:
            body["outputId"] = output_id
        self._publish(body)

    def system(self, status: str) -> None:
        self._publish({"type": "system", "status": status})

    def terminal(self, fields: Mapping[str, Any]) -> bool:
        """The task's end: `state`, and `error`, `reason`, `completionReason` where they apply. The first one counts.

        False when the task had its terminal already.
        """
        body = {**fields, "type": "terminal"}
        if isinstance(body.get("error"), str):
            body["error"] = cut(body["error"])
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._send(body, None)
        return True

    def _publish(self, body: dict[str, Any], *, timeout_s: float | None = None) -> None:
        with self._lock:
            if self._closed:
                raise TaskEndedError(f"task {self._run.task_id} has ended", task_id=self._run.task_id)
            self._send(body, timeout_s)

    def _send(self, body: dict[str, Any], timeout_s: float | None) -> None:
        """Must hold the lock."""
        task_id = self._run.task_id
        self._number += 1
        outgoing = Outgoing(
            key=task_id,
            client=self._run.client,
            channel=self._run.channel,
            message={**body, "taskId": task_id, "protocolVersion": self._version},
            meta={
                "agentName": self._agent_name,
                "taskId": task_id,
                "protocolVersion": str(self._version),
                "eventId": event_mark(self._mark, self._number),
                "attempt": str(self._run.task.attempt),
            },
            lost=lambda fault: self._on_lost(task_id, fault),
        )
        self._publisher.publish(outgoing, timeout_s=timeout_s)


def cut(text: str) -> str:
    """At most MAX_TEXT_CHARS, marked where something is missing."""
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 12]} ... (cut)"
