"""What the task service refuses, and why: the errors behind JSON-RPC's `error.data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks_network.wire.rpc import INVALID_PARAMS, REFUSED

__all__ = ["TaskRefusal", "check_storable", "invalid_params", "task_not_found"]

NUL = "\x00"
"""PostgreSQL stores it in no text."""


class TaskRefusal(Exception):
    """A call that was understood and is refused.

    `code` is the word for programs (`error.data.code`), the message says what to do, `details` has the numbers.
    """

    def __init__(
        self, code: str, message: str, *, rpc_code: int = REFUSED, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.rpc_code, self.details = code, message, rpc_code, details

    def data(self) -> dict[str, Any]:
        """`error.data` of the envelope."""
        data: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details is not None:
            data["details"] = dict(self.details)
        return data


def invalid_params(message: str) -> TaskRefusal:
    """A parameter that cannot be used; the message names it."""
    return TaskRefusal("InvalidParams", message, rpc_code=INVALID_PARAMS)


def check_storable(name: str, text: str) -> str:
    """The text; TaskRefusal when no database could hold or look for it."""
    if NUL in text:
        raise invalid_params(f"{name} holds a NUL character")
    return text


def task_not_found(task_id: str) -> TaskRefusal:
    """Unknown, or another tenant's: nobody learns which."""
    return TaskRefusal("TaskNotFound", f"there is no task {task_id!r}", details={"taskId": task_id})
