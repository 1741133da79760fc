"""Tasks as callers see them: the answers of GetTask, ListTasks and SendMessage, and ListTasks' parameters."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from blocks_network.server.store.tasks import TaskFilter, TaskRecord
from blocks_network.server.tasks.life import shown_state, states_shown_as
from blocks_network.server.tasks.refusals import check_storable, invalid_params
from blocks_network.wire.instants import instant_text
from blocks_network.wire.rpc import TASK_STATES

__all__ = ["anonymous_view", "instant", "list_filter", "next_cursor", "task_view"]

PAGE = 50
ANONYMOUS = frozenset(
    {"taskId", "agentName", "state", "createdTime", "updatedTime", "endedTime", "taskKind", "billingMode", "hasStream"}
)


def task_view(record: TaskRecord) -> dict[str, Any]:
    """One task. Instants are ISO 8601 in UTC with milliseconds; what is not known is left out."""
    view = {
        "taskId": record.task_id,
        "agentName": record.agent_name,
        "owner": record.owner_id,
        "orgId": record.org_id,
        "state": shown_state(record.state),
        "createdTime": instant(record.created_at_ms),
        "updatedTime": instant(record.updated_at_ms),
        "startedTime": instant(record.started_at_ms),
        "endedTime": instant(record.ended_at_ms),
        "taskKind": record.task_kind,
        "billingMode": record.billing_mode,
        "duration": record.duration_minutes,
        "durationExpiresAtMs": record.expires_at_ms,
        "hasStream": record.has_stream or None,
        "instanceId": record.instance_id,
        "attempt": record.attempt,
        "retryPolicy": _loaded(record.retry_policy),
        "warnings": _loaded(record.warnings),
        "error": record.error,
        "reason": record.reason,
        "completionReason": record.completion_reason,
    }
    return {key: value for key, value in view.items() if value is not None}


def anonymous_view(record: TaskRecord) -> dict[str, Any]:
    """What is told to who has shown nothing but the task's id: how far it is, not whose it is and what went wrong."""
    return {key: value for key, value in task_view(record).items() if key in ANONYMOUS}


def instant(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return instant_text(at_ms)


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def list_filter(params: Mapping[str, Any], org_id: str, most: int) -> TaskFilter:
    """Reads ListTasks' parameters; TaskRefusal names the wrong one. A limit of 0 asks for the count alone."""
    texts: dict[str, str | None] = {}
    for name in ("ownerId", "agentName", "state", "cursor"):
        value = params.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid_params(f"{name} is not a text")
        texts[name] = check_storable(name, value) if value else None
    state = texts["state"]
    if state is not None and state not in TASK_STATES:
        raise invalid_params(f"state is none of {', '.join(TASK_STATES)}")
    limit = params.get("limit", PAGE)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise invalid_params("limit is not a whole number of at least 0")
    return TaskFilter(
        org_id=org_id,
        owner_id=texts["ownerId"],
        agent_name=texts["agentName"],
        states=None if state is None else states_shown_as(state),
        before=None if texts["cursor"] is None else _task_of_cursor(texts["cursor"]),
        limit=min(limit, most),
    )


def next_cursor(last: TaskRecord) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(f"before:{last.task_id}".encode()).decode().rstrip("=")


def _task_of_cursor(cursor: str) -> str:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("before:"):
        raise invalid_params("cursor is not one that ListTasks gave")
    return check_storable("cursor", text.removeprefix("before:"))
