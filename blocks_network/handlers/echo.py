"""Gives back what it was sent."""

from __future__ import annotations

import json
from typing import Any

from blocks_network.types import RequestPart, StartTaskMessage, TaskContext

__all__ = ["echo_handler", "wire_parts"]


def echo_handler(task: StartTaskMessage, ctx: TaskContext | None = None) -> dict[str, Any]:
    """Answers `Echoed request:` and the first text, or all parts as JSON when there is none."""
    text = next((found for part in task.request_parts or [] if (found := _text_of(part)) is not None), None)
    if text is None:
        text = json.dumps(wire_parts(task))
    return {"artifacts": [{"data": f"Echoed request: {text}", "mimeType": "text/plain"}]}


def wire_parts(task: StartTaskMessage) -> list[Any]:
    """The request's parts in their wire form."""
    return [part.to_dict() if isinstance(part, RequestPart) else part for part in task.request_parts or []]


def _text_of(part: Any) -> str | None:
    if isinstance(part, RequestPart):
        return None if part.text is None else str(part.text)
    if isinstance(part, dict):
        return str(part["text"]) if "text" in part else None
    return part if isinstance(part, str) else None
