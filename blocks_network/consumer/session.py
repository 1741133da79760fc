"""One task, followed to its end: its events, its artifacts, its streams, and the ways to wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from blocks_network.consumer.delivery import CallbackErrorContext, Interest
from blocks_network.consumer.downloads import download_artifact, fetch_into, save_all
from blocks_network.consumer.following import Following, SessionFacts
from blocks_network.consumer.link import Link
from blocks_network.consumer.record import Entry
from blocks_network.consumer.result import TaskResult
from blocks_network.errors import (
    SessionClosedError,
    StreamUnavailableError,
    TaskCanceled,
    TaskFailed,
    WaitTimeoutError,
)
from blocks_network.stream.errors import StreamEndedError
from blocks_network.stream.refs import StreamRef
from blocks_network.wire.artifacts import ArtifactRef, DownloadedArtifact
from blocks_network.wire.events import TaskEvent

if TYPE_CHECKING:
    from blocks_network.stream.client import StreamClient

__all__ = ["DRAIN_WINDOW_S", "TaskSession"]

DRAIN_WINDOW_S = 30.0
WAIT_S = 60.0


class TaskSession:
    """Made by `TaskClient.send_message` and `connect`. A context manager that closes; closing is not cancelling.

    Events are told once each, in their order, and to a late registrant from the first one on. Callbacks run on a
    thread of the client's (one thread at a time for a session; a slow callback delays its own session alone), except
    the replay to a late registrant, which runs on the registering thread before `on_x` returns.
    Iterating a session yields its events up to the terminal one.
    """

    def __init__(
        self, facts: SessionFacts, link: Link, *, auto_drain: bool | None = None, drain_window_s: float | None = None
    ) -> None:
        self._facts, self._link = facts, link
        self._inside = Following(
            facts,
            link,
            auto_drain=auto_drain is not False,
            drain_window_s=DRAIN_WINDOW_S if drain_window_s is None else drain_window_s,
        )
        self._record, self._changed = self._inside.record, self._inside.changed
        link.add(self._inside)

    @property
    def inside(self) -> Following:
        """For the client that makes the session."""
        return self._inside

    @property
    def task_id(self) -> str:
        return self._facts.task_id

    @property
    def owner_id(self) -> str:
        return self._facts.owner_id

    @property
    def agent_name(self) -> str:
        """The agent that does the task; "" when it is not known."""
        return self._facts.agent_name

    @property
    def read_token(self) -> str | None:
        """The newest token that reads the task's channel."""
        return self._inside.token

    @property
    def status_channel(self) -> str:
        return self._facts.channel

    @property
    def idempotent(self) -> bool:
        """True when the network knew the idempotency key already: this is the task of the first call."""
        return self._facts.idempotent

    @property
    def queued(self) -> bool:
        """True when no instance was free at once."""
        return self._facts.queued

    @property
    def push_config_id(self) -> str | None:
        return self._facts.push_config_id

    @property
    def state(self) -> str | None:
        """The terminal state once there is one. Before, the state that `connect` found, None after `send_message`."""
        with self._changed:
            self._inside.note_known()
        return self._inside.state()

    @property
    def is_closed(self) -> bool:
        """True after `close()`, and after a followed task has ended and its open streams have drained."""
        with self._changed:
            if self._inside.closed:
                self._inside.note_known()
            return self._inside.closed

    def on_event(self, callback: Callable[[TaskEvent], object]) -> Callable[[], None]:
        """Every event. The answer of each `on_x` unregisters the callback."""
        return self._register("event", callback)

    def on_progress(self, callback: Callable[[TaskEvent], object]) -> Callable[[], None]:
        """The running event and what the handler reports."""
        return self._register("progress", callback)

    def on_artifact(self, callback: Callable[[TaskEvent], object]) -> Callable[[], None]:
        """Each artifact (`event.artifact_ref`)."""
        return self._register("artifact", callback)

    def on_terminal(self, callback: Callable[[TaskEvent], object]) -> Callable[[], None]:
        """The end, once; `session.state` is set before."""
        return self._register("terminal", callback)

    def on_cancel_requested(self, callback: Callable[[TaskEvent], object]) -> Callable[[], None]:
        """The network acknowledged a cancel. At most once, never after the terminal."""
        return self._register("cancel_requested", callback)

    def on_stream(self, callback: Callable[[StreamRef], object]) -> Callable[[], None]:
        """Each stream that the agent announces; `ref.open()` may be called within."""
        return self._register("stream", callback)

    def on_error(self, callback: Callable[[Exception, CallbackErrorContext], object]) -> Callable[[], None]:
        """What other callbacks raise, and outages of the session itself. Without any, these are logged."""
        return self._inside.delivery.register_on_error(callback)

    def wait_for_terminal(self, timeout: float | None = WAIT_S) -> TaskEvent:
        """Blocks until the task has ended and the callbacks were told (from within a callback: until it has ended).

        `timeout` in seconds, None: no limit. WaitTimeoutError (TimeoutError) when it is over; SessionClosedError
        (RuntimeError) when the session or its client is closed first, or its events cannot be read any more;
        TransportError when the history of a task that was over before cannot be read.
        """
        self._inside.recall()
        here = self._inside.delivery.delivers_here()
        with self._changed:
            self._changed.wait_for(lambda: self._over(here), timeout)
            terminal = self._record.terminal
            if terminal is not None and isinstance(terminal.value, TaskEvent):
                self._inside.note_known()
                return terminal.value
            self._inside.raise_unwaitable()
        raise self._timed_out("did not end", timeout)

    def result(self, timeout: float | None = WAIT_S) -> TaskResult:
        """What the task gave back, once it has completed. TaskFailed or TaskCanceled when it ended otherwise; else as
        `wait_for_terminal`."""
        event = self.wait_for_terminal(timeout)
        if event.state != "completed":
            kind = TaskCanceled if event.state == "canceled" else TaskFailed
            raise kind(self.task_id, event.raw, agent_name=self.agent_name or None)
        with self._changed:
            pairs = [(e.artifact_ref, e.get("outputId")) for e in self._record.artifacts]
        known = [(ref, name) for ref, name in pairs if ref is not None]
        return TaskResult(
            self.task_id, event, [ref for ref, _ in known], self.download_artifact, [name for _, name in known]
        )

    def wait_for_stream(self, stream_id: str | None = None, timeout: float | None = None) -> StreamRef:
        """The stream with this declared name, or with this id; without either the only one, or the first to come.

        RuntimeError when several are known and none is named, when the task ends without it, or at the session's end.
        """
        self._inside.recall()
        with self._changed:
            if stream_id is None and len(self._record.streams) > 1:
                raise SessionClosedError(
                    f"task {self.task_id} has {len(self._record.streams)} streams",
                    task_id=self.task_id,
                    hint="name one: wait_for_stream(name), or choose with wait_for_stream_where(predicate)",
                )
            self._changed.wait_for(lambda: self._match(stream_id) or self._streamless(), timeout)
            found = None if self._inside.abandoned else self._match(stream_id)
            if found is not None:
                return found
            self._raise_streamless(f"stream {stream_id}" if stream_id else "a stream")
        raise self._timed_out(f"announced no {stream_id or 'stream'}", timeout)

    def wait_for_stream_where(self, predicate: Callable[[StreamRef], bool], timeout: float | None = None) -> StreamRef:
        """The first stream for which `predicate` is true, known ones first. A predicate that raises says no."""
        self._inside.recall()
        deadline = None if timeout is None else time.monotonic() + timeout
        asked = 0
        while True:
            fresh = self._further_streams(asked, deadline)
            if not fresh:
                raise self._timed_out("announced no stream that fits", timeout)
            asked += len(fresh)
            for ref in fresh:
                if self._fits(predicate, ref):
                    return ref

    def list_events(self) -> list[TaskEvent]:
        """All events so far, in order."""
        self._inside.recall()
        with self._changed:
            return self._record.events()

    def list_artifacts(self) -> list[ArtifactRef]:
        """All artifacts so far, in order."""
        self._inside.recall()
        with self._changed:
            return self._record.artifact_refs()

    def list_streams(self) -> list[StreamRef]:
        """All streams announced so far, in order."""
        self._inside.recall()
        with self._changed:
            return list(self._record.streams.values())

    def open_all_streams(self, *, reorder_timeout_ms: float | None = None) -> list[StreamClient]:
        """Opens each stream that we read, in order; leaves out what cannot be opened any more."""
        clients = []
        for ref in self.list_streams():
            if ref.descriptor.local_direction in ("inbound", "bidirectional"):
                try:
                    clients.append(ref.open(reorder_timeout_ms=reorder_timeout_ms))
                except (StreamUnavailableError, StreamEndedError):
                    continue
        return clients

    def download_artifact(self, ref: ArtifactRef | Mapping[str, Any]) -> DownloadedArtifact:
        """An artifact's bytes; also after the session has closed. Errors as `downloads.download_artifact`."""
        artifact = ref if isinstance(ref, ArtifactRef) else ArtifactRef.from_dict(ref)
        if artifact.kind != "file":
            return download_artifact(artifact)
        return self._inside.reading(lambda pubnub: download_artifact(artifact, pubnub))

    def save_artifacts(self, directory: str | Path) -> list[str]:
        """Writes every artifact into `directory` (made when missing) and returns the absolute paths, in order.

        Names are made safe and distinct, nothing is left half written. ArtifactNotSaved after the others were saved
        when one could not be.
        """
        return save_all(self.list_artifacts(), Path(directory), self._fetch)

    def cancel(self) -> None:
        """Asks the agent to end; the end comes as terminal "canceled". RpcError when the network refuses."""
        self._link.control("CancelTask", self.task_id)

    def terminate(self) -> None:
        """Ends the task now, whatever its handler does."""
        self._link.control("TerminateTask", self.task_id)

    def close(self) -> None:
        """Stops following the task: ends its open streams, wakes whoever waits, forgets the callbacks.

        Idempotent, from any thread and any callback. What was received stays readable; the task goes on.
        """
        self._inside.close()

    def __enter__(self) -> TaskSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[TaskEvent]:
        """Every event from the first to the terminal. SessionClosedError when the session is closed before."""
        self._inside.recall()
        number = 0
        while True:
            entry = self._next_entry(number)
            number = entry.number + 1
            if isinstance(entry.value, TaskEvent):
                if entry.kind == "terminal":
                    with self._changed:
                        self._inside.note_known()
                yield entry.value
                if entry.kind == "terminal":
                    return

    def __repr__(self) -> str:
        return f"TaskSession({self.task_id!r}, state={self.state!r}, closed={self.is_closed})"

    def _register(self, interest: Interest, callback: Callable[[Any], object]) -> Callable[[], None]:
        self._inside.recall()
        return self._inside.register(interest, callback)

    def _over(self, here: bool) -> bool:
        known = self._record.terminal is not None
        return self._inside.ended or (known and here) or self._inside.unwaitable()

    def _next_entry(self, number: int) -> Entry:
        """Waits for the entry with this number, or a later one. SessionClosedError when none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._record.entry_from(number) is not None or self._inside.unwaitable())
            entry = self._record.entry_from(number)
            if entry is None:
                self._inside.raise_unwaitable()
        assert entry is not None
        return entry

    def _further_streams(self, known: int, deadline: float | None) -> list[StreamRef]:
        """Waits for streams beyond the `known` first; none when the time is over."""
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: len(self._record.streams) > known or self._streamless(), left)
            fresh = [] if self._inside.abandoned else list(self._record.streams.values())[known:]
            if not fresh:
                self._raise_streamless("a stream that fits")
            return fresh

    def _match(self, name: str | None) -> StreamRef | None:
        """With the lock held: a declared name goes before an id; without a name, the first one."""
        refs = self._record.streams
        if name is None:
            return next(iter(refs.values()), None)
        declared = (ref for ref in refs.values() if ref.descriptor.declared_stream == name)
        return next(declared, None) or refs.get(name)

    def _streamless(self) -> bool:
        """With the lock held: no stream will be announced any more."""
        return self._record.terminal is not None or self._inside.unwaitable()

    def _raise_streamless(self, what: str) -> None:
        terminal = self._record.terminal
        if terminal is not None and isinstance(terminal.value, TaskEvent) and not self._inside.abandoned:
            why = terminal.value.get("error") or terminal.value.get("reason")
            raise SessionClosedError(
                f"task {self.task_id} ended ({self._record.state}{f': {why}' if why else ''}) without {what}",
                task_id=self.task_id,
                agent_name=self.agent_name or None,
                hint="read session.list_artifacts() and session.state",
            )
        self._inside.raise_unwaitable()

    def _fits(self, predicate: Callable[[StreamRef], bool], ref: StreamRef) -> bool:
        try:
            return bool(predicate(ref))
        except Exception as fault:  # noqa: BLE001 - users' code: its fault goes to its on_error
            self._inside.delivery.report(fault, "streamPredicate", ref)
            return False

    def _timed_out(self, what: str, timeout: float | None) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"task {self.task_id} {what} within {timeout or 0:g} s",
            task_id=self.task_id,
            agent_name=self.agent_name or None,
            hint=None if self.state else "is an instance of the agent running?",
        )

    def _fetch(self, ref: ArtifactRef, target: BinaryIO) -> None:
        if ref.kind == "file":
            self._inside.reading(lambda pubnub: fetch_into(ref, target, pubnub))
        else:
            fetch_into(ref, target, None)
