"""start_agent_instance: makes the parts of an instance, starts them in order, and ends them in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from blocks_network import settings
from blocks_network.agent.control import FIRST_POLL_S, ControlLink
from blocks_network.agent.dispatcher import Commands, Dispatcher
from blocks_network.agent.events import TERMINAL_STATES, TaskEvents
from blocks_network.agent.handle import FLUSH_S, AgentHandle, StopReport
from blocks_network.agent.identity import InstanceIdentity
from blocks_network.agent.invoke import AsyncHandlers, Invocation
from blocks_network.agent.options import AgentInstanceOptions, check_options
from blocks_network.agent.outputs import Outputs
from blocks_network.agent.results import Artifact
from blocks_network.agent.run import Running, TaskRunner
from blocks_network.agent.status import StatusReports
from blocks_network.agent.streams import AgentStreams
from blocks_network.agent.tasks import EndReason, TaskRun, TaskTable
from blocks_network.agent.timers import Timers
from blocks_network.api.tokens import Connected
from blocks_network.errors import (
    AccessDeniedError,
    AgentAuthFatalError,
    BlocksError,
    ConfigurationError,
    TransportError,
)
from blocks_network.transport.publisher import Publisher
from blocks_network.transport.pubnub import make_client
from blocks_network.transport.sending import BatchSender
from blocks_network.transport.subscription import Received
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
        self._started_at_ms = int(time.time() * 1000)
        self._environment: Literal["playground", "network"] = (
            "playground" if identity.billing_mode == "free" else "network"
        )
        self._keys = identity.keys
        self._link: ControlLink | None = None
        self._stopping = threading.Lock()
        self._report: StopReport | None = None
        self._client_lock = threading.Lock()
        self._when_ended: list[Callable[[], None]] = []
        self._colleague: Colleague | None = None

        self._table = TaskTable(options.slots, self._load_changed)
        self._timers = Timers(self.instance_id)
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
        )
        self._closers = ThreadPoolExecutor(CLOSERS, thread_name_prefix=f"blocks-closing-{self.agent_name}")
        self._runner = TaskRunner(
            invocation=Invocation(options.handler or _nothing, self._loops),
            table=self._table,
            outputs=Outputs(self._publisher, self._upload),
            watcher=self,
            task_client=self.task_client,
        )
        self._dispatcher = Dispatcher(
            self._table,
            self._timers,
            Commands(
                prepare=self._prepare,
                client_for=self._client_for,
                submit=self._submit,
                close=self._close,
                control_token=lambda token: self.link.set_token(token),
                switch=self._switch,
                cancelled=self._cancelled if options.on_cancel_task is not None else None,
            ),
        )

    @property
    def link(self) -> ControlLink:
        if self._link is None:
            raise RuntimeError("the instance has not connected yet")
        return self._link

    def start(self, timeout_s: float) -> None:
        """Connects, subscribes, announces. TransportError when the network does not answer within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        connected = self._connect(deadline)
        self._timers.start()
        self._publisher.start()
        self._link = self._make_link(connected)
        heard = self._link.start(min(FIRST_POLL_S, max(0.1, deadline - time.monotonic())))
        if not heard or not self._link.announce(max(0.1, deadline - time.monotonic())):
            raise TransportError(
                f"agent {self.agent_name} connected, but the network does not answer on its control channel",
                hint="check that the PubNub origin of the network can be reached from here",
            )
        log.info("instance %s of agent %s is listening", self.instance_id, self.agent_name)

    def _connect(self, deadline: float) -> Connected:
        """Tries again while the network is out of reach, until the deadline."""
        pause_s = 0.2
        while True:
            try:
                return self.identity.auth.init(self.identity.connect_payload)
            except TransportError as fault:
                if time.monotonic() + pause_s >= deadline:
                    raise
                log.warning("agent %s cannot connect yet: %s", self.agent_name, fault)
                self.ended.wait(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    def _make_link(self, connected: Connected) -> ControlLink:
        return ControlLink(
            self._keys,
            connected.control_channel,
            self._options.token or connected.pam_token,
            instance_id=self.instance_id,
            listener=self,
            state=self._state,
            client=self._options.pubnub,
        )

    # --- the control channel: Listener of the subscription

    def received(self, message: Received) -> None:
        self._dispatcher.received(message)

    def connected(self) -> None:
        log.debug("instance %s is subscribed", self.instance_id)

    def disconnected(self, fault: TransportError) -> None:
        log.warning("instance %s lost the network and reconnects: %s", self.instance_id, fault)

    def denied(self, fault: AccessDeniedError) -> bool:
        """The token has ended: connect again for a fresh one, and resume where the poll stopped."""
        log.warning("instance %s: %s; connecting again", self.instance_id, fault)
        try:
            connected = self.identity.auth.init()
        except AgentAuthFatalError as fatal:
            self.shut_out(fatal)
            return False
        except BlocksError as failure:
            log.warning("instance %s cannot connect again yet: %s", self.instance_id, failure)
            return True
        if connected.pam_token:
            self.link.set_token(connected.pam_token)
        return True

    # --- what tasks tell their instance: Watcher of the runner

    def task_left(self, task_id: str) -> None:
        self._dispatcher.forget(task_id)

    def task_failed(self, task_id: str, fault: BaseException) -> None:
        if self._options.on_error is None:
            return
        try:
            self._options.on_error(task_id, fault)
        except Exception:
            log.exception("on_error raised over task %s", task_id)

    def shut_out(self, fault: AgentAuthFatalError) -> None:
        """The network will not take the agent back: the instance ends, and says so. The process goes on."""
        if self.fault is None:
            self.fault = fault
            log.error("instance %s ends: %s", self.instance_id, fault)
            ends = threading.Thread(target=self._shut_down, args=(fault,), name="blocks-shut-out", daemon=True)
            ends.start()

    def _shut_down(self, fault: AgentAuthFatalError) -> None:
        self.task_failed("", fault)
        self.stop(0)

    # --- what the dispatcher asks for

    def _prepare(self, run: TaskRun, version: object) -> Running:
        events = TaskEvents(run, self._publisher, self.agent_name, on_lost=self.task_failed, version=version)
        return Running(run, events, StatusReports(events, self._timers), self._streams.of(run))

    def _client_for(self, token: str | None) -> PubNub:
        return make_client(self._keys, user_id=self.instance_id, token=token)

    def _submit(self, running: Running) -> None:
        runs = self._runner if self._options.on_start_task is None else self._run_own
        self._pool.submit(runs, running)

    def _run_own(self, running: Running) -> None:
        """on_start_task replaces the whole processing; a fault in it is still a failed task."""
        run, fault = running.run, None
        assert self._options.on_start_task is not None
        try:
            self._options.on_start_task(run.task, self.link.client)
        except BaseException as raised:
            fault = raised
            log.error("task %s: on_start_task raised", run.task_id, exc_info=fault)
            running.events.terminal({"state": "failed", "error": str(fault) or type(fault).__name__})
        finally:
            self._table.handler_returned(run, stays_open=fault is None)
        if fault is not None:
            run.leave()
            self.task_left(run.task_id)
            self.task_failed(run.task_id, fault)

    def _cancelled(self, task_id: str) -> None:
        def tell() -> None:
            assert self._options.on_cancel_task is not None
            try:
                self._options.on_cancel_task(task_id, self.link.client)
            except Exception:
                log.exception("on_cancel_task raised over task %s", task_id)

        threading.Thread(target=tell, name="blocks-on-cancel", daemon=True).start()

    def _switch(self, wire: Mapping[str, Any]) -> None:
        """SwitchEnvironment: both links listen until the new one is sure to, then the old one ends."""
        environment, token = wire.get("environment"), wire.get("pamToken")
        cdm = self.identity.cdm
        if environment not in ("playground", "network") or environment == self._environment:
            log.warning("ignored a switch to environment %r", environment)
            return
        if not isinstance(token, str) or not token or cdm is None:
            log.error("a switch to environment %s came without a token", environment)
            return
        self._environment = environment
        threading.Thread(target=self._switch_to, args=(environment, token), name="blocks-switch", daemon=True).start()

    def _switch_to(self, environment: str, token: str) -> None:
        cdm, old = self.identity.cdm, self.link
        assert cdm is not None
        self._keys = cdm.keys("free" if environment == "playground" else "paid")
        link = ControlLink(
            self._keys, old.channel, token, instance_id=self.instance_id, listener=self, state=self._state
        )
        if not link.start(FIRST_POLL_S):
            log.error("environment %s does not answer; the instance goes on trying", environment)
        self._link = link
        link.announce(FIRST_POLL_S)
        old.stop(JOIN_S)
        self._dismiss_colleague()
        log.info("instance %s is on environment %s", self.instance_id, environment)

    # --- what the handle offers

    def task_client(self) -> TaskClient | None:
        """Made at the first use, and shared by all tasks."""
        from blocks_network.agent.colleague import Colleague  # loads the consumer side, which not every agent needs

        with self._client_lock:
            if self._colleague is None:
                if self.ended.is_set():
                    return None
                self._colleague = Colleague(self.identity, self._keys, self._environment)
            return self._colleague.client

    def _dismiss_colleague(self) -> None:
        with self._client_lock:
            colleague, self._colleague = self._colleague, None
        if colleague is not None:
            colleague.close()

    def publish_terminal(self, task_id: str, event: Mapping[str, Any]) -> None:
        if event.get("state") not in TERMINAL_STATES:
            raise ConfigurationError(f"state must be one of {', '.join(TERMINAL_STATES)}, not {event.get('state')!r}")
        running = self._dispatcher.open_pipe(task_id)
        if running is None:
            raise RuntimeError(f"No cached credentials for task {task_id}: it is not open on this instance")
        self._finish(running, event)
        self._load_changed()

    def fail_stream(self, stream_id: str, reason: str) -> None:
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
        # Streams before events: what ends a task comes after its last frames.
        self._streams.stop(flush_s)
        self._closers.shutdown(wait=True)
        # Everything that tasks said goes out before we leave, else the network would take them for lost.
        undelivered = self._publisher.stop(flush_s) if self._publisher.started else 0
        if self._link is not None:
            self._link.stop(JOIN_S)
        self._timers.stop()
        self._pool.shutdown(wait=not abandoned, cancel_futures=True)
        self._loops.stop(JOIN_S)
        self._dismiss_colleague()
        self.identity.auth.close()
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
        ).to_dict()

    def _load_changed(self) -> None:
        if self._link is not None:
            self._link.load_changed()


def _nothing(task: Any, ctx: Any) -> None:
    """Stands where on_start_task does all the work."""
