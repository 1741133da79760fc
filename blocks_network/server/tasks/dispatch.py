"""Dispatch: what the network publishes about tasks, and the one way it takes to the bus.

Control messages are not kept in the log: they are repeated until the instance shows that it has them, and the tokens in
them are secrets. What stands on a task's channel is kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from blocks_network.backoff import Backoff
from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.bus import Bus, BusFull, Draft
from blocks_network.server.store.outbox import OutboxMessage
from blocks_network.server.tasks.leases import Fleet
from blocks_network.server.tasks.ledger import Outgoing
from blocks_network.server.tasks.live import LiveTask
from blocks_network.wire.channels import setup_channel, upload_channel
from blocks_network.wire.control import PIPE_MAX_MINUTES, targeted_meta
from blocks_network.wire.setup import stream_channel
from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = ["CONTROL_MINUTES", "Courier", "ReadGrant", "TaskTokens", "control_draft", "start_draft"]

log = logging.getLogger(__name__)

GROUP_MAX = 256
RETRY = Backoff(first_s=0.05, cap_s=5)
FAULTS = (BusFull, OSError, RuntimeError)
"""What the bus may raise."""

REQUEST_MINUTES = 24 * 60
"""How long the tokens of a request task hold when nothing limits its run."""
SPARE_MINUTES = 60
"""Tokens outlive what they are for, so that a last event that an outage held back still gets through."""
READ_MINUTES = 60
"""A reader's token at the least; clients renew it."""
CONTROL_MINUTES = 7 * 24 * 60
"""How long an instance may listen that gets no work: its connect and each task bring a token. Published clients fall
silent at its end, so it is long, and a task's no shorter than the connect's; a revoked API key's instances can listen
until then, so it is not longer."""

READ, WRITE = int(Bits.READ), int(Bits.WRITE)
encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """What a reader of a task's channel needs."""

    token: str
    channel: str
    ttl_minutes: int


class TaskTokens:
    """Mints what tasks need, each token for exactly its channels."""

    def __init__(self, tokens: CapabilityTokens, clock: Callable[[], float]) -> None:
        self._tokens, self._clock = tokens, clock
        self._control: dict[tuple[str, str], tuple[str, float]] = {}

    def write(self, task: LiveTask) -> str:
        """For the instance: its events and files on the task's channel, its streams' set-up."""
        channels = dict.fromkeys(_input_channels(task), READ)
        channels[task.channel] = READ | WRITE
        channels[setup_channel(task.task_id, task.org_id)] = WRITE
        self.forget(task)
        minutes = self._minutes(task)
        task.write_token = self._tokens.mint(task.keys, ttl_minutes=minutes, channels=channels, shown_soon=True)
        return task.write_token

    def forget(self, task: LiveTask) -> None:
        """Its write token is shown no more, as a rule; tens of thousands of them would be remembered."""
        if task.write_token is not None:
            self._tokens.forget(task.keys, task.write_token)
            task.write_token = None

    def read(
        self,
        keys: Keyset,
        channel: str,
        *,
        duration_minutes: int | None,
        max_running_s: int | None,
        streams_of: tuple[str, str] | None = None,
    ) -> ReadGrant:
        """For a reader of the task: its events and files, and what was kept of its own streams.

        `streams_of` is (agent name, task id) where streams are kept; those that tasks share are nobody's own.
        """
        needed = duration_minutes if duration_minutes is not None else math.ceil((max_running_s or 0) / 60)
        minutes = _bounded(max(READ_MINUTES, needed + SPARE_MINUTES if needed else 0))
        patterns = None
        if streams_of is not None:
            patterns = {rf"^{re.escape(stream_channel(*streams_of))}-[0-9]+$": READ}
        token = self._tokens.mint(keys, ttl_minutes=minutes, channels={channel: READ}, patterns=patterns)
        return ReadGrant(token, channel, minutes)

    def control(self, fleet: Fleet[LiveTask], keys: Keyset) -> str:
        """For the agent's instances: their control channel, presence and state on it. Made anew now and then."""
        key = (fleet.subscribe_key, fleet.channel)
        now_s = self._clock()
        token, fresh_until_s = self._control.get(key, ("", 0.0))
        if now_s >= fresh_until_s:
            channels = {fleet.channel: READ, f"{fleet.channel}-pnpres": READ}
            token = self._tokens.mint(keys, ttl_minutes=CONTROL_MINUTES, channels=channels)
            self._control[key] = (token, now_s + CONTROL_MINUTES * 60 / 8)
        return token

    def _minutes(self, task: LiveTask) -> int:
        if task.expires_at_ms is not None:
            left_s = max(task.expires_at_ms / 1000 - self._clock(), 0)
            return _bounded(math.ceil(left_s / 60) + SPARE_MINUTES)
        if task.max_running_s is not None:
            return _bounded(math.ceil(task.max_running_s / 60) + SPARE_MINUTES)
        return REQUEST_MINUTES


