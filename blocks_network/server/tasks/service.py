"""The task service: tasks taken, shown and steered. The front of this folder; overseer.py moves tasks on."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from blocks_network.server.access.keysets import Keysets
from blocks_network.server.access.principal import Principal
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.bus import Answered, Bus, Draft
from blocks_network.server.limits import Limits
from blocks_network.server.presence import Presence
from blocks_network.server.store import tasks as store
from blocks_network.server.store.database import Database, StoreFault
from blocks_network.server.store.providers import Provider
from blocks_network.server.store.tasks import KeyClaim, TaskRecord, UserKey
from blocks_network.server.tasks.control import Control
from blocks_network.server.tasks.directory import Directory, max_backlog, max_running_s
from blocks_network.server.tasks.dispatch import Courier, ReadGrant, TaskTokens
from blocks_network.server.tasks.fleets import Fleets
from blocks_network.server.tasks.gate import Gate
from blocks_network.server.tasks.ledger import Ledger
from blocks_network.server.tasks.life import shown_state
from blocks_network.server.tasks.live import LiveTask, Outcome
from blocks_network.server.tasks.overseer import Overseer
from blocks_network.server.tasks.readers import group_of, readers_alias, stored_name
from blocks_network.server.tasks.reading import Reading, fingerprint_hash, task_id_of
from blocks_network.server.tasks.recovery import TASK_CHANNELS, recover
from blocks_network.server.tasks.refusals import TaskRefusal, invalid_params, task_not_found
from blocks_network.server.tasks.request import Wanted, check_against_card
from blocks_network.server.tasks.retries import RetryPolicy
from blocks_network.server.tasks.timers import Timers
from blocks_network.server.webhooks.config import Webhook
from blocks_network.wire.channels import task_channel

__all__ = ["CONTROL_METHODS", "TaskService", "Uploads", "Webhooks"]

log = logging.getLogger(__name__)

CONTROL_METHODS = ("CancelTask", "PauseTask", "ResumeTask", "RetryTask", "TerminateTask")
PROVIDERS_TOO = frozenset({"TerminateTask"})
"""What the agent's own organisation may do to a task that another one sent."""


class Uploads(Protocol):
    """Files that were uploaded before the task: what SendMessage's `uploadSessionId` stands for."""

    async def take(self, session_id: str, *, org_id: str, agent_name: str) -> Mapping[str, Mapping[str, Any]]:
        """Part id to artifact reference. LookupError for a session that is unknown, another tenant's or agent's."""


class Webhooks(Protocol):
    """Whom tasks are told about: reads what SendMessage asks for, and delivers what was written for it."""

    def read(self, wire: object) -> Webhook:
        """ValueError names what is wrong."""

    def wake(self) -> None:
        """There is something new to deliver."""


