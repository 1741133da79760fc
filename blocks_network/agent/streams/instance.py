"""The streams of one instance: set up once, shared by the tasks on them, ended with the last."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from blocks_network.agent.streams.declared import Plan, StreamRefused
from blocks_network.agent.streams.objects import ExternalStreamObject, OnActivateCallback, StreamObject
from blocks_network.agent.streams.registry import StreamEntry, StreamRegistry
from blocks_network.agent.streams.task import TaskStreams
from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import BlocksError, TransportError
from blocks_network.stream.client import StreamClient
from blocks_network.stream.errors import StreamEndedError, StreamError
from blocks_network.stream.threads import StreamThreads
from blocks_network.wire import cards
from blocks_network.wire.setup import SetupAnswer

__all__ = ["AgentStreams"]

log = logging.getLogger(__name__)

CRASHED = "stream_crashed"


class AgentStreams:
    """Safe for threads. Nothing is started before the first stream.

    `fail_task(task_id, reason, cause)` ends a task as failed; `undelivered(task_id, fault)` hears of data that the
    network will never take; `changed()` that the number of active streams has. `durable`: the network keeps streams.
    """

    def __init__(
        self,
        agent_name: str,
        card: Mapping[str, Any],
        *,
        whose: str,
        running_time_s: int | None,
        fail_task: Callable[[str, str, BaseException | None], None],
        undelivered: Callable[[str, TransportError], None],
        changed: Callable[[], None],
        durable: bool = False,
    ) -> None:
        self.agent_name, self.running_time_s = agent_name, running_time_s
        self._durable = durable
        self.declared = cards.streams(card)
        self._fail_task, self._undelivered, self._changed = fail_task, undelivered, changed
        self._threads = StreamThreads(whose)
        self._lock = threading.Lock()
        self._registries: dict[str, StreamRegistry] = {}
        """By subscribe key: the tasks of two environments never share a stream."""
        self._tasks: dict[str, TaskStreams] = {}
        self._stopped = False

    def of(self, run: TaskRun) -> TaskStreams:
        """The task's own; costs nothing until it makes a stream."""
        return TaskStreams(run, self)

    @property
    def active_count(self) -> int:
        """Streams with a writer or reader of ours."""
        return sum(registry.active_stream_count for registry in self._all_registries())

    def fail_stream(self, stream_id: str, reason: str, cause: BaseException | None = None) -> None:
        """Ends the stream, its readers hear why, then every task on it as failed. Unknown streams are ignored."""
        for registry in self._all_registries():
            entry = registry.force_remove(stream_id)
            if entry is None:
                continue
            log.error("stream %s fails, with %d tasks: %s", stream_id, len(entry.task_ids), reason)
            entry.fault = StreamEndedError(f"stream {stream_id} failed: {reason}")
            for task_id in sorted(entry.task_ids):  # first, so that no handler that is woken ends its task otherwise
                self._mark_failed(task_id, reason)
            if entry.writer is not None:
                entry.writer.end(error=reason)
            for task_id in sorted(entry.task_ids):
                self._fail_task(task_id, reason, cause)
            self._changed()

    def _mark_failed(self, task_id: str, reason: str) -> None:
        with self._lock:
            task = self._tasks.get(task_id)
        if task is not None:
            task.fail(reason)

    def stop(self, timeout_s: float) -> bool:
        """Ends every stream, so that readers hear of it, then the threads. True when all was sent and has ended."""
        with self._lock:
            self._stopped = True
        entries = [entry for registry in self._all_registries() for entry in registry.clear()]
        deadline = time.monotonic() + timeout_s
        for entry in entries:
            if entry.writer is not None:
                entry.writer.end(timeout_s=max(0.0, deadline - time.monotonic()))
        self._threads.stop()
        return self._threads.join(max(1.0, deadline - time.monotonic()))

    # --- what TaskStreams asks for

    def joined(self, task: TaskStreams) -> None:
        with self._lock:
            if self._stopped:
                raise StreamRefused("the instance is ending")
            self._tasks[task.task_id] = task

    def left(self, task: TaskStreams) -> None:
        with self._lock:
            self._tasks.pop(task.task_id, None)

    def open(
        self,
        task: TaskStreams,
        plan: Plan,
        stream_id: str,
        *,
        metadata: Mapping[str, Any] | None,
        on_activate: OnActivateCallback | None,
        bundle_size_bytes: int | None,
        max_latency_ms: int | None,
    ) -> StreamObject:
        """The task's stream: a new one, its reference to a shared one, or the very object that it has already.

        Whoever is first sets the stream up; the others wait for that, and get its fault when it fails.
        """

        registry = self._registry_of(task)
        entry, is_new, place, is_mine = self._acquire(registry, task, plan, stream_id)
        if not is_mine:
            return place.result()
        try:
            if is_new:
                answer = task.ask(plan, stream_id, "embedded", metadata)
                self._make_client(entry, registry, plan, task, answer, bundle_size_bytes, max_latency_ms)
            else:
                self._join(entry, task, plan, metadata)
            made = self._object(entry, registry, task)
        except BaseException as fault:
            self._undo(entry, registry, task, fault, is_new=is_new)
            place.set_exception(fault)
            entry.ready.set()
            raise
        place.set_result(made)
        entry.ready.set()
        if not registry.holds(entry):  # it ended while nobody could be told
            made.stream_ended()
        if is_new:
            self._changed()
            if on_activate is not None:
                self._activate(entry, registry, on_activate, made)
        return made

    def open_external(
        self, task: TaskStreams, plan: Plan, stream_id: str, metadata: Mapping[str, Any] | None
    ) -> ExternalStreamObject:
        """Gets the token for another process; the consumer hears of the stream with `activate`."""
        registry = self._registry_of(task)
        entry, _, place, _ = self._acquire(registry, task, plan, stream_id)
        try:
            answer = task.ask(plan, stream_id, "token_request")
        except BaseException:
            registry.discard(entry)
            raise
        finally:
            place.cancel()
            entry.ready.set()

        def announce(announced: Mapping[str, Any] | None) -> None:
            task.ask(plan, stream_id, "activate", announced)

        def released(_: ExternalStreamObject) -> None:
            registry.discard(entry)

        return ExternalStreamObject(
            stream_id,
            answer.channel,
            answer.token or "",
            metadata=metadata,
            announce=announce,
            released=released,
        )

    # --- setting up

    def _acquire(
        self, registry: StreamRegistry, task: TaskStreams, plan: Plan, stream_id: str
    ) -> tuple[StreamEntry, bool, Future[StreamObject], bool]:
        """(entry, whether it is new, the place of this task's object, whether the caller has to fill it)."""
        while True:
            entry, is_new, is_mine = registry.acquire(
                stream_id,
                task.task_id,
                direction=plan.direction,
                format=plan.format,
                external=plan.external,
                affinity=plan.affinity,
            )
            place = entry.objects.get(task.task_id)
            if place is not None:
                return entry, is_new, place, is_mine
            # Another thread of this task has just given its reference back: for us the stream is a new one.

    def _join(self, entry: StreamEntry, task: TaskStreams, plan: Plan, metadata: Mapping[str, Any] | None) -> None:
        """A further task on a shared stream: no second writer, and an announcement to its own consumer."""
        entry.ready.wait()
        if entry.fault is not None:
            raise entry.fault
        task.ask(plan, entry.stream_id, "activate", metadata)

    def _make_client(
        self,
        entry: StreamEntry,
        registry: StreamRegistry,
        plan: Plan,
        task: TaskStreams,
        answer: SetupAnswer,
        bundle_size_bytes: int | None,
        max_latency_ms: int | None,
    ) -> None:
        client = StreamClient(
            token=answer.token,
            agent_name=self.agent_name,
            stream_id=entry.stream_id,
            format=plan.format,
            direction=plan.direction,
            affinity=plan.affinity,
            bundle_size_bytes=bundle_size_bytes,
            max_latency_ms=max_latency_ms,
            keys=task.keys,
            threads=self._threads,
            durable=self._durable,
            renew=lambda: self._renewed(entry, plan),
            lost=lambda fault: self._lost(entry, fault),
        )
        entry.writer = client
        client.on_error(lambda error: self._client_failed(entry, error))
        client.on_end(lambda: self._client_ended(entry, registry))

    def _object(self, entry: StreamEntry, registry: StreamRegistry, task: TaskStreams) -> StreamObject:
        client = entry.writer
        if client is None or not registry.holds(entry):
            raise entry.fault or StreamEndedError(f"stream {entry.stream_id} ended while it was set up")

        def released(_: StreamObject, timeout_s: float) -> None:
            entry.last_task_id = task.task_id
            if registry.release_entry(entry, task.task_id):
                client.end(timeout_s=timeout_s)

        return StreamObject(client, shared=entry.affinity == "shared", checkpoint=task.checkpoint, released=released)

    def _undo(
        self, entry: StreamEntry, registry: StreamRegistry, task: TaskStreams, fault: BaseException, *, is_new: bool
    ) -> None:
        """After a set-up that failed. A new stream goes with all who wait for it, a known one loses this task."""
        if is_new:
            entry.fault = fault
            registry.discard(entry)
        last = registry.release_entry(entry, task.task_id)
        if entry.writer is not None and (is_new or last):
            entry.writer.end()

    def _activate(
        self, entry: StreamEntry, registry: StreamRegistry, on_activate: OnActivateCallback, made: StreamObject
    ) -> None:
        """Runs the callback. On a shared stream it feeds all tasks: its object outlives that of the first task."""
        stream = made
        if entry.affinity == "shared" and entry.writer is not None:

            def released(_: StreamObject, timeout_s: float) -> None:
                made.end(timeout_s=timeout_s)

            stream = StreamObject(entry.writer, shared=True, checkpoint=_go_on, released=released)
            entry.feed = stream

        def run() -> None:
            try:
                on_activate(stream)
            except StreamEndedError as ended:
                log.info("on_activate of stream %s stops: %s", entry.stream_id, ended)
            except BaseException as fault:
                log.exception("on_activate of stream %s failed", entry.stream_id)
                if registry.holds(entry):
                    self.fail_stream(entry.stream_id, CRASHED, fault)

        threading.Thread(target=run, name=f"blocks-stream-activate-{entry.stream_id}", daemon=True).start()

    # --- what the clients tell, on their threads

    def _renewed(self, entry: StreamEntry, plan: Plan) -> str | None:
        """A new token, by any task that is still on the stream: the first one's goes with that task.

        The last task to leave counts: what it wrote is still on its way.
        """
        for task_id in [*sorted(entry.task_ids), entry.last_task_id]:
            with self._lock:
                task = self._tasks.get(task_id)
            if task is None:
                continue
            try:
                return task.ask(plan, entry.stream_id, "token_request").token
            except (BlocksError, RuntimeError) as fault:
                log.warning("no new token for stream %s through task %s: %s", entry.stream_id, task_id, fault)
        return None

    def _lost(self, entry: StreamEntry, fault: TransportError) -> None:
        for task_id in sorted(entry.task_ids):
            self._undelivered(task_id, fault)

    def _client_failed(self, entry: StreamEntry, error: StreamError) -> None:
        for stream in entry.made():
            stream.stream_failed(error)

    def _client_ended(self, entry: StreamEntry, registry: StreamRegistry) -> None:
        """For whatever reason: the last reference, a fault, fail_stream, the instance's end."""
        registry.discard(entry)
        for stream in entry.made():
            stream.stream_ended()
        self._changed()

    def _registry_of(self, task: TaskStreams) -> StreamRegistry:
        with self._lock:
            if self._stopped:
                raise StreamRefused("the instance is ending")
            return self._registries.setdefault(task.keys.subscribe_key, StreamRegistry())

    def _all_registries(self) -> list[StreamRegistry]:
        with self._lock:
            return list(self._registries.values())


def _go_on() -> None:
    return None