def _input_channels(task: LiveTask) -> set[str]:
    """Where the request's files lie. A sender may name any channel: only those of its own uploads count."""
    mine = upload_channel(task.org_id, "")
    if mine not in task.request:
        return set()
    parts = msgspec.json.decode(task.request).get("requestParts") or []
    refs = [part.get("artifactRef") or {} for part in parts]
    named = {ref.get("channel") for ref in refs}
    return {channel for channel in named if isinstance(channel, str) and channel.startswith(mine)}


def _bounded(minutes: int) -> int:
    return max(1, min(minutes, PIPE_MAX_MINUTES))


def start_draft(task: LiveTask, tokens: TaskTokens) -> Draft:
    """The StartTask for the instance that has the lease."""
    message: dict[str, Any] = {
        "type": "StartTask",
        "taskId": task.task_id,
        "agentName": task.agent_name,
        "ownerId": task.owner_id,
        "orgId": task.org_id,
        "taskKind": task.task_kind,
        "attempt": task.attempt,
        "protocolVersion": PROTOCOL_VERSION,
        "writeToken": tokens.write(task),
        "controlToken": tokens.control(task.fleet, task.keys),
    }
    if task.duration_minutes is not None:
        message["duration"] = task.duration_minutes
    if task.expires_at_ms is not None:
        message["durationExpiresAtMs"] = task.expires_at_ms
    if task.consumer_public_key is not None:
        message["consumerPublicKey"] = task.consumer_public_key
    if task.has_stream:
        message["hasStream"] = True
    request = task.request.encode()  # an object with some fields: they go in as they were stored
    return _targeted(task, b"%b,%b" % (encode(message)[:-1], request.lstrip()[1:]))


def control_draft(task: LiveTask, kind: str, **fields: str) -> Draft:
    """Any other control message to the instance that has the lease."""
    message = {"type": kind, "taskId": task.task_id, **fields, "protocolVersion": PROTOCOL_VERSION}
    return _targeted(task, encode(message))


def _targeted(task: LiveTask, payload: bytes) -> Draft:
    return Draft(
        keyset=task.keys.subscribe_key,
        channel=task.fleet.channel,
        payload=payload,
        meta=encode(targeted_meta(task.instance_id or "")),
        stored=False,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """The next items, and what they are now: some are no longer wanted."""

    items: Sequence[Outgoing]
    drafts: Sequence[Draft]


class Courier:
    """Publishes what the ledger has committed, in that order, as many at a time as have gathered.

    At once, where the bus takes it so; what it does not take waits for a task, and what comes then for that.
    """

    def __init__(self, bus: Bus, keysets: Keysets, delivered: Callable[[Iterable[str]], None]) -> None:
        self._bus, self._keysets, self._delivered = bus, keysets, delivered
        self._pending: list[Outgoing] = []
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._made: _Group | None = None
        """What the bus did not take at once."""
        self._busy = False
        self._ending = False
        self._failures = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="blocks-task-courier")

    async def stop(self) -> None:
        """Publishes what there is, then ends. What the bus does not take stays in the outbox."""
        self._ending = True
        self._wanted.set()
        if self._task is not None:
            await self._task
            self._task = None

    def push(self, items: Iterable[Outgoing]) -> None:
        self._pending.extend(items)
        if not self._busy:
            self._push_now()
        if self._pending:
            self._wanted.set()

    def _push_now(self) -> None:
        self._busy = True  # what follows from a message may want to publish another one, behind it
        try:
            while self._pending:
                group = self._group()
                if self._bus.publish_now(group.drafts) is None:
                    self._made = group
                    return
                self._published(group)
        except FAULTS as fault:
            log.debug("left to the task: %s", fault)
        finally:
            self._busy = False

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._busy = True
            while self._pending:
                if not await self._publish():
                    if self._ending:
                        return
                    await asyncio.sleep(RETRY.delay(self._failures))
            self._busy = False
            if self._ending:
                return

    async def _publish(self) -> bool:
        group, self._made = self._made or self._group(), None
        try:
            await self._bus.publish_all(group.drafts)
        except FAULTS as fault:
            self._failures += 1
            log.error("%d messages about tasks were not published, trying again: %s", len(group.drafts), fault)
            return False
        self._failures = 0
        self._published(group)
        return True

    def _group(self) -> _Group:
        items = self._pending[:GROUP_MAX]
        return _Group(items, [draft for draft in map(self._draft, items) if draft is not None])

    def _published(self, group: _Group) -> None:
        del self._pending[: len(group.items)]
        kept = [item.message_id for item in group.items if isinstance(item, OutboxMessage)]
        if kept:
            self._delivered(kept)

    def _draft(self, item: Outgoing) -> Draft | None:
        if not isinstance(item, OutboxMessage):
            return item()
        return Draft(
            keyset=self._keysets.by_name(item.keyset).subscribe_key,
            channel=item.channel,
            payload=item.payload.encode(),
            meta=None if item.meta is None else item.meta.encode(),
            stored=item.stored,
        )