class TaskService:
    """Belongs to the event loop that `start` ran on; database, bus and presence run already then.

    `clock` gives Unix seconds. Refusals are TaskRefusal.
    """

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        presence: Presence,
        keysets: Keysets,
        capability_tokens: CapabilityTokens,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        uploads: Uploads | None = None,
        webhooks: Webhooks | None = None,
        keeps_streams: bool = False,
    ) -> None:
        self._database, self._bus, self._keysets, self._limits = database, bus, keysets, limits
        self._uploads, self._webhooks = uploads, webhooks
        self.timers = Timers(clock)
        self._directory = Directory(database, clock)
        self._tokens = TaskTokens(capability_tokens, clock)
        self._overseer = Overseer(tokens=self._tokens, timers=self.timers, limits=limits)
        self._courier = Courier(bus, keysets, lambda message_ids: self._ledger.delivered(message_ids))
        self._ledger = Ledger(
            database,
            cursor=lambda: self._overseer.cursor,
            now=bus.now,
            committed=self._courier.push,
            noticed=None if webhooks is None else webhooks.wake,
        )
        self._reading = Reading(
            database=database,
            ledger=self._ledger,
            overseer=self._overseer,
            tokens=self._tokens,
            keysets=keysets,
            limits=limits,
            keeps_streams=keeps_streams,
        )
        self._fleets = Fleets(
            presence=presence,
            keysets=keysets,
            timers=self.timers,
            concurrency_of=self._directory.concurrency_of,
            lost=self._overseer.lost,
            freed=self._overseer.pump,
        )
        self._control = Control(overseer=self._overseer, ledger=self._ledger, timers=self.timers, limits=limits)
        self._overseer.connect(self._ledger, self._fleets, self._control)
        bus.alias(TASK_CHANNELS, readers_alias(self._overseer.task_of))
        self._gate = Gate(bus=bus, overseer=self._overseer, ledger=self._ledger, timers=self.timers)
        self._claims: dict[UserKey, asyncio.Future[dict[str, Any]]] = {}
        """Calls under way, by organisation, user and idempotency key."""
        self._orphans: set[asyncio.Task[dict[str, Any]]] = set()
        """Those whose callers have gone."""
        self._stamp = 0
        self._unfollow: Callable[[], None] | None = None

    # --- life ---

    async def start(self) -> None:
        """Recovers what a run before has left, then goes on with it."""
        unsent, sent, self._unfollow = await recover(
            database=self._database,
            bus=self._bus,
            keysets=self._keysets,
            overseer=self._overseer,
            fleets=self._fleets,
            control=self._control,
        )
        self._ledger.start()
        self._courier.start()
        self._fleets.start()
        self.timers.start()
        self._courier.push(unsent)
        self._ledger.delivered(sent)
        await self._ledger.begin()

    async def stop(self) -> None:
        """First nothing new is decided, then what was decided is written, published, and noted as published."""
        self.timers.stop()
        await self._fleets.stop()
        try:
            await self._ledger.flush()
        except (StoreFault, OSError, RuntimeError) as fault:
            log.error("the last changes of tasks were not written, and are read from the bus again: %s", fault)
        await self._courier.stop()
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        await self._ledger.stop()

    async def intercept(self, draft: Draft) -> Answered | None:
        """For the gateway, on channels that start with `u.`: keeps back what must not follow (see gate.py)."""
        return await self._gate(draft)

    def living(self, task_id: str) -> LiveTask | None:
        """The task, unless it has ended or never was."""
        return self._overseer.living.get(task_id)

    def agent_changed(self, agent_name: str) -> None:
        """The agent's registry entry is another one now, or gone."""
        self._directory.changed(agent_name)

    def agent_left(self, agent_id: str, why: str, *, keyset: str | None = None) -> None:
        """The agent takes no work any more, or none on the keyset of this name: what waits for it fails.

        What its instances have in hand goes on.
        """
        for task in list(self._overseer.living.values()):
            if task.agent_id == agent_id and task.waits and keyset in (None, task.keyset):
                self._overseer.end(task, Outcome("failed", error=why, reason="agent_left"))

    def instance_connected(self, agent_name: str, agent_id: str, instance_id: str) -> None:
        """An instance has connected: what it said then holds from now on."""
        self._directory.changed(agent_name)
        self._fleets.connected(agent_id, instance_id)

    # --- SendMessage ---

    async def send(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """Takes a task; when this returns it is stored and will reach a terminal, whatever dies."""
        wanted = Wanted.from_params(params, self._limits)
        if wanted.idempotency_key is None:
            return await self._send_new(principal, wanted, None)
        key = (principal.org_id, principal.user_id, wanted.idempotency_key)
        first = self._claims.get(key)
        if first is not None:
            # whatever comes of the first call comes of this one: it is the same
            return await self._existing((await asyncio.shield(first))["taskId"], principal)
        claim: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._claims[key] = claim
        try:
            answer = await self._send_once(principal, wanted, key)
        except asyncio.CancelledError:  # equal calls may wait for this one: it goes on without its caller
            again = asyncio.get_running_loop().create_task(self._send_once(principal, wanted, key))
            self._orphans.add(again)
            again.add_done_callback(partial(self._orphan_done, key, claim))
            raise
        except BaseException as fault:
            self._settle(key, claim, fault)
            raise
        self._settle(key, claim, answer)
        return answer

    def _orphan_done(
        self, key: UserKey, claim: asyncio.Future[dict[str, Any]], done: asyncio.Task[dict[str, Any]]
    ) -> None:
        self._orphans.discard(done)
        self._settle(key, claim, None if done.cancelled() else done.exception() or done.result())

    def _settle(
        self, key: UserKey, claim: asyncio.Future[dict[str, Any]], outcome: dict[str, Any] | BaseException | None
    ) -> None:
        """The call is over: its answer, its fault, or None when it was cancelled."""
        del self._claims[key]
        if outcome is None:
            claim.cancel()
        elif isinstance(outcome, BaseException):
            claim.set_exception(outcome)
            claim.exception()  # nobody has to be waiting
        else:
            claim.set_result(outcome)

    async def _send_once(self, principal: Principal, wanted: Wanted, key: UserKey) -> dict[str, Any]:
        """A call with a key, repeated, is answered with its task even when a new one would be refused by now."""
        try:
            return await self._send_new(principal, wanted, key)
        except TaskRefusal:
            await self._ledger.flush()
            task_id = await self._database.read(partial(store.holder_of, whose=key))
            if task_id is None:
                raise
            return await self._existing(task_id, principal)

    async def _send_new(self, principal: Principal, wanted: Wanted, key: UserKey | None) -> dict[str, Any]:
        provider = await self._provider_for(wanted.agent_name, principal)
        has_stream = check_against_card(wanted, provider)
        if wanted.upload_session_id is not None:
            await self._attach_uploads(wanted, principal)
        return await self._take(principal, wanted, provider, has_stream, key)

    async def _provider_for(self, agent_name: str, principal: Principal) -> Provider:
        provider = await self._directory.provider(agent_name)
        if provider is None or (provider.listing == "private" and provider.org_id != principal.org_id):
            raise TaskRefusal(
                "AgentNotFound",
                f"there is no agent {agent_name!r}; check the name, and that the agent is registered",
                details={"agentName": agent_name},
            )
        if provider.forced_offline:
            raise TaskRefusal("AgentOffline", f"agent {agent_name} was taken offline by the network's operator")
        return provider

    async def _attach_uploads(self, wanted: Wanted, principal: Principal) -> None:
        """Puts the references of uploaded files back into their parts."""
        session_id = wanted.upload_session_id or ""
        refs: Mapping[str, Mapping[str, Any]] | None = None
        if self._uploads is not None:
            try:
                refs = await self._uploads.take(session_id, org_id=principal.org_id, agent_name=wanted.agent_name)
            except LookupError:
                refs = None
        if refs is None:
            raise TaskRefusal("UploadSessionUnknown", f"there is no upload session {session_id!r} for this agent")
        for part in wanted.parts:
            ref = refs.get(part.get("partId") or "")
            if ref is not None and part.get("text") is None and part.get("artifactRef") is None:
                part["artifactRef"] = dict(ref)

    async def _take(
        self, principal: Principal, wanted: Wanted, provider: Provider, has_stream: bool, key: UserKey | None
    ) -> dict[str, Any]:
        if len(self._overseer.living) >= self._limits.living_tasks:
            raise TaskRefusal("NetworkBusy", "the network has as many tasks as it takes; send again later")
        hook = self._hook(wanted)
        task = self._new_task(principal, wanted, provider, has_stream, hook)
        then = self._overseer.admit(task, max_backlog(provider, self._limits))
        claim = None if key is None else KeyClaim(*key, task.task_id, task.created_at_ms)
        state = shown_state(task.state)
        kept = await self._ledger.insert(task, claim, then, partial(self._overseer.drop, task))
        if kept.task_id != task.task_id:
            return await self._existing(kept.task_id, principal)
        return self._answer(task, state, cursor=kept.cursor)

    def _hook(self, wanted: Wanted) -> Webhook | None:
        if wanted.push is None:
            return None
        if self._webhooks is None:
            raise invalid_params("pushNotificationConfig: this network calls no webhooks")
        try:
            return self._webhooks.read(wanted.push)
        except ValueError as fault:
            raise invalid_params(str(fault)) from None

    def _new_task(
        self, principal: Principal, wanted: Wanted, provider: Provider, has_stream: bool, hook: Webhook | None
    ) -> LiveTask:
        now_ms = self.timers.now_ms()
        keys = self._keysets.for_billing(provider.billing_mode)  # type: ignore[arg-type]  # checked at registration
        self._stamp = max(self._stamp + 1, now_ms << 16)  # ids rise with the order of arrival, whatever the clock does
        task_id = f"task-{self._stamp:016x}{secrets.token_hex(6)}"
        claims = {"sub": principal.user_id, "org": principal.org_id}
        reader = None if wanted.reader is None else stored_name(principal, wanted.reader)
        return LiveTask(
            task_id=task_id,
            org_id=principal.org_id,
            owner_id=wanted.owner_id or principal.user_id,
            agent_id=provider.agent_id,
            agent_name=provider.agent_name,
            provider_org_id=provider.org_id,
            keyset=keys.name,
            billing_mode=provider.billing_mode,
            task_kind=wanted.task_kind,
            request=msgspec.json.encode({"requestParts": wanted.parts, "callerClaims": claims}).decode(),
            duration_minutes=wanted.duration,
            max_running_s=max_running_s(provider),
            has_stream=has_stream,
            consumer_public_key=wanted.consumer_public_key,
            retry_policy=None if wanted.policy is None else wanted.policy.to_text(),
            warnings=json.dumps(wanted.warnings) if wanted.warnings else None,
            anon_hash=None if wanted.anon_fingerprint is None else fingerprint_hash(wanted.anon_fingerprint),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            keys=keys,
            fleet=self._fleets.of(provider.agent_id, keys),
            policy=wanted.policy or RetryPolicy(),
            channel=task_channel(task_id, principal.org_id),
            reader=reader,
            readers_group=None if reader is None else group_of(principal.org_id, reader),
            webhook=None if hook is None else hook.to_text(),
            hook=hook,
        )

    async def _existing(self, task_id: str, principal: Principal) -> dict[str, Any]:
        """The answer for a key that has its task already."""
        record = await self._reading.find(task_id, principal)
        return self._answer(record, shown_state(record.state), idempotent=True)

    def _answer(
        self, record: TaskRecord, state: str, *, idempotent: bool = False, cursor: int | None = None
    ) -> dict[str, Any]:
        grant = self._reading.grant(record, with_streams=False)  # a sender has the tokens of announcements
        keys = self._keysets.by_name(record.keyset)
        blocks: dict[str, Any] = {
            "readToken": grant.token,
            "streamChannels": {"status": grant.channel},
            "subscribeKey": keys.subscribe_key,
            "publishKey": keys.publish_key,
        }
        if record.reader is not None and not idempotent:  # the key's first call may have been another client's
            blocks["sessionGroup"] = group_of(record.org_id, record.reader)
        if cursor is not None:
            blocks["cursor"] = str(cursor)
        answer: dict[str, Any] = {"taskId": record.task_id, "state": state, "extensions": {"blocks": blocks}}
        if record.webhook is not None:
            hook = Webhook.from_text(record.webhook)
            answer["pushConfigId"] = hook.push_config_id
            if hook.made_secret:
                blocks["pushSecret"] = hook.secret
        if idempotent:
            answer["idempotent"] = True
        if state == "queued":
            answer["queued"] = True
        return answer

    # --- reading ---

    async def get(self, principal: Principal | None, params: Mapping[str, Any]) -> dict[str, Any]:
        """GetTask; `principal` None is nobody (see reading.py)."""
        return await self._reading.get(principal, params)

    async def list(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        return await self._reading.list(principal, params)

    async def read_grant(self, principal: Principal, task_id: str, role: Literal["consumer", "provider"]) -> ReadGrant:
        return await self._reading.read_grant(principal, task_id, role)

    async def anonymous_read_grant(self, task_id: str, fingerprint: str) -> ReadGrant | None:
        return await self._reading.anonymous_read_grant(task_id, fingerprint)

    def running_for(self, principal: Principal, task_id: str) -> LiveTask:
        """The living task that the caller's agents have in hand: to it outputs may be added. TaskRefusal."""
        task = self._overseer.living.get(task_id)
        if task is None or task.provider_org_id != principal.org_id:
            raise task_not_found(task_id)
        if principal.agent_id not in (None, task.agent_id):
            raise task_not_found(task_id)
        if task.closing is not None:
            raise TaskRefusal("TaskEnded", f"task {task_id} is ending; nothing can be added to it")
        return task

    # --- steering ---

    async def control(self, principal: Principal, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """One of CONTROL_METHODS. `{"taskId", "state"}`: the state at this moment; the wish is stored."""
        task_id = task_id_of(params)
        record = await self._reading.find(task_id, principal)
        if principal.org_id != record.org_id and method not in PROVIDERS_TOO:
            raise TaskRefusal("Forbidden", f"only the organisation that sent the task may call {method}")
        task = self._overseer.living.get(task_id)
        if task is not None:
            self._control.ask(task, method, principal.user_id)
            await self._ledger.flush()
            record = task
        else:
            self._control.refuse_ended(record, method)
        return {"taskId": task_id, "state": shown_state(record.state)}
