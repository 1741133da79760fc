"""The gate: what an instance may still publish on its task's channel.

It keeps the channel's promises: nothing follows a terminal, and a run that is not the task's end does not show one. The
gateway asks it before each publish on a channel that starts with `u.`; without it the task service works as well, but
readers then see terminals that the network has got over.
"""

from __future__ import annotations

from blocks_network.server.bus import Answered, Bus, Draft, Kind
from blocks_network.server.tasks.events import hear
from blocks_network.server.tasks.ledger import Ledger
from blocks_network.server.tasks.overseer import PASSING_MS, Overseer
from blocks_network.server.tasks.timers import Timers

__all__ = ["Gate"]


class Gate:
    """An `Interceptor` for the prefix `u.`; what it keeps back is answered like a publish that went through."""

    def __init__(self, *, bus: Bus, overseer: Overseer, ledger: Ledger, timers: Timers) -> None:
        self._bus, self._overseer, self._ledger, self._timers = bus, overseer, ledger, timers

    async def __call__(self, draft: Draft) -> Answered | None:
        if draft.kind is not Kind.MESSAGE:
            return None
        task = self._overseer.task_of(draft)
        if task is None:
            return self._after_the_end(draft)
        if b'"terminal"' not in draft.payload:
            return None
        event = hear(draft.payload)
        if event is None or not event.is_terminal:
            return None
        if task.closing is not None:  # the network's own terminal is decided and on its way
            if draft.publisher == task.instance_id:
                self._overseer.released(task)
            return self._sent()
        if not self._overseer.is_stranger(task, draft.publisher) and task.instance_id is not None:
            if event.is_refusal and task.state == "assigned":
                self._overseer.refused(task)
                await self._ledger.flush()
                return self._sent()
            if event.state == "failed" and self._overseer.fails_again(task):
                await self._ledger.flush()
                return self._sent()
        task.passing_until_ms = self._timers.now_ms() + PASSING_MS
        return None

    def _after_the_end(self, draft: Draft) -> Answered | None:
        task = self._overseer.ended_task_of(draft)
        event = None if task is None else hear(draft.payload)
        if task is None or event is None or not event.by_an_agent:
            return None
        if event.is_terminal and draft.publisher == task.instance_id:
            self._overseer.released(task)
        return self._sent()

    def _sent(self) -> Answered:
        return Answered(200, b'[1,"Sent","%d"]' % self._bus.now())
