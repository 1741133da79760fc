"""The overseer: moves every living task on, by placement, by what its instance shows, by asking, and by time.

What stands on a task's channel first as a terminal is its end, for readers and for the network alike: the network's own
terminals take effect when the bus delivers them, like everybody's. Everything here runs in the loop and never waits;
what it decides goes through the ledger.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import Any, Protocol

from blocks_network.server.bus import Draft, Kind, Message
from blocks_network.server.limits import Limits
from blocks_network.server.store.outbox import OutboxMessage
from blocks_network.server.tasks.dispatch import TaskTokens, control_draft, encode, start_draft
from blocks_network.server.tasks.events import Heard, hear, mark_of
from blocks_network.server.tasks.fleets import Fleets
from blocks_network.server.tasks.leases import Fleet, Instance
from blocks_network.server.tasks.ledger import Ledger, Outgoing
from blocks_network.server.tasks.life import ON_AN_INSTANCE, Happening, after
from blocks_network.server.tasks.live import LiveTask, Outcome
from blocks_network.server.tasks.notices import ARTIFACT, notice_of
from blocks_network.server.tasks.placement import choose
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.server.tasks.retries import FAILED, INSTANCE_LOST
from blocks_network.server.tasks.timers import Timers
from blocks_network.wire.events import cut_text, event_meta, terminal_event
from blocks_network.wire.timetokens import TICKS_PER_S

__all__ = ["Overseer"]

log = logging.getLogger(__name__)

START_AGAIN_MS = (2_000, 4_000, 8_000, 16_000, 30_000)
"""How long an instance has to show that it has a StartTask before that is published again. After the last of these
pauses the instance counts as deaf and the task is placed elsewhere."""
DEAF_MS = 30_000
"""For how long a deaf instance gets no other task."""
PASSING_MS = 5_000
"""How long a terminal that an instance is publishing may take to reach the channel."""
LINGER_MS = 60_000
"""How long a place stays taken at the most by a handler whose task the network has ended."""
ENDED_KEPT = 10_000
"""Ended tasks that are remembered, so that nothing follows their terminal."""
REASON_CHARS = 255
TICKS_PER_MS = TICKS_PER_S // 1_000

OUTCOMES = {
    "cancel": Outcome("canceled"),
    "terminate": Outcome("canceled", reason="terminated"),
    "expire": Outcome("completed", completion_reason="duration_expired"),
}
_HAPPENED = {"completed": Happening.COMPLETED, "failed": Happening.FAILED, "canceled": Happening.CANCELED}


class Deadlines(Protocol):
    """Sets the timers of a task that moves on (control.py)."""

    def assigned(self, task: LiveTask) -> None: ...

    def started(self, task: LiveTask) -> None: ...


class Overseer:
    """Owns the living tasks. `cursor` is the timetoken of the last event that was applied."""

    def __init__(self, *, tokens: TaskTokens, timers: Timers, limits: Limits) -> None:
        self._tokens, self._timers, self._limits = tokens, timers, limits
        self.living: dict[str, LiveTask] = {}
        self.cursor = 0
        self._came_ms = 0
        """When the event that is being applied came onto its channel, by the bus's clock."""
        self.positions = 0
        """The highest position of the outbox."""
        self._ended: OrderedDict[str, LiveTask] = OrderedDict()
        self._ledger: Ledger
        self._fleets: Fleets
        self._deadlines: Deadlines

    def connect(self, ledger: Ledger, fleets: Fleets, deadlines: Deadlines) -> None:
        """The parts that call back."""
        self._ledger, self._fleets, self._deadlines = ledger, fleets, deadlines

    # --- placement ---

    def admit(self, task: LiveTask, max_backlog: int) -> Outgoing | None:
        """Places a new task or lets it wait; returns what is to leave once it is stored. Refuses a full backlog."""
        fleet = task.fleet
        now_ms = self._timers.now_ms()
        instance = None if fleet.waiting else self._free(fleet, now_ms)
        if instance is None:
            waiting = len(fleet.waiting)
            if waiting >= max_backlog:
                raise TaskRefusal(
                    "BacklogFull",
                    f"agent {task.agent_name} has {waiting} tasks waiting and takes no more; "
                    "send again when some have ended, or start more instances",
                    details={"agentName": task.agent_name, "waiting": waiting, "maxPendingBacklog": max_backlog},
                )
            self._move(task, Happening.QUEUED)
            fleet.queue(task.task_id, task)
        self.add(task)
        if instance is None:
            self._look_again(fleet, now_ms)
            return None
        self._give(task, instance)
        return partial(self._start, task, instance.instance_id)

    def add(self, task: LiveTask) -> None:
        self.living[task.task_id] = task
        task.fleet.users += 1

    def restore(self, task: LiveTask) -> None:
        """A task of a run before: back where its row says that it was."""
        self.add(task)
        if task.state in ON_AN_INSTANCE and task.instance_id is not None:
            instance = self._fleets.expect(task.fleet, task.instance_id)
            lease = instance.give(task.task_id, pipe=task.task_kind == "pipe", turn=task.fleet.next_turn())
            lease.started_ms = task.started_at_ms if task.state != "assigned" else None
        elif task.not_before_ms is None:
            task.fleet.queue(task.task_id, task)

    def drop(self, task: LiveTask) -> None:
        """The task was not stored after all: as if it had never been."""
        self._remove(task)
        self._release(task)
        self.pump(task.fleet)

    def pump(self, fleet: Fleet[LiveTask]) -> None:
        """Gives waiting tasks, in their order, to instances that are free."""
        if not fleet.waiting:
            return
        now_ms = self._timers.now_ms()
        while fleet.waiting:
            instance = self._free(fleet, now_ms)
            if instance is None:
                self._look_again(fleet, now_ms)
                return
            _, task = fleet.waiting.popitem(last=False)
            self._give(task, instance)
            self._ledger.update(task)
            self._ledger.send(partial(self._start, task, instance.instance_id))

    def _free(self, fleet: Fleet[LiveTask], now_ms: int) -> Instance | None:
        return choose(fleet.instances.values(), now_ms, self._fleets.state_of(fleet))

    def _look_again(self, fleet: Fleet[LiveTask], now_ms: int) -> None:
        """Sets a timer for the next instant at which an instance may have become free without a word."""
        instants = [
            at_ms
            for instance in fleet.instances.values()
            for at_ms in (instance.cool_until_ms, instance.settles_at(now_ms))
            if at_ms is not None and at_ms > now_ms
        ]
        at_ms = min(instants, default=0)
        if at_ms and not now_ms < fleet.looks_again_ms <= at_ms:
            fleet.looks_again_ms = at_ms
            self._timers.at(at_ms, self.pump, fleet)

    def _give(self, task: LiveTask, instance: Instance) -> None:
        self._move(task, Happening.ASSIGNED)
        task.instance_id, task.sends, task.lost_by, task.not_before_ms = instance.instance_id, 0, None, None
        instance.give(task.task_id, pipe=task.task_kind == "pipe", turn=task.fleet.next_turn())
        self._deadlines.assigned(task)

    def _start(self, task: LiveTask, instance_id: str) -> Draft | None:
        """The StartTask, made when it leaves; None when it is no longer wanted."""
        wanted = task.state == "assigned" and task.instance_id == instance_id
        if not wanted or task.closing or task.ending or task.task_id not in self.living:
            return None
        pause_ms = START_AGAIN_MS[min(task.sends, len(START_AGAIN_MS) - 1)]
        task.sends += 1
        task.send_due_ms = self._timers.now_ms() + pause_ms
        self._timers.at(task.send_due_ms, self._not_shown, task)
        return start_draft(task, self._tokens)

    def start_again(self, task: LiveTask) -> None:
        """Publishes the StartTask of an assigned task (again)."""
        self._ledger.send(partial(self._start, task, task.instance_id or ""))

    def _not_shown(self, task: LiveTask) -> None:
        """The instance has had its time to show that it has the task."""
        if task.state != "assigned" or task.send_due_ms > self._timers.now_ms() or task.closing or task.ending:
            return
        instance = task.fleet.instances.get(task.instance_id or "")
        if task.sends <= len(START_AGAIN_MS) - 1 or instance is None:
            self.start_again(task)
            return
        log.warning("instance %s does not react to task %s: placed again", task.instance_id, task.task_id)
        instance.cool_until_ms = self._timers.now_ms() + DEAF_MS
        instance.leases.pop(task.task_id, None)
        self._take_back(task, lost_by=task.instance_id)
        self.pump(task.fleet)

    # --- what instances show ---

    def heard(self, message: Message) -> None:
        """A message on a task's channel has become visible."""
        self.cursor = message.timetoken
        self._came_ms = message.timetoken // TICKS_PER_MS
        draft = message.draft
        task = self.task_of(draft)
        if task is None:
            return
        task.note(mark_of(draft.meta))
        event = hear(draft.payload) if draft.kind is Kind.MESSAGE else None
        if event is None:
            return
        if event.is_terminal:
            if event.is_refusal and task.state == "assigned" and not self.is_stranger(task, draft.publisher):
                self.refused(task)
            else:
                self._finish(task, event, draft.publisher)
        elif draft.publisher and event.by_an_agent:
            self._shown(task, event, draft.publisher)
        if event.type == "artifact" and not self.is_stranger(task, draft.publisher):
            self._notice(task, ARTIFACT, draft.payload)

    def _heard_ms(self) -> int:
        """The same by the timers' clock: never ahead of it."""
        return min(self._came_ms, self._timers.now_ms())

    def task_of(self, draft: Draft) -> LiveTask | None:
        """The living task whose channel this is."""
        task = self.living.get(draft.channel.rpartition(".")[2])
        return task if task is not None and _is_of(task, draft) else None

    def ended_task_of(self, draft: Draft) -> LiveTask | None:
        """The same for a task that has ended not long ago."""
        task = self._ended.get(draft.channel.rpartition(".")[2])
        return task if task is not None and _is_of(task, draft) else None

    def ended_task(self, task_id: str) -> LiveTask | None:
        """A task that has ended not long ago, as its row says or will say."""
        return self._ended.get(task_id)

    def is_stranger(self, task: LiveTask, publisher: str) -> bool:
        """True for another instance than the one that has the lease. The write token is proof enough for others."""
        return publisher != task.instance_id and publisher in task.fleet.instances

    def _shown(self, task: LiveTask, event: Heard, publisher: str) -> None:
        if task.state == "queued":
            if publisher != task.lost_by:
                return
            # it was thought lost, or deaf, and has the task: running it elsewhere too would be running it twice
            instance = self._fleets.expect(task.fleet, publisher)
            task.fleet.waiting.pop(task.task_id, None)
            task.instance_id, task.not_before_ms = publisher, None
            instance.give(task.task_id, pipe=task.task_kind == "pipe", turn=task.fleet.next_turn())
        elif self.is_stranger(task, publisher):
            return
        if task.state in ("assigned", "queued"):
            self._started(task)
        if event.turn is not None:
            before = task.state
            self._move(task, Happening.PAUSED if event.turn == "paused" else Happening.RESUMED, self._heard_ms())
            self._ledger.update(task, soon=False)
            if task.state != before:
                self._notice(task, f"task.{event.turn}")

    def _started(self, task: LiveTask) -> None:
        self._move(task, Happening.STARTED, self._heard_ms())
        task.started_at_ms = task.updated_at_ms
        instance = task.fleet.instances.get(task.instance_id or "")
        if instance is not None:
            instance.started(task.task_id, task.started_at_ms)
        self._deadlines.started(task)
        self._ledger.update(task, soon=False)
        self._notice(task, "task.running")

    def refused(self, task: LiveTask) -> None:
        instance = task.fleet.instances.get(task.instance_id or "")
        if instance is not None:
            instance.refused(task.task_id, self._timers.now_ms())
        self._take_back(task, lost_by=None)
        self.pump(task.fleet)

    def _take_back(self, task: LiveTask, *, lost_by: str | None, pause_ms: int = 0) -> None:
        """The task is without an instance: it waits before all others, or ends if asked to. The caller pumps."""
        if task.closing:
            return
        self._move(task, Happening.TAKEN_BACK)
        task.instance_id, task.lost_by = None, lost_by
        if task.ending is not None:
            self.end(task, OUTCOMES[task.ending])
        elif pause_ms:
            task.not_before_ms = self._timers.now_ms() + pause_ms
            self._timers.at(task.not_before_ms, self.ready, task)
        else:
            task.fleet.queue(task.task_id, task, first=True)
        self._ledger.update(task)

    def ready(self, task: LiveTask) -> None:
        """The pause before another attempt is over."""
        due = task.not_before_ms is not None and task.not_before_ms <= self._timers.now_ms()
        if task.state == "queued" and due and not task.closing and task.task_id in self.living:
            task.not_before_ms = None
            task.fleet.queue(task.task_id, task, first=True)
            self.pump(task.fleet)

    def lost(self, fleet: Fleet[LiveTask], instance: Instance) -> None:
        """An instance is gone for good, and with it its leases."""
        for task_id in reversed(list(instance.leases)):  # each goes before all others: so they keep their order
            task = self.living.get(task_id)
            if task is None or task.instance_id != instance.instance_id or task.state not in ON_AN_INSTANCE:
                continue  # ended already; only its handler may have gone on
            log.warning("task %s has lost its instance %s (state %s)", task_id, instance.instance_id, task.state)
            if task.closing:
                continue
            if task.state == "assigned" or task.ending is not None:
                self._take_back(task, lost_by=instance.instance_id)
            elif not self._run_again(task, INSTANCE_LOST, lost_by=instance.instance_id):
                error = f"the instance {instance.instance_id} that ran the task is gone"
                self.end(task, Outcome("failed", error=error, reason=INSTANCE_LOST))
        self.pump(fleet)

    def _run_again(self, task: LiveTask, cause: str, *, lost_by: str | None) -> bool:
        """Takes the task back for its next attempt, if its policy has one for this cause."""
        pause_ms = task.policy.again_in_ms(cause, task.attempt)
        if pause_ms is None or task.ending is not None:
            return False
        task.attempt += 1
        self._take_back(task, lost_by=lost_by, pause_ms=pause_ms)
        return True

    def fails_again(self, task: LiveTask) -> bool:
        """A run has failed: True when another one follows it."""
        if task.ending is not None or task.policy.again_in_ms(FAILED, task.attempt) is None:
            return False
        self._release(task)
        again = self._run_again(task, FAILED, lost_by=None)
        self.pump(task.fleet)
        return again

    # --- ends ---

    def end(self, task: LiveTask, outcome: Outcome) -> None:
        """Publishes the network's own terminal, unless one is on its way."""
        if task.closing is not None or task.task_id not in self.living:
            return
        now_ms = self._timers.now_ms()
        if task.passing_until_ms > now_ms:  # the instance's own terminal comes first; look again if it does not come
            self._timers.at(task.passing_until_ms, lambda late: self.end(late, outcome), task)
            return
        task.closing = outcome
        task.fleet.waiting.pop(task.task_id, None)
        event = terminal_event(
            task.task_id,
            outcome.state,  # type: ignore[arg-type]  # one of the three, see OUTCOMES
            error=outcome.error,
            reason=outcome.reason,
            completion_reason=outcome.completion_reason,
        )
        self.publish(task, event)

    def publish(self, task: LiveTask, event: dict[str, Any]) -> None:
        """An event of the network on the task's channel, by way of the outbox."""
        self.positions += 1
        message = OutboxMessage(
            message_id=f"{task.task_id}.{self.positions}",
            position=self.positions,
            keyset=task.keyset,
            channel=task.channel,
            payload=encode(event).decode(),
            meta=encode(event_meta(task.agent_name, task.task_id)).decode(),
        )
        self._ledger.send(message)

    def _finish(self, task: LiveTask, event: Heard, publisher: str) -> None:
        """A terminal stands on the channel: the first one, so it is the end."""
        self._remove(task)
        unsent = task.state == "assigned" and task.sends == 0  # its instance has never heard of it
        at_instance = task.instance_id if task.state in ON_AN_INSTANCE and not unsent else None
        instance = task.fleet.instances.get(at_instance or "")
        self._move(task, _HAPPENED[event.state], self._heard_ms())
        task.ended_at_ms = task.updated_at_ms
        error, reason, completion = (event.text(name) for name in ("error", "reason", "completion_reason"))
        task.error = None if error is None else cut_text(error)
        task.reason = None if reason is None else reason[:REASON_CHARS]
        task.completion_reason = None if completion is None else completion[:REASON_CHARS]
        self._ledger.update(task, soon=False)
        self._notice(task, f"task.{task.state}")
        self._tokens.forget(task)
        task.request = ""  # the row has it; those who have ended are remembered for a while, without their load
        self._ended[task.task_id] = task
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        if instance is not None and publisher != instance.instance_id:
            # somebody else ended it, so the handler may still run: its place stays taken until it shows its end
            if publisher:
                self._ledger.send(partial(control_draft, task, "CancelTask", reason="ended elsewhere"))
            until_ms = self._timers.now_ms() + LINGER_MS
            instance.linger(task.task_id, until_ms)
            self._timers.at(until_ms, self._lingered, (task.fleet, instance))
        else:
            self._release(task)
        self.pump(task.fleet)

    def _notice(self, task: LiveTask, event: str, payload: bytes = b"") -> None:
        """Tells the task's webhook, if it has one for this: written in one transaction with the change before it."""
        if task.hook is None:
            return
        notice = notice_of(task, event, self._timers.now_ms(), self._limits, payload)
        if notice is not None:
            self._ledger.notice(notice)

    def released(self, task: LiveTask) -> None:
        """The handler of a task that the network has ended shows its own end: its place is free."""
        self._release(task)
        self.pump(task.fleet)

    def _lingered(self, who: tuple[Fleet[LiveTask], Instance]) -> None:
        fleet, instance = who
        instance.drop_overdue(self._timers.now_ms())
        self.pump(fleet)

    def _remove(self, task: LiveTask) -> None:
        if self.living.pop(task.task_id, None) is not None:
            task.fleet.users -= 1
        task.fleet.waiting.pop(task.task_id, None)

    def _release(self, task: LiveTask) -> None:
        instance = task.fleet.instances.get(task.instance_id or "")
        if instance is not None:
            instance.release(task.task_id)

    def _move(self, task: LiveTask, happening: Happening, at_ms: int | None = None) -> None:
        """`at_ms`: when it happened, where that is not now but what is read again after a restart."""
        state = after(task.state, happening)
        if state is not None:
            task.state = state
            task.updated_at_ms = self._timers.now_ms() if at_ms is None else at_ms


def _is_of(task: LiveTask, draft: Draft) -> bool:
    return task.channel == draft.channel and task.keys.subscribe_key == draft.keyset
