"""TaskContext: what a handler can do while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from blocks_network.consumer.client import TaskClient

__all__ = ["TaskContext"]


def _only_while_running(method: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{method} works inside a running task; this TaskContext was made by hand")

    return refuse


def _nothing(message: object) -> None:
    return None


@dataclass
class TaskContext:
    """Handed to a handler as its second argument. Safe to use from threads that the handler starts, until it returns.

    report_status(message): says how far the task is; at most one a second travels, the newest is never lost.
    publish_artifact(data, *, mime_type, file_name, output_id): gives an artifact now (str is UTF-8).
    download_input_artifact(part) -> bytes: the content of a file part.
    cancel_event: set when the task is to end (cancel, expiry, terminate). Handlers end by themselves: nothing is
    interrupted. `cancel_event.wait(seconds)` is a sleep that ends with the task.
    task_client: a TaskClient with the agent's own identity, for work that this agent gives to others.

    Made by hand, for tests of handlers, `report_status` does nothing and the others say that they need a task.
    """

    task_id: str = ""
    has_stream: bool = False
    consumer_public_key: str | None = None
    report_status: Callable[[object], None] = _nothing
    create_stream: Callable[..., Any] = field(default_factory=lambda: _only_while_running("create_stream"))
    download_input_artifact: Callable[..., bytes] = field(
        default_factory=lambda: _only_while_running("download_input_artifact")
    )
    publish_artifact: Callable[..., None] = field(default_factory=lambda: _only_while_running("publish_artifact"))
    cancel_event: threading.Event = field(default_factory=threading.Event)
    task_client: TaskClient | None = None
    _expired: Callable[[], bool] = field(default=lambda: False, repr=False)

    @property
    def is_cancelled(self) -> bool:
        """True once the task is to end, for whatever reason."""
        return self.cancel_event.is_set()

    @property
    def is_expired(self) -> bool:
        """True once a pipe task's time is over."""
        return self._expired()
