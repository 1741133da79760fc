"""start_agent_instance: makes the parts of an instance, starts them in order, and ends them in order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from blocks_network import settings
from blocks_network.agent.connection import Connection
from blocks_network.agent.dispatcher import Commands, Dispatcher
from blocks_network.agent.events import TERMINAL_STATES, TaskEvents
from blocks_network.agent.handle import FLUSH_S, AgentHandle, StopReport
from blocks_network.agent.hooks import Hooks
from blocks_network.agent.identity import InstanceIdentity
from blocks_network.agent.invoke import AsyncHandlers, Invocation
from blocks_network.agent.options import AgentInstanceOptions, check_options
from blocks_network.agent.outputs import Outputs
from blocks_network.agent.overdue import Overdue
from blocks_network.agent.results import Artifact
from blocks_network.agent.run import Running, TaskRunner
from blocks_network.agent.status import StatusReports
from blocks_network.agent.streams import AgentStreams
from blocks_network.agent.tasks import EndReason, TaskRun, TaskTable
from blocks_network.agent.timers import Timers
from blocks_network.errors import AgentAuthFatalError, ConfigurationError, SessionClosedError
from blocks_network.logs import said_of
from blocks_network.transport.publisher import Publisher
from blocks_network.transport.pubnub import PubNubKeys, client_of, make_client
from blocks_network.transport.sending import BatchSender
from blocks_network.wire.presence import AgentInstancePresenceState
from blocks_network.wire.versions import PROTOCOL_VERSION, SUPPORTED_PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

    from blocks_network.agent.colleague import Colleague
    from blocks_network.consumer.client import TaskClient

__all__ = ["Instance", "start_agent_instance"]

log = logging.getLogger(__name__)

CLOSERS = 4
"""Threads, made when they are needed, on which pipe tasks with streams end: their last frames go out first."""
NO_LIMIT_WORKERS = 10_000
"""concurrency 0: threads are made as tasks come, so the number is a bound against mistakes alone."""
CANCEL_GRACE_S = 2.0
"""What handlers get between being asked to end at a stop and being given up."""
JOIN_S = 5.0


def start_agent_instance(options: AgentInstanceOptions) -> AgentHandle:
    """Starts an agent instance; returns when it is subscribed and known to the network.

    Raises ConfigurationError (ValueError) for a fault in the options, RuntimeErrors that say what to do when the key,
    the registry entry or the network is missing, and AgentAuthFatalError when the network shuts the agent out.
    """
    checked = check_options(options)
    instance = Instance(checked, InstanceIdentity.settle(checked))
    try:
        instance.start(checked.startup_timeout_s)
    except BaseException:
        instance.stop(0)
        raise
    return AgentHandle(instance)


class Instance:
    """Owns every part and thread of one instance."""

    def __init__(self, options: AgentInstanceOptions, identity: InstanceIdentity) -> None:
        self.identity, self._options = identity, options
        self.agent_name, self.instance_id = identity.agent_name, identity.instance_id
        self.fault: BaseException | None = None
        self.ended = threading.Event()
        self._process = os.getpid()
        self._started_at_ms = int(time.time() * 1000)
        self._stopping = threading.Lock()
        self._report: StopReport | None = None
        self._client_lock = threading.Lock()
        self._when_ended: list[Callable[[], None]] = []
        self._colleague: Colleague | None = None

        self._table = TaskTable(options.slots, self._load_changed)
        self._timers = Timers(self.instance_id)
        self.connection = Connection(
            identity,
            token=options.token,
            client=options.pubnub,
            timers=self._timers,
            state=self._state,
            received=lambda message: self._dispatcher.received(message),
            shut_out=lambda fault: self.shut_out(fault, "control-message"),
            moved=self._dismiss_colleague,
        )
        self._hooks = Hooks(options, client=lambda: self.connection.link.client, table=self._table, watcher=self)
        self._overdue = Overdue(self._table, self._timers, grace_s=options.cancel_grace_s, report=self.task_failed)
        self._pattern: tuple[PubNubKeys, PubNub] | None = None
        self._publisher = Publisher(
            self.instance_id, sender=BatchSender() if identity.offers("batch-publish") else None
        )
        self._loops = AsyncHandlers(self.instance_id)
        self._pool = ThreadPoolExecutor(
            options.slots or NO_LIMIT_WORKERS, thread_name_prefix=f"blocks-task-{self.agent_name}"
        )
        self._streams = AgentStreams(
            self.agent_name,
            options.card,
            whose=self.instance_id,
            running_time_s=options.running_time_s,
            fail_task=self._fail_task,
            undelivered=self.task_failed,
            changed=self._load_changed,
            durable=identity.offers("durable-streams"),
        )
        self._closers = ThreadPoolExecutor(CLOSERS, thread_name_prefix=f"blocks-closing-{self.agent_name}")
        self._runner = TaskRunner(
            invocation=Invocation(options.handler or _nothing, self._loops),
            table=self._table,
            outputs=Outputs(self._publisher, self._upload),
            watcher=self,
            task_client=self._lend_client,
        )
        self._dispatcher = Dispatcher(
            self._table,
            self._timers,
            Commands(
                prepare=self._prepare,
                client_for=self._client_for,
                submit=self._submit,
                close=self._close,
                control_token=self.connection.set_token,
                switch=self.connection.switch,
                cancelled=self._hooks.cancelled if self._hooks.hears_cancels else None,
            ),
        )

    def start(self, timeout_s: float) -> None:
        """Connects, subscribes, announces. TransportError when the network does not answer within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._timers.start()
        self._publisher.start()
        self.connection.start(deadline)
        started = said_of("agent_instance_started", self.instance_id, self.agent_name)
        log.info("instance %s of agent %s is listening", self.instance_id, self.agent_name, extra=started)

    def replace_handler(self, handler: Callable[..., Any]) -> None:
        """For tasks that come from now on; those that run end with the handler they have."""
        self._runner.invocation = Invocation(handler, self._loops)

    # --- what tasks tell their instance: Watcher of the runner

    def task_left(self, task_id: str) -> None:
        self._dispatcher.forget(task_id)

    def task_failed(self, task_id: str, fault: BaseException) -> None:
        self._hooks.failed(task_id, fault)

    def shut_out(self, fault: AgentAuthFatalError, context: str = "task-handler") -> None:
        """The network will not take the agent back: the instance ends, and says so. The process goes on."""
        if self.fault is None:
            self.fault = fault
            told = said_of("agent_auth_fatal", self.instance_id, self.agent_name, context=context)
            log.error("instance %s ends: %s", self.instance_id, fault, extra=told)
            ends = threading.Thread(target=self._shut_down, args=(fault,), name="blocks-shut-out", daemon=True)
            ends.start()

    def _shut_down(self, fault: AgentAuthFatalError) -> None:
        self.task_failed("", fault)
        self.stop(0)

    # --- what the dispatcher asks for

    def _prepare(self, run: TaskRun, version: object) -> Running:
        events = TaskEvents(run, self._publisher, self.agent_name, on_lost=self.task_failed, version=version)
        self._overdue.watch(run)
        return Running(run, events, StatusReports(events, self._timers), self._streams.of(run))

    def _client_for(self, token: str | None) -> PubNub:
        """One for a task. Their configuration is locked, so one serves all: making it takes longer than the client."""
        keys = self.connection.keys
        if self._pattern is None or self._pattern[0] != keys:
            self._pattern = keys, make_client(keys, user_id=self.instance_id)
        return client_of(self._pattern[1].config, token)

    def _submit(self, running: Running) -> None:
        self._pool.submit(self._hooks.start if self._hooks.replaces_processing else self._runner, running)

    # --- what the handle offers

    @property
    def forked(self) -> bool:
        """True in a child process of the one that started it, where none of its threads lives."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        if self.forked:
            raise SessionClosedError(
                f"instance {self.instance_id} belongs to another process",
                agent_name=self.agent_name,
                hint="fork first, then start: one instance for each process",
            )

    def task_client(self) -> TaskClient | None:
        """Made at the first use, and shared by all tasks."""
        self.check_process()
        colleague = self._present_colleague()
        return None if colleague is None else colleague.client

    def _lend_client(self, run: TaskRun) -> TaskClient | None:
        colleague = self._present_colleague()
        return None if colleague is None else colleague.lend(run)

    def _present_colleague(self) -> Colleague | None:
        from blocks_network.agent.colleague import Colleague  # loads the consumer side, which not every agent needs

        with self._client_lock:
            if self._colleague is None:
                if self.ended.is_set():
                    return None
                self._colleague = Colleague(self.identity, self.connection.keys, self.connection.environment)
            return self._colleague

    def _dismiss_colleague(self) -> None:
        with self._client_lock:
            colleague, self._colleague = self._colleague, None
        if colleague is not None:
            colleague.close()

    def publish_terminal(self, task_id: str, event: Mapping[str, Any]) -> None:
        self.check_process()
        if event.get("state") not in TERMINAL_STATES:
            raise ConfigurationError(f"state must be one of {', '.join(TERMINAL_STATES)}, not {event.get('state')!r}")
        running = self._dispatcher.open_pipe(task_id)
        if running is None:
            raise RuntimeError(f"No cached credentials for task {task_id}: it is not open on this instance")
        self._finish(running, event)
        self._load_changed()

    def fail_stream(self, stream_id: str, reason: str) -> None:
        self.check_process()
        self._streams.fail_stream(stream_id, reason)

    def _fail_task(self, task_id: str, reason: str, cause: BaseException | None) -> None:
        """Its terminal goes out at once, also while its handler runs. TaskRun.fail was called before."""
        opened = self._dispatcher.open_pipe(task_id)
        running = opened or self._dispatcher.find(task_id)
        if running is None:
            return
        self._finish(running, {"state": "failed", "error": reason}, leaves=opened is not None)
        if cause is not None:
            self.task_failed(task_id, cause)

    def _close(self, running: Running, fields: Mapping[str, Any]) -> None:
        """Ends an open pipe task. Never waits: last frames go out on a thread of their own."""
        if running.streams.any_open:
            self._closers.submit(self._finish, running, fields)
        else:
            self._finish(running, fields)

    def _finish(self, running: Running, fields: Mapping[str, Any], *, leaves: bool = True) -> None:
        running.streams.end_all()
        running.events.terminal(fields)
        if leaves:
            running.run.leave()

    def when_ended(self, call: Callable[[], None]) -> None:
        with self._client_lock:
            if not self.ended.is_set():
                self._when_ended.append(call)
                return
        call()

    def stop(self, drain_s: float | None = None, flush_s: float = FLUSH_S) -> StopReport:
        """See AgentHandle.stop. A second call waits for the first and returns its report."""
        if self.forked:  # what it would end is the parent's
            return StopReport()
        with self._stopping:
            if self._report is None:
                wait_s = settings.AGENT_SHUTDOWN_GRACE_SEC.read() if drain_s is None else max(0.0, drain_s)
                self._report = self._end(wait_s, flush_s)
                with self._client_lock:
                    self.ended.set()
                for call in self._when_ended:
                    call()
            return self._report

    def _end(self, drain_s: float, flush_s: float) -> StopReport:
        # Refuse new work first: what arrives from now on is sent back and placed elsewhere.
        self._table.refuse_new()
        at_first = [run.task_id for run in self._table.running()]
        # Running work goes on while presence keeps its lease alive.
        self._table.wait_idle(drain_s)
        asked = self._table.running()
        for run in asked:
            run.end(EndReason.STOPPED)
        self._table.wait_idle(CANCEL_GRACE_S if asked else 0)
        abandoned = [run.task_id for run in self._table.running()]
        deadline = time.monotonic() + flush_s
        # Streams before events: what ends a task comes after its last frames. Whoever waits for them is let go with it.
        self._streams.stop(flush_s)
        self._closers.shutdown(wait=True)
        # Everything that tasks said goes out before we leave, else the network would take them for lost.
        left_s = max(0.0, deadline - time.monotonic())
        undelivered = self._publisher.stop(left_s) if self._publisher.started else 0
        self.connection.stop()
        self._timers.stop()
        self._pool.shutdown(wait=not abandoned, cancel_futures=True)
        self._loops.stop(JOIN_S)
        self._dismiss_colleague()
        self.identity.auth.close(JOIN_S)
        self._timers.join(JOIN_S)
        self._publisher.join(JOIN_S)
        for task_id in abandoned:
            log.error("task %s is still running: its handler does not look at cancel_event", task_id)
        ended_late = {run.task_id for run in asked}
        return StopReport(
            finished=tuple(task_id for task_id in at_first if task_id not in ended_late),
            cancelled=tuple(sorted(ended_late - set(abandoned))),
            abandoned=tuple(abandoned),
            undelivered=undelivered,
        )

    def _upload(self, run: TaskRun, artifact: Artifact, file_name: str) -> None:
        from blocks_network.api.files import presigned_upload_flow

        presigned_upload_flow(
            self.identity.base_url,
            artifact.data,
            role="provider-output",
            file_name=file_name,
            mime_type=artifact.mime_type,
            task_id=run.task_id,
            output_id=artifact.output_id,
            agent_auth=self.identity.auth,
        )

    def _state(self) -> dict[str, Any]:
        """The load, as placement and dashboards read it."""
        return AgentInstancePresenceState(
            instance_id=self.instance_id,
            active_tasks=self._table.active,
            active_streams=self._streams.active_count,
            concurrency=self._options.slots,
            started_at=self._started_at_ms,
            preferred_protocol_version=PROTOCOL_VERSION,
            protocol_versions=list(SUPPORTED_PROTOCOL_VERSIONS),
            lost_slots=self._table.lost,
        ).to_dict()

    def _load_changed(self) -> None:
        self.connection.load_changed()


def _nothing(task: Any, ctx: Any) -> None:
    """Stands where on_start_task does all the work."""
