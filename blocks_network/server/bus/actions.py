"""Message actions: what uuids attach to a stored message (a reaction, a receipt), kept beside it in the log.

An action lives as long as its message: whatever removes the message (retention, a delete) removes it, by a trigger.
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

    async def add(
        self, keyset: str, channel: str, message: int, *, uuid: str, kind: str, value: str
    ) -> Action | NotAdded:
        """`kind` is the action's type. Each action has a timetoken of its own, greater than all before."""

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
        self._last = 0
        """The highest timetoken given. Belongs to the log's writer thread."""

    async def add(
        self, keyset: str, channel: str, message: int, *, uuid: str, kind: str, value: str
    ) -> Action | NotAdded:
        place, names = place_of(keyset, channel), (keyset, channel)
        where = {**_here(keyset, channel), **self._log.alive(), "message": message}
        now = self._now()

        def run(connection: sqlite3.Connection) -> Action | NotAdded:
            """All checks and the insert see the same state: nothing else writes."""
            if not _is_there(connection, where):
                return NotAdded.NO_MESSAGE
            if _number_of(connection, message) >= self._per_message:
                return NotAdded.FULL
            (highest,) = connection.execute("SELECT max(timetoken) FROM action").fetchone()
            self._last = max(now, self._last + 1, (highest or 0) + 1)
            added = connection.execute(
                "INSERT OR IGNORE INTO action (timetoken, message, place, keyset, channel, uuid, type, value)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._last, message, place, *names, uuid, kind, value),
            )
            return Action(self._last, message, uuid, kind, value) if added.rowcount else NotAdded.REPEATED

        return await self._log.change(run)

    async def remove(self, keyset: str, channel: str, message: int, timetoken: int) -> Action | None:
        where = {**_here(keyset, channel), "message": message, "timetoken": timetoken}
        return await self._log.change(partial(_remove, where))

    async def of_channel(
        self, keyset: str, channel: str, *, after: int | None, before: int | None, limit: int
    ) -> list[Action]:
        asked: dict[str, int | str] = {
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


def _is_there(connection: sqlite3.Connection, where: dict[str, int | str]) -> bool:
    """Whether the message is stored, and not too old to be seen."""
    query = f"SELECT 1 FROM message WHERE timetoken = :message AND {HERE} AND ({ALIVE})"  # noqa: S608 - constants of ours
    return connection.execute(query, where).fetchone() is not None


def _number_of(connection: sqlite3.Connection, message: int) -> int:
    (number,) = connection.execute("SELECT count(*) FROM action WHERE message = ?", (message,)).fetchone()
    return int(number)


def _remove(where: dict[str, int | str], connection: sqlite3.Connection) -> Action | None:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM action WHERE timetoken = :timetoken AND message = :message AND {HERE}",  # noqa: S608
        where,
    ).fetchone()
    if row is None:
        return None
    connection.execute("DELETE FROM action WHERE timetoken = :timetoken", where)
    return Action(*row)


def _of_channel(asked: dict[str, int | str], connection: sqlite3.Connection) -> list[Action]:
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
