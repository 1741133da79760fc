"""One task, followed on an event loop: the surface of TaskSession, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from blocks_network.consumer.aio.bridge import Bridge, News
from blocks_network.consumer.aio.streams import AsyncStream, AsyncStreamRef
from blocks_network.consumer.delivery import CallbackErrorContext
from blocks_network.consumer.record import Entry
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.session import WAIT_S, TaskSession
from blocks_network.stream.refs import StreamRef
from blocks_network.wire.artifacts import ArtifactRef, DownloadedArtifact
from blocks_network.wire.events import TaskEvent

__all__ = ["AsyncTaskResult", "AsyncTaskSession"]

Unregister = Callable[[], None]
EventCallback = Callable[[TaskEvent], object] | Callable[[TaskEvent], Awaitable[object]]


class AsyncTaskSession:
    """Made by an AsyncTaskClient; `session` is the one below. A context manager that closes.

    Callbacks are functions or coroutine functions; they run on the loop, one at a time, in order. Waiting for a task
    takes no thread.
    """

    def __init__(self, session: TaskSession, bridge: Bridge) -> None:
        self.session, self._bridge = session, bridge
        self._inside = session.inside

    # --- what is known ---

    @property
    def task_id(self) -> str:
        return self.session.task_id

    @property
    def owner_id(self) -> str:
        return self.session.owner_id

    @property
    def agent_name(self) -> str:
        return self.session.agent_name

    @property
    def read_token(self) -> str | None:
        return self.session.read_token

    @property
    def status_channel(self) -> str:
        return self.session.status_channel

    @property
    def idempotent(self) -> bool:
        return self.session.idempotent

    @property
    def queued(self) -> bool:
        return self.session.queued

    @property
    def push_config_id(self) -> str | None:
        return self.session.push_config_id

    @property
    def state(self) -> str | None:
        return self.session.state

    @property
    def is_closed(self) -> bool:
        return self.session.is_closed

    # --- callbacks: each answer unregisters ---

    async def on_event(self, callback: EventCallback) -> Unregister:
        """Every event. Of the past first: that replay is over when this returns."""
        return await self._register(self.session.on_event, callback)

    async def on_progress(self, callback: EventCallback) -> Unregister:
        return await self._register(self.session.on_progress, callback)

    async def on_artifact(self, callback: EventCallback) -> Unregister:
        return await self._register(self.session.on_artifact, callback)

    async def on_terminal(self, callback: EventCallback) -> Unregister:
        return await self._register(self.session.on_terminal, callback)

    async def on_cancel_requested(self, callback: EventCallback) -> Unregister:
        return await self._register(self.session.on_cancel_requested, callback)

    async def on_stream(self, callback: Callable[[AsyncStreamRef], object]) -> Unregister:
        def with_ref(ref: StreamRef) -> object:
            return callback(AsyncStreamRef(ref, self._bridge))

        return await self._register(self.session.on_stream, with_ref)

    async def on_error(self, callback: Callable[[Exception, CallbackErrorContext], object]) -> Unregister:
        """What callbacks raise, and outages of the session itself."""
        return self.session.on_error(self._bridge.telling(callback))

    # --- waiting ---

    async def wait_for_terminal(self, timeout: float | None = WAIT_S) -> TaskEvent:
        """As TaskSession.wait_for_terminal."""
        await self._recalled()
        here = self._bridge.delivers(self)
        try:
            with News(self._bridge, self._inside.changed) as news:
                await news.until(lambda: self.session._over(here), _deadline(timeout))
        except asyncio.TimeoutError:
            raise self.session._timed_out("did not end", timeout) from None
        return self.session.wait_for_terminal(0)

    async def result(self, timeout: float | None = WAIT_S) -> AsyncTaskResult:
        """What the task gave back, once it has completed. TaskFailed or TaskCanceled when it ended otherwise."""
        await self.wait_for_terminal(timeout)
        return AsyncTaskResult(self.session.result(0), self._bridge)

    async def wait_for_stream(self, stream_id: str | None = None, timeout: float | None = None) -> AsyncStreamRef:
        """As TaskSession.wait_for_stream."""
        await self._recalled()
        session = self.session
        if stream_id is None:
            if len(session.list_streams()) > 1:
                session.wait_for_stream(None, 0)  # says which ways there are to choose
            return await self.wait_for_stream_where(lambda ref: True, timeout)
        try:
            with News(self._bridge, self._inside.changed) as news:
                await news.until(lambda: session._match(stream_id) or session._streamless(), _deadline(timeout))
        except asyncio.TimeoutError:
            raise session._timed_out(f"announced no {stream_id}", timeout) from None
        return AsyncStreamRef(session.wait_for_stream(stream_id, 0), self._bridge)

    async def wait_for_stream_where(
        self, predicate: Callable[[StreamRef], bool], timeout: float | None = None
    ) -> AsyncStreamRef:
        """As TaskSession.wait_for_stream_where. `predicate` runs on the loop."""
        await self._recalled()
        session, deadline, asked = self.session, _deadline(timeout), 0
        with News(self._bridge, self._inside.changed) as news:
            while True:
                try:
                    await news.until(lambda known=asked: self._streams_beyond(known), deadline)  # type: ignore[misc]
                except asyncio.TimeoutError:
                    raise session._timed_out("announced no stream that fits", timeout) from None
                fresh = session._further_streams(asked, 0)
                asked += len(fresh)
                for ref in fresh:
                    if session._fits(predicate, ref):
                        return AsyncStreamRef(ref, self._bridge)

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        """Every event from the first to the terminal. SessionClosedError when the session is closed before."""
        return self._events()

    async def _events(self) -> AsyncIterator[TaskEvent]:
        await self._recalled()
        record, number = self._inside.record, 0

        def ready() -> Entry | bool | None:
            return record.entry_from(number) or self._inside.unwaitable()

        with News(self._bridge, self._inside.changed) as news:
            while True:
                await news.until(ready)
                entry = self.session._next_entry(number)
                number = entry.number + 1
                if entry.kind == "terminal":
                    with self._inside.changed:
                        self._inside.note_known()
                if isinstance(entry.value, TaskEvent):
                    yield entry.value
                if entry.kind == "terminal":
                    return

    # --- reading ---

    async def list_events(self) -> list[TaskEvent]:
        return await self._bridge.call(self.session.list_events)

    async def list_artifacts(self) -> list[ArtifactRef]:
        return await self._bridge.call(self.session.list_artifacts)

    async def list_streams(self) -> list[AsyncStreamRef]:
        return [AsyncStreamRef(ref, self._bridge) for ref in await self._bridge.call(self.session.list_streams)]

    async def open_all_streams(self, *, reorder_timeout_ms: float | None = None) -> list[AsyncStream]:
        """Opens each stream that we read, in order; leaves out what cannot be opened any more."""
        clients = await self._bridge.call(self.session.open_all_streams, reorder_timeout_ms=reorder_timeout_ms)
        return [AsyncStream(client, self._bridge) for client in clients]

    async def download_artifact(self, ref: ArtifactRef | Mapping[str, Any]) -> DownloadedArtifact:
        return await self._bridge.call(self.session.download_artifact, ref)

    async def save_artifacts(self, directory: str | Path) -> list[str]:
        """As TaskSession.save_artifacts."""
        return await self._bridge.call(self.session.save_artifacts, directory)

    # --- control and end ---

    async def cancel(self) -> None:
        """Asks the agent to end; the end comes as terminal "canceled"."""
        await self._bridge.call(self.session.cancel)

    async def terminate(self) -> None:
        """Ends the task now, whatever its handler does."""
        await self._bridge.call(self.session.terminate)

    async def close(self) -> None:
        """Stops following the task; the task goes on. Idempotent."""
        await self._bridge.call(self.session.close)

    async def __aenter__(self) -> AsyncTaskSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self.session!r}"

    async def _register(
        self, register: Callable[[Callable[[Any], object]], Unregister], callback: Callable[[Any], object]
    ) -> Unregister:
        tell = self._bridge.blocking(callback, self)
        return await self._bridge.call_apart(lambda: register(tell))

    async def _recalled(self) -> None:
        """Reads the history of a task that was over when the session was made; nothing to do with all others."""
        if self._inside.is_unread:
            await self._bridge.call(self._inside.recall)

    def _streams_beyond(self, known: int) -> bool:
        return len(self._inside.record.streams) > known or self.session._streamless()


class AsyncTaskResult:
    """A completed task. `result` is the one below, which can be pickled."""

    def __init__(self, result: TaskResult, bridge: Bridge) -> None:
        self.result, self._bridge = result, bridge

    @property
    def task_id(self) -> str:
        return self.result.task_id

    @property
    def event(self) -> TaskEvent:
        """The terminal event."""
        return self.result.event

    @property
    def artifacts(self) -> list[ArtifactRef]:
        return self.result.artifacts

    def output(self, output_id: str) -> ArtifactRef:
        """The artifact of one of the agent's declared outputs. KeyError when the task gave none."""
        return self.result.output(output_id)

    async def download(self, ref: ArtifactRef) -> DownloadedArtifact:
        return await self._bridge.call(self.result.download, ref)

    async def data(self) -> bytes:
        """The bytes of the first artifact. ConfigurationError (ValueError) when there is none."""
        return await self._bridge.call(lambda: self.result.data)

    async def text(self) -> str:
        """The first artifact as UTF-8 text."""
        return (await self.data()).decode("utf-8")

    async def json(self) -> Any:
        """The first artifact, parsed as JSON. ValueError when it is not JSON."""
        return await self._bridge.call(self.result.json)

    def __repr__(self) -> str:
        return f"Async{self.result!r}"


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
