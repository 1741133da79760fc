"""Adds two numbers: {"a": 2, "b": 40}."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from blocks_network.handlers.echo import wire_parts
from blocks_network.types import RequestPart, StartTaskMessage, TaskContext

__all__ = ["adder_handler"]

MISSING = "Missing math_add request with numeric a and b"


def adder_handler(task: StartTaskMessage, ctx: TaskContext | None = None) -> dict[str, Any]:
    """Takes the first part with finite numbers `a` and `b` (and, if it has a `kind`, kind `math_add`)."""
    answer: dict[str, Any] = {"ok": False, "error": MISSING, "input": wire_parts(task)}
    for part in task.request_parts or []:
        numbers = _numbers(_request_of(part))
        if numbers is not None:
            a, b = numbers
            answer = {"ok": True, "a": a, "b": b, "sum": a + b}
            break
    return {"artifacts": [{"data": json.dumps(answer, indent=2), "mimeType": "application/json"}]}


def _request_of(part: Any) -> Mapping[str, Any]:
    """What a part asks for: the JSON object in its text, else its further fields."""
    text = part.text if isinstance(part, RequestPart) else part.get("text") if isinstance(part, dict) else part
    if text is not None:
        try:
            parsed = json.loads(text)
        except (TypeError, ValueError):
            return {}
        return parsed if isinstance(parsed, dict) else {}
    if isinstance(part, RequestPart):
        return part.extra
    return part if isinstance(part, dict) else {}


def _numbers(request: Mapping[str, Any]) -> tuple[int | float, int | float] | None:
    if request.get("kind") not in (None, "math_add"):
        return None
    a, b = request.get("a"), request.get("b")
    for number in (a, b):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not _is_finite(number):
            return None
    assert isinstance(a, (int, float))
    assert isinstance(b, (int, float))
    try:
        return (a, b) if _is_finite(a + b) else None
    except OverflowError:  # an int too large to meet a float
        return None


def _is_finite(number: int | float) -> bool:
    return isinstance(number, int) or math.isfinite(number)
