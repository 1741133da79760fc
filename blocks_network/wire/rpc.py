"""JSON-RPC 2.0 as the platform speaks it: method names, error codes, and the shapes around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = [
    "BUSY_CODES",
    "EMBEDDED_JWT_CODES",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHODS",
    "METHOD_NOT_FOUND",
    "Method",
    "PARSE_ERROR",
    "REFUSED",
    "STORE_UNAVAILABLE",
    "TASK_STATES",
    "error_code",
    "error_envelope",
    "request_envelope",
    "result_envelope",
]

Method = Literal[
    "SendMessage", "GetTask", "ListTasks", "CancelTask", "PauseTask", "ResumeTask", "RetryTask", "TerminateTask"
]
METHODS: tuple[str, ...] = (
    "SendMessage",
    "GetTask",
    "ListTasks",
    "CancelTask",
    "PauseTask",
    "ResumeTask",
    "RetryTask",
    "TerminateTask",
)
TASK_STATES = ("submitted", "queued", "running", "paused", "completed", "failed", "canceled")
"""The states that GetTask and ListTasks show."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
REFUSED = -32000
"""The platform understood the call and refuses it; `data.code` says why."""

STORE_UNAVAILABLE = "StoreUnavailable"
BUSY_CODES = frozenset({"NetworkBusy", STORE_UNAVAILABLE})
"""`data.code` values of a network that has no time, or no room, now: nothing was changed, and the call is made again
later. Alone it comes with HTTP 503."""
EMBEDDED_JWT_CODES = frozenset(
    {
        "EMBEDDED_JWT_REVOKED",
        "EMBEDDED_JWT_LOGOUT",
        "EMBEDDED_JWT_KILLED",
        "EMBEDDED_JWT_SCOPE_DRIFT",
        "AGENT_OUT_OF_SCOPE",
    }
)
"""`data.code` values after which a caller renews its token and tries once more."""


def error_code(error: object) -> str | None:
    """`data.code` of an envelope's `error`; None where there is none."""
    data = error.get("data") if isinstance(error, Mapping) else None
    code = data.get("code") if isinstance(data, Mapping) else None
    return code if isinstance(code, str) else None


def request_envelope(call_id: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "method": method, "params": dict(params)}


def result_envelope(call_id: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "result": result}


def error_envelope(call_id: Any, code: int, message: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = dict(data)
    return {"jsonrpc": "2.0", "id": call_id, "error": error}
