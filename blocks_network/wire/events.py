"""Task events: what is published on a task's channel, and how a consumer reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from blocks_network.wire.artifacts import ArtifactRef
from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = [
    "MAX_ERROR_TEXT_BYTES",
    "TERMINAL_STATES",
    "TaskEvent",
    "TerminalState",
    "artifact_event",
    "cancel_requested_event",
    "cut_text",
    "event_mark",
    "event_meta",
    "is_terminal_event",
    "running_event",
    "status_event",
    "system_event",
    "terminal_event",
]

TerminalState = Literal["completed", "failed", "canceled"]
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "failed", "canceled"})

MAX_ERROR_TEXT_BYTES = 4096
"""An error or status text is cut to this, so that an event fits a 32 KiB message whatever a handler says."""


def cut_text(text: str, limit_bytes: int = MAX_ERROR_TEXT_BYTES) -> str:
    """The text, or its head marked as cut when its UTF-8 form is longer than `limit_bytes`."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return raw.decode()
    return raw[:limit_bytes].decode("utf-8", "ignore") + f"... [cut, {len(raw)} bytes in all]"


def _event(kind: str, task_id: str, version: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "taskId": task_id,
        **{key: value for key, value in fields.items() if value is not None},
        "protocolVersion": version or PROTOCOL_VERSION,
    }


def event_mark(run: str, number: int) -> str:
    """`eventId` in the meta of an instance's event: a text of the run's own, and the event's number in it, from 1 on.

    An instance that had no answer sends an event again, with the same mark; so a network can tell a repeat.
    """
    return f"{run}.{number}"


def event_meta(agent_name: str, task_id: str, version: str | None = None) -> dict[str, str]:
    """The publish meta of a task event."""
    return {"agentName": agent_name, "taskId": task_id, "protocolVersion": version or PROTOCOL_VERSION}


def running_event(task_id: str) -> dict[str, Any]:
    """The first event of every run."""
    return _event("progress", task_id, None, progress=0, state="running")


def status_event(task_id: str, message: str) -> dict[str, Any]:
    """What a handler reports of its own accord."""
    return _event("progress", task_id, None, message=cut_text(message))


def artifact_event(task_id: str, ref: Mapping[str, Any], output_id: str | None = None) -> dict[str, Any]:
    return _event("artifact", task_id, None, artifactRef=dict(ref), outputId=output_id)


def terminal_event(
    task_id: str,
    state: TerminalState,
    *,
    error: str | None = None,
    completion_reason: str | None = None,
    reason: str | None = None,
    version: str | None = None,
) -> dict[str, Any]:
    """The last event of a task. `version` repeats that of a refused message."""
    cut = None if error is None else cut_text(error)
    return _event(
        "terminal", task_id, version, state=state, error=cut, completionReason=completion_reason, reason=reason
    )


def system_event(task_id: str, status: Literal["paused", "resumed"]) -> dict[str, Any]:
    return _event("system", task_id, None, status=status)


def cancel_requested_event(task_id: str, at_ms: int) -> dict[str, Any]:
    """Published by the network when a cancel was asked for; `at_ms` is Unix ms."""
    return _event("cancel_requested", task_id, None, ts=at_ms)


def is_terminal_event(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "terminal" and event.get("state") in TERMINAL_STATES


class TaskEvent:
    """One event as a consumer sees it: the usual fields as attributes, every wire field through `get` and `[]`.

    `timetoken` is when the network took it, in units of 100 ns since 1970; None where that is not known.
    """

    __slots__ = ("raw", "timetoken")

    def __init__(self, raw: dict[str, Any], timetoken: int | None = None) -> None:
        self.raw, self.timetoken = raw, timetoken

    @property
    def type(self) -> str:
        value = self.raw.get("type", "")
        return value if isinstance(value, str) else ""

    @property
    def task_id(self) -> str:
        value = self.raw.get("taskId", "")
        return value if isinstance(value, str) else ""

    @property
    def message(self) -> str | None:
        return self.raw.get("message")

    @property
    def progress(self) -> float | None:
        return self.raw.get("progress")

    @property
    def state(self) -> str | None:
        return self.raw.get("state")

    @property
    def artifact_ref(self) -> ArtifactRef | None:
        ref = self.raw.get("artifactRef")
        return ArtifactRef.from_dict(ref) if isinstance(ref, Mapping) else None

    def get(self, key: str, default: Any = None) -> Any:
        return self.raw.get(key, default)

    def __getitem__(self, key: str) -> Any:
        return self.raw[key]

    def __contains__(self, key: object) -> bool:
        return key in self.raw

    def __repr__(self) -> str:
        return f"TaskEvent({self.raw!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskEvent) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash((self.type, self.task_id, self.state))
