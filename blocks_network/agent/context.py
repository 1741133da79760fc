"""TaskContext: what a handler can do while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
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


def _go_on() -> None:
    return None


class TaskContext:
    """Handed to a handler as its second argument. Safe to use from threads that the handler starts, until it returns.

    report_status(message): says how far the task is; at most one a second travels, the newest is never lost.
    publish_artifact(data, *, mime_type, file_name, output_id): gives an artifact now (str is UTF-8).
    create_stream(...): opens a live stream beside the task.
    download_input_artifact(part) -> bytes: the content of a file part.
    checkpoint(): waits here while the task is paused. report_status and stream writes are checkpoints too. Coroutines
    `await acheckpoint()`: on their event loop none of these waits, since it would hold up the others.
    cancel_event: set when the task is to end (cancel, expiry, terminate). Handlers end by themselves: nothing is
    interrupted. `cancel_event.wait(seconds)` is a sleep that ends with the task.

    Made by hand, for tests of handlers, report_status does nothing and the others say that they need a task.
    """

    def __init__(
        self,
        task_id: str = "",
        has_stream: bool = False,
        consumer_public_key: str | None = None,
        report_status: Callable[[object], None] | None = None,
        create_stream: Callable[..., Any] | None = None,
        download_input_artifact: Callable[..., bytes] | None = None,
        publish_artifact: Callable[..., None] | None = None,
        cancel_event: threading.Event | None = None,
        task_client: TaskClient | None = None,
        *,
        checkpoint: Callable[[], None] | None = None,
        wait_resumed: Callable[[], object] | None = None,
        make_cancel_event: Callable[[], threading.Event] | None = None,
        make_task_client: Callable[[], TaskClient | None] | None = None,
        expired: Callable[[], bool] | None = None,
    ) -> None:
        self.task_id, self.has_stream, self.consumer_public_key = task_id, has_stream, consumer_public_key
        self.report_status = report_status or _nothing
        self.create_stream = create_stream or _only_while_running("create_stream")
        self.download_input_artifact = download_input_artifact or _only_while_running("download_input_artifact")
        self.publish_artifact = publish_artifact or _only_while_running("publish_artifact")
        self._make_cancel_event = make_cancel_event
        self._cancel_event = cancel_event or (None if make_cancel_event else threading.Event())
        self.checkpoint = checkpoint or _go_on
        self._wait_resumed = wait_resumed or _go_on
        self._task_client, self._make_task_client = task_client, make_task_client
        self._expired = expired

    @property
    def cancel_event(self) -> threading.Event:
        """Set when the task is to end."""
        if self._cancel_event is None:
            assert self._make_cancel_event is not None
            self._cancel_event = self._make_cancel_event()
        return self._cancel_event

    @cancel_event.setter
    def cancel_event(self, event: threading.Event) -> None:
        """For tests of handlers."""
        self._cancel_event = event

    async def acheckpoint(self) -> None:
        """`checkpoint` for coroutines: others run on meanwhile."""
        await asyncio.to_thread(self._wait_resumed)

    @property
    def task_client(self) -> TaskClient | None:
        """A TaskClient with the agent's own identity, for work that this agent gives to others.

        Made at the first use. None in a context that was made by hand without one.
        """
        if self._task_client is None and self._make_task_client is not None:
            self._task_client = self._make_task_client()
        return self._task_client

    @property
    def is_cancelled(self) -> bool:
        """True once the task is to end, for whatever reason."""
        return self.cancel_event.is_set()

    @property
    def is_expired(self) -> bool:
        """True once a pipe task's time is over."""
        return self._expired is not None and self._expired()

    def __repr__(self) -> str:
        return f"<TaskContext of task {self.task_id or '(none)'}>"
