"""Notices: what a task's webhook is told, made at the moment when it happens to the task."""

from __future__ import annotations

import json
import secrets
from typing import Any

from blocks_network.server.limits import Limits
from blocks_network.server.store.webhooks import NewDelivery
from blocks_network.server.tasks.live import LiveTask
from blocks_network.server.tasks.views import task_view
from blocks_network.wire.instants import instant_text

__all__ = ["ARTIFACT", "notice_of"]

ARTIFACT = "task.artifact"


def notice_of(task: LiveTask, event: str, at_ms: int, limits: Limits, payload: bytes = b"") -> NewDelivery | None:
    """The delivery, or None when the task has no webhook for this event. `payload` is an artifact's message.

    Its id is made here, once: a change that is read again after a crash was not committed, and neither was its notice.
    """
    webhook = task.hook
    if webhook is None or event not in webhook.events:
        return None
    data: dict[str, Any] = {"pushConfigId": webhook.push_config_id, **task_view(task)}
    if event == ARTIFACT:
        if task.artifacts_told >= limits.webhook_artifacts_per_task:
            return None
        task.artifacts_told += 1
        data["artifact"] = json.loads(payload)
    return NewDelivery(
        delivery_id=f"msg_{secrets.token_hex(16)}",
        task_id=task.task_id,
        org_id=task.org_id,
        event=event,
        body=json.dumps({"type": event, "timestamp": instant_text(at_ms), "data": data}, ensure_ascii=False),
        created_at_ms=at_ms,
    )
