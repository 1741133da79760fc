"""Leases: which instance has which task, and how much more each instance takes.

The network's own leases are the measure; what instances say of themselves (presence state, up to 250 ms old) only
corrects it where the network cannot know better: a pipe task whose handler has returned no longer takes a place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["Fleet", "Instance", "Lease"]

T = TypeVar("T")

STATE_TRUSTED_MS = 1_000
"""How long after a task's start the instance's own count is believed to include it."""
COOL_FIRST_MS, COOL_MAX_MS = 100, 5_000
"""The pause of an instance that refused a task, doubling with each refusal in a row."""


@dataclass(slots=True)
class Lease:
    """One task at one instance. `started_ms` None: it has not shown that it runs. `until_ms`: kept no longer."""

    task_id: str
    pipe: bool = False
    started_ms: int | None = None
    until_ms: int | None = None


@dataclass(slots=True)
class Instance:
    """One instance of an agent. `concurrency` None: not known to have connected, gets nothing; 0: no limit."""

    instance_id: str
    concurrency: int | None = None
    present: bool = False
    gone_at_ms: int | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    refusals: int = 0
    cool_until_ms: int = 0
    last_given: int = 0
    may_have_pipes: bool = False
    """False: none of the leases is a pipe's."""

    def give(self, task_id: str, *, pipe: bool, turn: int) -> Lease:
        lease = self.leases[task_id] = Lease(task_id, pipe)
        self.last_given = turn
        self.may_have_pipes = self.may_have_pipes or pipe
        return lease

    def release(self, task_id: str) -> bool:
        """True when it had that task."""
        had = self.leases.pop(task_id, None) is not None
        if had:
            self.warm()
        return had

    def started(self, task_id: str, at_ms: int) -> None:
        lease = self.leases.get(task_id)
        if lease is not None and lease.started_ms is None:
            lease.started_ms = at_ms
        self.refusals = 0

    def linger(self, task_id: str, until_ms: int) -> None:
        """The task has ended, its handler perhaps not: the place stays taken until `until_ms` at the latest."""
        lease = self.leases.get(task_id)
        if lease is not None:
            lease.until_ms = until_ms

    def drop_overdue(self, now_ms: int) -> None:
        for task_id in [key for key, lease in self.leases.items() if lease.until_ms and lease.until_ms <= now_ms]:
            del self.leases[task_id]

    def refused(self, task_id: str, now_ms: int) -> int:
        """It would not take the task. Returns when it may be asked again."""
        self.leases.pop(task_id, None)
        pause_ms = min(COOL_FIRST_MS * 2 ** min(self.refusals, 16), COOL_MAX_MS)
        self.refusals += 1
        self.cool_until_ms = now_ms + pause_ms
        return self.cool_until_ms

    def warm(self) -> None:
        """Something has changed at the instance: it may be asked at once."""
        self.cool_until_ms = 0

    def settles_at(self, now_ms: int) -> int | None:
        """When the instance's own count can first tell about a pipe task that started just now; None if none did."""
        if not self.may_have_pipes:
            return None
        self.may_have_pipes = any(lease.pipe for lease in self.leases.values())
        instants = [
            lease.started_ms + STATE_TRUSTED_MS
            for lease in self.leases.values()
            if lease.pipe and lease.started_ms is not None and lease.started_ms + STATE_TRUSTED_MS > now_ms
        ]
        return min(instants, default=None)

    def busy(self, now_ms: int, state: Callable[[], Mapping[str, Any]]) -> int:
        """How many places are taken. `state` (the instance's presence state) is asked only where it can matter."""
        taken = len(self.leases)
        if self.concurrency is None or self.concurrency == 0 or taken < self.concurrency:
            return taken
        settled = [
            lease
            for lease in self.leases.values()
            if lease.started_ms is not None and lease.started_ms + STATE_TRUSTED_MS <= now_ms
        ]
        pipes = sum(lease.pipe for lease in settled)
        if not pipes:
            return taken
        told = state().get("activeTasks")
        if isinstance(told, bool) or not isinstance(told, int) or told < 0:
            return taken
        return taken - min(max(len(settled) - told, 0), pipes)


class Fleet(Generic[T]):
    """One agent on one keyset: its instances, and what waits for them in order of arrival."""

    def __init__(self, agent_id: str, keyset: str, subscribe_key: str, channel: str) -> None:
        self.agent_id, self.keyset, self.subscribe_key, self.channel = agent_id, keyset, subscribe_key, channel
        self.instances: dict[str, Instance] = {}
        self.waiting: OrderedDict[str, T] = OrderedDict()
        self.users = 0
        """Living tasks that hold on to this fleet."""
        self.looks_again_ms = 0
        """When a timer looks again whether somebody is free."""
        self._turn = 0

    def next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def instance(self, instance_id: str) -> Instance:
        """The instance's record, made when it is new."""
        found = self.instances.get(instance_id)
        if found is None:
            found = self.instances[instance_id] = Instance(instance_id)
        return found

    def queue(self, task_id: str, task: T, *, first: bool = False) -> None:
        """At the end, or, for a task that was taken back, before all others."""
        self.waiting[task_id] = task
        if first:
            self.waiting.move_to_end(task_id, last=False)

    @property
    def idle(self) -> bool:
        return not self.instances and not self.waiting
