"""What stands on the tasks' channels after a fault, read from the disk of a network that has ended, and counted."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Audit", "Channel", "read_channels"]


@dataclass
class Channel:
    """The events of one task, in the order in which every reader gets them."""

    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def terminals(self) -> list[int]:
        """Where terminals stand."""
        return [index for index, event in enumerate(self.events) if event["type"] == "terminal"]

    @property
    def numbers(self) -> list[int]:
        """What the handler `counting` gave as artifacts."""
        return numbers_of(self.events)

    @property
    def reports(self) -> list[int]:
        return [int(event["message"]) for event in self.events if event.get("message") is not None]


def numbers_of(events: Iterable[Any]) -> list[int]:
    """The numbers among a task's events (dictionaries or TaskEvents)."""
    return [
        int(base64.b64decode(event["artifactRef"]["data"]))
        for event in events
        if event["type"] == "artifact" and event.get("outputId") == "number"
    ]


def read_channels(data: Path) -> dict[str, Channel]:
    """Task id to what stands on its channel. The network must have ended."""
    channels: dict[str, Channel] = defaultdict(Channel)
    with sqlite3.connect(data / "bus.db") as connection:
        rows = connection.execute("SELECT channel, payload FROM message WHERE kind = 0 ORDER BY timetoken")
        for channel, payload in rows:
            if channel.startswith("u."):
                channels[channel.rpartition(".")[2]].events.append(json.loads(payload))
    connection.close()
    return channels


@dataclass
class Audit:
    """How often a promise was not kept. All fields but `tasks` and `events` have to be 0."""

    tasks: int = 0
    events: int = 0
    not_ended: int = 0
    ended_twice: int = 0
    after_the_end: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0

    @classmethod
    def of(cls, channels: dict[str, Channel], acknowledged: dict[str, int]) -> Audit:
        """`acknowledged` says how many numbers each task had to give."""
        audit = cls(tasks=len(acknowledged))
        for task_id, total in acknowledged.items():
            audit._count(channels.get(task_id, Channel()), total)
        for task_id, channel in channels.items():  # what nobody was told about must not end twice either
            audit.ended_twice += task_id not in acknowledged and len(channel.terminals) > 1
        return audit

    def _count(self, channel: Channel, total: int) -> None:
        numbers = channel.numbers
        self.events += len(channel.events)
        self.not_ended += not channel.terminals
        self.ended_twice += len(channel.terminals) > 1
        self.after_the_end += bool(channel.terminals) and channel.terminals[0] != len(channel.events) - 1
        self.lost += len(set(range(total)) - set(numbers)) + (total - 1 not in channel.reports)
        self.doubled += len(numbers) - len(set(numbers))
        self.out_of_order += numbers != sorted(numbers) or channel.reports != sorted(channel.reports)

    @property
    def clean(self) -> bool:
        return not (
            self.not_ended or self.ended_twice or self.after_the_end or self.lost or self.doubled or self.out_of_order
        )
