"""A task that has not ended: its row, and what only the running network knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.store.tasks import COLUMNS, TaskRecord
from blocks_network.server.tasks.events import Mark
from blocks_network.server.tasks.life import WAITING
from blocks_network.server.tasks.retries import RetryPolicy
from blocks_network.server.webhooks.config import Webhook
from blocks_network.wire.channels import sessions_group, task_channel

if TYPE_CHECKING:
    from blocks_network.server.tasks.leases import Fleet

__all__ = ["LiveTask", "Outcome"]

MARKS_MAX = 32
"""Runs of a task whose events can be told from repeats; there are as many as attempts at most, and some refusals."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the network ends a task that nobody else ends."""

    state: str
    error: str | None = None
    reason: str | None = None
    completion_reason: str | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class LiveTask(TaskRecord):
    """One record a task; it goes when the task ends."""

    keys: Keyset
    fleet: Fleet[LiveTask]
    policy: RetryPolicy
    channel: str
    readers_group: str | None = None
    """The channel group in which `reader` finds it."""
    hook: Webhook | None = None
    """`webhook`, read."""
    artifacts_told: int = 0
    """To its webhook, since the network was started."""
    sends: int = 0
    """How often its StartTask was published for the present lease."""
    send_due_ms: int = 0
    write_token: str | None = field(default=None, repr=False)
    """Of the latest StartTask."""
    closing: Outcome | None = None
    """The network's own terminal is decided and on its way to the channel."""
    passing_until_ms: int = 0
    """An instance's terminal is on its way to the channel; until then the network publishes none of its own."""
    lost_by: str | None = None
    """The instance that was thought lost when the task was taken back: it may show that it has it after all."""

    recalled: bool = True
    """False after a restart, until what stands on the channel was looked at for `marks`."""
    marks: dict[str, int] = field(default_factory=dict)
    """The last event of each run that stands on the channel."""

    def note(self, mark: Mark | None) -> None:
        """An event with this mark stands on the channel."""
        if mark is not None and mark.number > self.marks.get(mark.run, 0):
            if len(self.marks) >= MARKS_MAX and mark.run not in self.marks:
                del self.marks[next(iter(self.marks))]
            self.marks[mark.run] = mark.number

    def has(self, mark: Mark | None) -> bool:
        return mark is not None and mark.number <= self.marks.get(mark.run, 0)

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @classmethod
    def of(cls, record: TaskRecord, keys: Keyset, fleet: Fleet[LiveTask]) -> LiveTask:
        """The task of a stored row."""
        values = {name: getattr(record, name) for name in COLUMNS}
        policy = RetryPolicy.from_text(record.retry_policy)
        channel = task_channel(record.task_id, record.org_id)
        group = None if record.reader is None else sessions_group(record.org_id, record.reader)
        hook = None if record.webhook is None else Webhook.from_text(record.webhook)
        return cls(
            **values,
            keys=keys,
            fleet=fleet,
            policy=policy,
            channel=channel,
            readers_group=group,
            hook=hook,
            recalled=False,
        )
