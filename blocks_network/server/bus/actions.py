"""Message actions: what uuids attach to a stored message (a reaction, a receipt), kept beside it in the log.

An action lives as long as its message: whatever removes the message (retention, a delete) removes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Protocol

from blocks_network.server.bus.log import ALIVE, NEVER, AppendLog, place_of

__all__ = ["Action", "Actions", "LogActions", "NotAdded"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS action (
    timetoken INTEGER PRIMARY KEY, message INTEGER NOT NULL, place INTEGER NOT NULL, keyset TEXT NOT NULL,
    channel TEXT NOT NULL, uuid TEXT NOT NULL, type TEXT NOT NULL, value TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS action_once ON action (message, type, value, uuid);
CREATE INDEX IF NOT EXISTS action_place ON action (place);
CREATE TRIGGER IF NOT EXISTS message_gone AFTER DELETE ON message
    BEGIN DELETE FROM action WHERE message = old.timetoken; END;
"""
COLUMNS = "timetoken, message, uuid, type, value"
HERE = "place = :place AND keyset = :keyset AND channel = :channel"


@dataclass(frozen=True, slots=True)
class Action:
    """`timetoken` is the action's own; `message` is the timetoken of what it is attached to."""

    timetoken: int
    message: int
    uuid: str
    type: str
    value: str


class NotAdded(Enum):
    """Why an action was not added."""

    NO_MESSAGE = auto()
    """The channel has no stored message of that timetoken."""
    REPEATED = auto()
    """The uuid has attached the same type and value to it already."""
    FULL = auto()
    """The message has as many actions as one may have."""


class Actions(Protocol):
    """Part of a bus. Answers of `add` and `remove` are durable when what is stored is. All raise BusFull."""

    async def add(self, keyset: str, channel: str, message: int, *, uuid: str, type: str, value: str) -> Action | NotAdded:
        """Each action has a timetoken of its own, greater than all before."""

    async def remove(self, keyset: str, channel: str, message: int, timetoken: int) -> Action | None:
        """What was removed; None when there is no such action."""

    async def of_channel(
        self, keyset: str, channel: str, *, after: int | None, before: int | None, limit: int
    ) -> list[Action]:
        """The newest `limit` with `after < timetoken < before` of the action, ascending."""

    async def of_messages(
        self, keyset: str, channel: str, messages: Sequence[int], *, limit: int
    ) -> dict[int, list[Action]]:
        """Their actions, ascending, message for message in the order asked for, until there would be more than `limit`.

        The first message's are always there; messages that are left out are no keys, those without actions are.
        """


class LogActions:
    """Kept in the bus's log; see `Actions`. `now` is the bus's cursor."""

    def __init__(self, log: AppendLog, now: Callable[[], int], *, per_message: int) -> None:
        self._log, self._now, self._per_message = log, now, per_message

    async def start(self) -> None:
        """The log is open."""
        await self._log.change(lambda connection: connection.executescript(SCHEMA).close())

    async def add(self, keyset: str, channel: str, message: int, *, uuid: str, type: str, value: str) -> Action | NotAdded:
        row: dict[str, object] = {
            **_here(keyset, channel),
            **self._log.alive(),
            "message": message,
            "uuid": uuid,
            "type": type,
            "value": value,
            "now_token": self._now(),
            "most": self._per_message,
        }
        return await self._log.change(partial(_add, row))

    async def remove(self, keyset: str, channel: str, message: int, timetoken: int) -> Action | None:
        row = {**_here(keyset, channel), "message": message, "timetoken": timetoken}
        return await self._log.change(partial(_remove, row))

    async def of_channel(
        self, keyset: str, channel: str, *, after: int | None, before: int | None, limit: int
    ) -> list[Action]:
        asked = {
            **_here(keyset, channel),
            "after": -1 if after is None else after,
            "before": NEVER if before is None else before,
            "limit": limit,
        }
        return await self._log.read(partial(_of_channel, asked))

    async def of_messages(
        self, keyset: str, channel: str, messages: Sequence[int], *, limit: int
    ) -> dict[int, list[Action]]:
        return await self._log.read(partial(_of_messages, _here(keyset, channel), messages, limit))


# -- each on one connection, in one thread: the writer's for changes -----------------------------------------------


def _here(keyset: str, channel: str) -> dict[str, int | str]:
    return {"place": place_of(keyset, channel), "keyset": keyset, "channel": channel}


def _add(row: dict[str, object], connection: sqlite3.Connection) -> Action | NotAdded:
    """All checks and the insert see the same state: nothing else writes."""
    there = connection.execute(
        f"SELECT 1 FROM message WHERE timetoken = :message AND {HERE} AND ({ALIVE})",  # noqa: S608 - constants of ours
        row,
    ).fetchone()
    if there is None:
        return NotAdded.NO_MESSAGE
    (number,) = connection.execute("SELECT count(*) FROM action WHERE message = :message", row).fetchone()
    if number >= row["most"]:  # type: ignore[operator]
        return NotAdded.FULL
    added = connection.execute(
        "INSERT OR IGNORE INTO action SELECT max(:now_token, coalesce(max(timetoken) + 1, 0)), :message, :place, :keyset,"
        f" :channel, :uuid, :type, :value FROM action WHERE true RETURNING {COLUMNS}",
        row,
    ).fetchone()
    return NotAdded.REPEATED if added is None else Action(*added)


def _remove(row: dict[str, object], connection: sqlite3.Connection) -> Action | None:
    gone = connection.execute(
        f"DELETE FROM action WHERE timetoken = :timetoken AND message = :message AND {HERE} RETURNING {COLUMNS}",  # noqa: S608
        row,
    ).fetchone()
    return None if gone is None else Action(*gone)


def _of_channel(asked: dict[str, object], connection: sqlite3.Connection) -> list[Action]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM action WHERE {HERE} AND timetoken > :after AND timetoken < :before"  # noqa: S608
        " ORDER BY timetoken DESC LIMIT :limit",
        asked,
    ).fetchall()
    return [Action(*row) for row in reversed(rows)]


def _of_messages(
    here: dict[str, int | str], messages: Iterable[int], limit: int, connection: sqlite3.Connection
) -> dict[int, list[Action]]:
    found: dict[int, list[Action]] = {}
    number = 0
    for message in messages:
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM action WHERE message = :message AND {HERE} ORDER BY timetoken",  # noqa: S608
            {**here, "message": message},
        ).fetchall()
        number += len(rows)
        if found and number > limit:
            break
        found[message] = [Action(*row) for row in rows]
    return found
