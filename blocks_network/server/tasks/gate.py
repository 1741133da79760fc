"""The gate: what an instance may still publish on its task's channel.

It keeps the channel's promises: nothing follows a terminal, a run that is not the task's end does not show one, and an
event that an instance sends again, because it never saw the answer, does not stand there twice. The gateway asks it
before each publish on a channel that starts with `u.`; without it the task service works as well, but readers then see
what the network has got over.

What it knows is in memory. After a restart it looks once at what stands on a channel.
"""

from __future__ import annotations

from blocks_network.server.bus import Answered, Bus, Draft, Kind, Message
from blocks_network.server.store.database import StoreFault
from blocks_network.server.tasks.events import Heard, Mark, hear, mark_of
from blocks_network.server.tasks.ledger import Ledger
from blocks_network.server.tasks.live import LiveTask
from blocks_network.server.tasks.overseer import PASSING_MS, Overseer
from blocks_network.server.tasks.timers import Timers

__all__ = ["Gate"]

LOOKED_AT = 100
"""Of a channel's newest messages, where memory does not say what stands there."""


class Gate:
    """An `Interceptor` for the prefix `u.`; what it keeps back is answered like a publish that went through."""

    def __init__(self, *, bus: Bus, overseer: Overseer, ledger: Ledger, timers: Timers) -> None:
        self._bus, self._overseer, self._ledger, self._timers = bus, overseer, ledger, timers

    async def __call__(self, draft: Draft) -> Answered | None:
        if draft.kind is not Kind.MESSAGE:
            return None
        task = self._overseer.task_of(draft)
        if task is None:
            return await self._after_the_end(draft)
        mark = mark_of(draft.meta)
        if mark is not None and await self._stands(task, mark):
            return self._sent()
        if b'"terminal"' not in draft.payload:
            return None
        event = hear(draft.payload)
        if event is None or not event.is_terminal:
            return None
        if task.closing is not None:  # the network's own terminal is decided and on its way
            if draft.publisher == task.instance_id:
                self._overseer.released(task)
            return self._sent()
        if _is_over(task, event, mark, draft.publisher):
            return await self._sent_for_good()
        if not self._overseer.is_stranger(task, draft.publisher) and task.instance_id is not None:
            if event.is_refusal and task.state == "assigned":
                self._overseer.refused(task)
                return await self._sent_for_good()
            if event.state == "failed" and self._overseer.fails_again(task):
                return await self._sent_for_good()
        task.passing_until_ms = self._timers.now_ms() + PASSING_MS
        return None

    async def _stands(self, task: LiveTask, mark: Mark) -> bool:
        """Whether this event is on the channel already."""
        if not task.recalled:
            for message in await self._newest(task.keys.subscribe_key, task.channel):
                task.note(mark_of(message.draft.meta))
            task.recalled = True
        return task.has(mark)

    async def _after_the_end(self, draft: Draft) -> Answered | None:
        event = hear(draft.payload)
        if event is None or not event.by_an_agent:
            return None
        task = self._overseer.ended_task_of(draft)
        if task is None:  # ended before the last restart, or so long ago that it was forgotten, or no task's channel
            return self._sent() if await self._has_terminal(draft) else None
        if event.is_terminal and draft.publisher == task.instance_id:
            self._overseer.released(task)
        return self._sent()

    async def _has_terminal(self, draft: Draft) -> bool:
        newest = await self._newest(draft.keyset, draft.channel)
        return any((event := hear(message.draft.payload)) is not None and event.is_terminal for message in newest)

    async def _newest(self, keyset: str, channel: str) -> list[Message]:
        return await self._bus.history(keyset, channel, limit=LOOKED_AT, newest=True)

    async def _sent_for_good(self) -> Answered:
        """What was kept back has changed the task, and the channel does not tell of it: that is stored first."""
        try:
            await self._ledger.flush()
        except (StoreFault, OSError, RuntimeError):
            return Answered(503, b'{"status":503,"error":true,"message":"The network cannot store anything now"}')
        return self._sent()

    def _sent(self) -> Answered:
        return Answered(200, b'[1,"Sent","%d"]' % self._bus.now())


def _is_over(task: LiveTask, event: Heard, mark: Mark | None, publisher: str) -> bool:
    """Whether the network has got over this terminal before: it took the task back then, and says so again."""
    if event.is_refusal and (task.state == "queued" or publisher != task.instance_id):
        return True  # it speaks for the instance that says so, and another one may have the task by now
    failed_before = event.state == "failed" and mark is not None and 0 < mark.attempt < task.attempt
    return failed_before and (publisher != task.instance_id or task.state in ("queued", "assigned"))
