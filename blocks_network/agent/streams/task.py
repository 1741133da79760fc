"""The streams of one task: create_stream, what a generator's values go to, and their end with the task."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from blocks_network.agent.streams.declared import DEFAULT, Plan, StreamRefused, plan_stream
from blocks_network.agent.streams.handshake import request_setup
from blocks_network.agent.streams.objects import ExternalStreamObject, OnActivateCallback, StreamObject
from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import TaskEndedError
from blocks_network.stream.client import FLUSH_S
from blocks_network.transport.pubnub import keys_of
from blocks_network.wire.setup import MAX_MINUTES, Phase, SetupAnswer, StreamSetup, stream_channel

if TYPE_CHECKING:
    from blocks_network.agent.streams.instance import AgentStreams
    from blocks_network.transport.pubnub import PubNubKeys

__all__ = ["TaskStreams"]

PIPE_MINUTES = 60
REQUEST_SECONDS = 3600
"""How long tokens live where neither the task nor the card says how long the task does."""


class TaskStreams:
    """Safe for threads. `create_stream` is what handlers call; the rest is the runtime's."""

    def __init__(self, run: TaskRun, agent: AgentStreams) -> None:
        self._run, self._agent = run, agent
        self._lock = threading.Lock()
        self._objects: list[StreamObject | ExternalStreamObject] = []
        self._count = 0
        self._joined = self._ended = False
        self._sink: StreamObject | None = None

    @property
    def task_id(self) -> str:
        return self._run.task_id

    @property
    def keys(self) -> PubNubKeys:
        """Those that the task came with: a switch of the environment does not move it."""
        return keys_of(self._run.client)

    def create_stream(
        self,
        *,
        direction: str = "outbound",
        on_activate: OnActivateCallback | None = None,
        metadata: Mapping[str, Any] | None = None,
        external: bool = False,
        format: str = "bytes",  # noqa: A002 - the protocol's word
        bundle_size_bytes: int | None = None,
        max_latency_ms: int | None = None,
        declared_stream: str = DEFAULT,
        subscribe_grace_ms: int | None = None,
    ) -> StreamObject | ExternalStreamObject:
        """Sets up a live stream beside the task and announces it to the consumer.

        RuntimeErrors name what stands against it: the consumer wants none (look at ctx.has_stream first), the card
        says otherwise, the network refuses, the task has ended. `on_activate(stream)` runs on a thread of its own;
        what it raises fails the stream and its tasks. `subscribe_grace_ms` has no effect: nothing written is missed by
        a reader that comes later, so there is nothing to wait for.
        """
        if not self._run.task.has_stream:
            raise StreamRefused(
                f"task {self.task_id} has no stream: its consumer asked for none",
                task_id=self.task_id,
                hint="look at ctx.has_stream first, and give an artifact instead",
            )
        plan = self._plan(declared_stream, direction, format, external=external)
        stream_id = self._begin(plan)
        if plan.external:
            return self._keep(self._agent.open_external(self, plan, stream_id, metadata))
        made = self._agent.open(
            self,
            plan,
            stream_id,
            metadata=metadata,
            on_activate=on_activate,
            bundle_size_bytes=bundle_size_bytes,
            max_latency_ms=max_latency_ms,
        )
        return self._keep(made)

    def sink(self) -> Callable[[Any], None] | None:
        """Where a generator's values go: the one stream that the task can write, None when there is no such.

        It is made with the first value, unless the handler has made one by itself: of text and binary a stream of
        bytes, of anything else one of events, where the card does not say.
        """
        if not self._run.task.has_stream:
            return None
        try:
            plan = self._plan(DEFAULT, "outbound", "bytes", external=False)
        except StreamRefused:
            return None
        return None if plan.direction == "inbound" else self._write

    def ask(self, plan: Plan, stream_id: str, phase: Phase, metadata: Mapping[str, Any] | None = None) -> SetupAnswer:
        """The handshake with this task's token. RuntimeError when the network refuses or cannot be reached."""
        run, agent_name = self._run, self._agent.agent_name
        setup = StreamSetup(
            task_id=run.task_id,
            org_id=run.org_id,
            agent_name=agent_name,
            stream_id=stream_id,
            channel=stream_channel(agent_name, stream_id),
            direction=plan.direction,
            task_kind=run.task.task_kind or "request",
            duration_minutes=self._minutes(),
            format=plan.format,
            affinity=plan.affinity,
            phase=phase,
            declared_stream=plan.declared,
            metadata=metadata,
        )
        return request_setup(run.client, setup)

    def checkpoint(self) -> None:
        """Blocks while the task is paused."""
        self._run.checkpoint()

    def fail(self, reason: str) -> None:
        """The task will have failed; its terminal follows when its streams have ended."""
        self._run.fail(reason)

    @property
    def any_open(self) -> bool:
        with self._lock:
            return bool(self._objects)

    def end_all(self, timeout_s: float = FLUSH_S) -> None:
        """The task's part in all its streams ends, and no new one is made. Waits for what was written to be sent.

        Idempotent, never raises. `timeout_s` is for all of them together.
        """
        with self._lock:
            self._ended = True
            objects, self._objects = self._objects, []
        deadline = time.monotonic() + timeout_s
        for made in objects:
            made.end(timeout_s=max(0.0, deadline - time.monotonic()))
        if self._joined:
            self._agent.left(self)

    def _plan(self, declared: str, direction: str, format: str, *, external: bool) -> Plan:  # noqa: A002
        return plan_stream(
            self._agent.declared,
            declared=declared,
            direction=direction,
            format=format,
            external=external,
            is_pipe=self._run.is_pipe,
        )

    def _begin(self, plan: Plan) -> str:
        """The stream's id; a dedicated one gets the next of the task's own."""
        with self._lock:
            if self._ended:
                raise self._over()
            first, self._joined = not self._joined, True
            if not plan.is_shared:
                self._count += 1
            stream_id = plan.declared if plan.is_shared else f"{self.task_id}-{self._count}"
        if first:
            self._agent.joined(self)
            self._run.when_ending(self._asked_to_end)
        return stream_id

    def _keep(self, made: StreamObject | ExternalStreamObject) -> StreamObject | ExternalStreamObject:
        """Remembers it for the task's end; when the task ended meanwhile, the stream ends here."""
        with self._lock:
            ended = self._ended
            if not ended and made not in self._objects:
                self._objects.append(made)
        if ended:
            made.end()
            raise self._over()
        made.on_end(lambda: self._forget(made))
        if self._run.is_ending:
            self._asked_to_end()
        return made

    def _forget(self, made: StreamObject | ExternalStreamObject) -> None:
        with self._lock:
            if made in self._objects:
                self._objects.remove(made)

    def _asked_to_end(self) -> None:
        """Who reads or waits for room in the handler is woken and finishes. What it still writes goes out."""
        with self._lock:
            objects = [made for made in self._objects if isinstance(made, StreamObject)]
        for made in objects:
            made.stop_waiting()

    def _write(self, value: Any) -> None:
        if self._sink is None:
            self._sink = self._own_writable() or self._default_stream(value)
        self._sink.write(value)

    def _own_writable(self) -> StreamObject | None:
        """The one stream that the handler has made to write to."""
        with self._lock:
            made = [one for one in self._objects if isinstance(one, StreamObject) and one.direction != "inbound"]
        return made[0] if len(made) == 1 else None

    def _default_stream(self, first: Any) -> StreamObject:
        chunks = isinstance(first, (str, bytes, bytearray, memoryview))
        made = self.create_stream(format="bytes" if chunks or self._agent.declared else "events")
        assert isinstance(made, StreamObject)
        return made

    def _minutes(self) -> int:
        duration = self._run.task.duration
        if duration is None:
            duration = PIPE_MINUTES if self._run.is_pipe else (self._agent.running_time_s or REQUEST_SECONDS) / 60
        return max(1, min(math.ceil(duration), MAX_MINUTES))

    def _over(self) -> TaskEndedError:
        return TaskEndedError(f"task {self.task_id} has ended", task_id=self.task_id)
