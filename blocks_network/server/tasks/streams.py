"""The set-up of streams: a publish to `setup.{org}.{task}` that the network answers in place of a delivery.

The answer carries the agent's token; the consumer gets its own with the announcement on the task's channel. The
announcement is on the bus, durable, before the agent has its answer: no terminal of the task can overtake it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.bus import Answered, Bus, Draft
from blocks_network.server.tasks.live import LiveTask
from blocks_network.wire.control import PIPE_MAX_MINUTES
from blocks_network.wire.events import event_meta
from blocks_network.wire.setup import (
    SetupAnswer,
    SetupFault,
    StreamSetup,
    announcement,
    invert_direction,
    refusal_body,
    success_body,
)

__all__ = ["SETUP_PREFIX", "StreamSetups"]

log = logging.getLogger(__name__)

SETUP_PREFIX = "setup."
SPARE_MINUTES = 2
"""Tokens outlive the stream's task, for a last frame that an outage held back."""

_BITS: Mapping[str, Bits] = {
    "outbound": Bits.WRITE,
    "inbound": Bits.READ,
    "bidirectional": Bits.READ | Bits.WRITE,
}
"""What each side may do on the stream's channel, by the direction as that side sees it."""


class StreamSetups:
    """An interceptor for `SETUP_PREFIX`: `gateway.intercept(SETUP_PREFIX, setups)`. Belongs to the loop.

    `find(task_id)` is the living task, None when it has ended or never was. The gateway has checked that the request
    may write to the channel; a task's write token is for its own set-up channel alone.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], LiveTask | None],
        bus: Bus,
        tokens: CapabilityTokens,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find, self._bus, self._tokens, self._clock = find, bus, tokens, clock

    async def __call__(self, draft: Draft) -> Answered:
        """HTTP 403 always: the protocol's way to give an answer to a publish."""
        try:
            setup = StreamSetup.from_wire(_parsed(draft.payload))
            task = self._task_of(setup, draft)
            answer = await self._grant(setup, task)
        except SetupFault as fault:
            log.info("the set-up on %s is refused: %s", draft.channel, fault)
            return Answered(403, refusal_body(fault.code, str(fault)))
        return Answered(403, success_body(answer))

    def _task_of(self, setup: StreamSetup, draft: Draft) -> LiveTask:
        """The living task that the set-up is for; SetupFault when it does not belong to it."""
        if draft.channel != f"{SETUP_PREFIX}{setup.org_id}.{setup.task_id}":
            raise SetupFault("taskId and orgId are not those of this channel")
        task = self._find(setup.task_id)
        if task is None or task.org_id != setup.org_id or task.keys.subscribe_key != draft.keyset:
            raise SetupFault(f"task {setup.task_id} does not exist, or has ended", "TaskNotFound")
        if task.closing is not None:
            raise SetupFault(f"task {setup.task_id} is ending", "TaskEnded")
        if setup.agent_name != task.agent_name:
            raise SetupFault("agentName is not that of the task")
        if setup.task_kind != task.task_kind:
            raise SetupFault("taskKind is not that of the task")
        if task.task_kind == "request" and (setup.direction != "outbound" or setup.affinity != "dedicated"):
            raise SetupFault("a request task has dedicated outbound streams only")
        return task

    async def _grant(self, setup: StreamSetup, task: LiveTask) -> SetupAnswer:
        minutes = self._minutes(setup, task)
        if setup.phase != "token_request":
            token = self._mint(setup, task, invert_direction(setup.direction), minutes)
            event = announcement(setup, token, minutes)
            await self._bus.publish(
                Draft(
                    keyset=task.keys.subscribe_key,
                    channel=task.channel,
                    payload=msgspec.json.encode(event),
                    meta=msgspec.json.encode(event_meta(task.agent_name, task.task_id)),
                )
            )
        own = None if setup.phase == "activate" else self._mint(setup, task, setup.direction, minutes)
        return SetupAnswer(
            setup.task_id, setup.stream_id, setup.channel, setup.direction, setup.phase, minutes, token=own
        )

    def _mint(self, setup: StreamSetup, task: LiveTask, direction: str, minutes: int) -> str:
        return self._tokens.mint(task.keys, ttl_minutes=minutes, channels={setup.channel: _BITS[direction]})

    def _minutes(self, setup: StreamSetup, task: LiveTask) -> int:
        """What was asked for, but never beyond the life of a pipe task."""
        minutes = setup.duration_minutes
        if task.expires_at_ms is not None:
            left_s = task.expires_at_ms / 1000 - self._clock()
            minutes = min(minutes, max(1, math.ceil(left_s / 60)))
        return min(minutes + SPARE_MINUTES, PIPE_MAX_MINUTES)


def _parsed(payload: bytes) -> object:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        raise SetupFault("the message is no JSON object") from None
