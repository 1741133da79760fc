"""What is asked of a task: by its callers, and by its time.

Whoever asks, the handler has to look for it; what does not end in its grace, the network ends.
"""

from __future__ import annotations

from functools import partial

from blocks_network.server.bus import Draft
from blocks_network.server.limits import Limits
from blocks_network.server.store.tasks import TaskRecord
from blocks_network.server.tasks.dispatch import control_draft
from blocks_network.server.tasks.ledger import Ledger
from blocks_network.server.tasks.life import ON_AN_INSTANCE, Effect, Rule, rule_for
from blocks_network.server.tasks.live import LiveTask, Outcome
from blocks_network.server.tasks.overseer import OUTCOMES, Overseer
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.server.tasks.timers import Timers
from blocks_network.wire.events import cancel_requested_event

__all__ = ["Control"]

NETWORK = "network"
"""The caller that control messages name when it was nobody's wish."""
_ENDINGS = {"CancelTask": "cancel", "TerminateTask": "terminate", "ExpireTask": "expire"}
_METHODS = {ending: method for method, ending in _ENDINGS.items()}
_STRENGTH = {None: 0, "cancel": 1, "expire": 2, "terminate": 3}


class Control:
    """The control methods and the deadlines of living tasks. In the loop; nothing here waits."""

    def __init__(self, *, overseer: Overseer, ledger: Ledger, timers: Timers, limits: Limits) -> None:
        self._overseer, self._ledger, self._timers, self._limits = overseer, ledger, timers, limits

    def ask(self, task: LiveTask, method: str, caller: str) -> None:
        """CancelTask, PauseTask, ResumeTask, RetryTask or TerminateTask. TaskRefusal where the state forbids it."""
        rule = self._allowed(task, method)
        if task.closing is not None or rule.effect is Effect.NOTHING:
            return
        if method == "CancelTask" and task.ending is None:
            self._overseer.publish(task, cancel_requested_event(task.task_id, self._timers.now_ms()))
        unsent = task.state == "assigned" and task.sends == 0  # its StartTask has not left, and need not any more
        if rule.effect is Effect.END or (rule.effect is Effect.ASK_TO_END and unsent):
            self._overseer.end(task, OUTCOMES[_ENDINGS[method]])
        elif rule.effect is Effect.HURRY:
            if task.not_before_ms is not None:
                task.not_before_ms = self._timers.now_ms()
                self._ledger.update(task)
                self._overseer.ready(task)
        elif rule.effect is Effect.ASK_TO_END:
            self._ask_to_end(task, method, caller, self._limits.cancel_grace_s)
        else:
            self._tell(task, method, caller=caller)

    def refuse_ended(self, record: TaskRecord, method: str) -> None:
        """TaskRefusal where the method makes no sense for a task that has ended."""
        self._allowed(record, method)

    def _allowed(self, record: TaskRecord, method: str) -> Rule:
        rule = rule_for(method, record.state)
        if rule.effect is Effect.REFUSE:
            raise TaskRefusal(rule.code, rule.text, details={"taskId": record.task_id, "state": record.state})
        return rule

    def assigned(self, task: LiveTask) -> None:
        """A pipe task's time begins when it is first given to an instance, not while it waits for one."""
        if task.duration_minutes is not None and task.expires_at_ms is None:
            life_s = task.duration_minutes * 60
            if task.max_running_s is not None:
                life_s = min(life_s, task.max_running_s)
            task.expires_at_ms = self._timers.now_ms() + life_s * 1000
            self._timers.at(task.expires_at_ms, self._expired, task)

    def started(self, task: LiveTask) -> None:
        if task.max_running_s is not None and task.task_kind != "pipe" and task.started_at_ms is not None:
            self._timers.at(task.started_at_ms + task.max_running_s * 1000, self._ran_too_long, task)

    def restored(self, task: LiveTask) -> None:
        """Sets again, after a restart, the timers of what is stored.

        The clock may have been set back meanwhile: no pause and no grace gets longer than it was.
        """
        now_ms, limits = self._timers.now_ms(), self._limits
        if task.started_at_ms is not None:
            task.started_at_ms = min(task.started_at_ms, now_ms)
        if task.ending_at_ms is not None:
            grace_s = limits.expire_grace_s if task.ending == "expire" else limits.cancel_grace_s
            task.ending_at_ms = min(task.ending_at_ms, now_ms + int(grace_s * 1000))
        if task.not_before_ms is not None:
            task.not_before_ms = min(task.not_before_ms, now_ms + task.policy.longest_pause_ms(task.attempt))
        if task.expires_at_ms is not None:
            self._timers.at(task.expires_at_ms, self._expired, task)
        if task.state in ("running", "paused"):
            self.started(task)
        if task.ending_at_ms is not None:
            self._timers.at(task.ending_at_ms, self._grace_over, task)
        # nobody knows whether the last message to its instance left: it is sent again, and does no harm twice
        if task.ending is not None and task.state in ON_AN_INSTANCE:
            self._tell_to_end(task, NETWORK)
        elif task.state == "assigned":
            self._overseer.start_again(task)
        if task.state == "queued" and task.not_before_ms is not None:
            self._timers.at(task.not_before_ms, self._overseer.ready, task)

    def _ask_to_end(self, task: LiveTask, method: str, caller: str, grace_s: float) -> None:
        """Tells the instance; a repeated wish is told again and keeps the first grace."""
        ending = _ENDINGS[method]
        if _STRENGTH[ending] > _STRENGTH[task.ending]:
            task.ending = ending
            at_ms = self._timers.now_ms() + int(grace_s * 1000)
            task.ending_at_ms = at_ms if task.ending_at_ms is None else min(task.ending_at_ms, at_ms)
            self._timers.at(task.ending_at_ms, self._grace_over, task)
            self._ledger.update(task)
        self._tell_to_end(task, caller)

    def _tell_to_end(self, task: LiveTask, caller: str) -> None:
        """By the strongest of what was asked: a cancel does not undo a terminate."""
        if task.ending == "expire":
            self._tell(task, "ExpireTask", agentName=task.agent_name, reason="duration_expired")
        elif task.ending is not None:
            self._tell(task, _METHODS[task.ending], caller=caller)

    def _tell(self, task: LiveTask, kind: str, **fields: str) -> None:
        instance_id = task.instance_id

        def message() -> Draft | None:
            if task.instance_id != instance_id or task.state not in ON_AN_INSTANCE:
                return None  # it has left that instance before the message did
            return control_draft(task, kind, **fields)

        self._ledger.send(message)

    def _expired(self, task: LiveTask) -> None:
        if not self._is_living(task):
            return
        if task.state in ON_AN_INSTANCE:
            self._ask_to_end(task, "ExpireTask", NETWORK, self._limits.expire_grace_s)
        else:
            self._overseer.end(task, OUTCOMES["expire"])

    def _ran_too_long(self, task: LiveTask) -> None:
        """The end comes first, then the instance is told: its own answer to that is no longer the task's."""
        limit_s, started_ms = task.max_running_s, task.started_at_ms
        if not self._is_living(task) or limit_s is None or started_ms is None:
            return
        if task.state not in ("running", "paused") or started_ms + limit_s * 1000 > self._timers.now_ms():
            return  # another attempt runs, with a timer of its own
        error = f"the task ran longer than the {limit_s} s that the agent allows"
        self._overseer.end(task, Outcome("failed", error=error, reason="max_running_time_exceeded"))
        self._ledger.send(partial(control_draft, task, "TerminateTask", caller=NETWORK))

    def _grace_over(self, task: LiveTask) -> None:
        due = task.ending_at_ms is not None and task.ending_at_ms <= self._timers.now_ms()
        if self._is_living(task) and due and task.ending is not None:
            self._overseer.end(task, OUTCOMES[task.ending])

    def _is_living(self, task: LiveTask) -> bool:
        return task.closing is None and self._overseer.living.get(task.task_id) is task
