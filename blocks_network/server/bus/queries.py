"""What is asked of the log: history, counts, what a late reader missed. Each runs on one connection, in one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from blocks_network.server.bus import Message
from blocks_network.server.bus.log import ALIVE, COLUMNS, NEVER, message_of, place_of

__all__ = ["counted", "deleted", "history", "late", "replayed", "tail_start"]

Alive = dict[str, int]
"""The parameters of ALIVE: what retention has not removed yet must not be seen either."""

_RANGE = "timetoken > :after AND timetoken < :before"
_HERE = f"place = :place AND keyset = :keyset AND channel = :channel AND {_RANGE}"


def _here(keyset: str, channel: str, after: int | None, before: int | None) -> dict[str, int | str]:
    return {
        "place": place_of(keyset, channel),
        "keyset": keyset,
        "channel": channel,
        "after": after if after is not None else -1,
        "before": before if before is not None else NEVER,
    }


def history(
    connection: sqlite3.Connection,
    alive: Alive,
    keyset: str,
    channel: str,
    after: int | None,
    before: int | None,
    limit: int,
    newest: bool,
) -> list[Message]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE {_HERE} AND ({ALIVE})"  # noqa: S608 - constants of ours
        f" ORDER BY timetoken {'DESC' if newest else 'ASC'} LIMIT :limit",
        {**alive, **_here(keyset, channel, after, before), "limit": limit},
    ).fetchall()
    return [message_of(row) for row in (reversed(rows) if newest else rows)]


def counted(
    connection: sqlite3.Connection, alive: Alive, keyset: str, channel: str, after: int, before: int, limit: int
) -> int:
    (number,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM message WHERE {_HERE} AND ({ALIVE}) LIMIT :limit)",  # noqa: S608
        {**alive, **_here(keyset, channel, after, before), "limit": limit},
    ).fetchone()
    return int(number)


def deleted(connection: sqlite3.Connection, keyset: str, channel: str, after: int | None, before: int | None) -> int:
    return connection.execute(
        f"DELETE FROM message WHERE {_HERE}",  # noqa: S608 - constants of ours
        _here(keyset, channel, after, before),
    ).rowcount


def tail_start(connection: sqlite3.Connection, alive: Alive, keyset: str, channel: str, count: int, since: int) -> int:
    """The cursor from which on a complete tail would hold a channel: `count` messages, and all newer than `since`."""
    row = connection.execute(
        f"SELECT timetoken FROM message WHERE {_HERE} AND ({ALIVE})"  # noqa: S608 - constants of ours
        " ORDER BY timetoken DESC LIMIT 1 OFFSET :skip",
        {**alive, **_here(keyset, channel, None, None), "skip": count - 1},
    ).fetchone()
    return min(since, row[0] - 1) if row is not None else 0


def late(
    connection: sqlite3.Connection,
    alive: Alive,
    keyset: str,
    starts: Iterable[tuple[str, int]],
    prefixes: Iterable[str],
    after: int,
    limit: int,
) -> list[list[Message]]:
    """For each channel its oldest messages above its start, and those below the prefixes above `after`."""
    runs = [history(connection, alive, keyset, channel, start, None, limit, newest=False) for channel, start in starts]
    return runs + [_below(connection, alive, keyset, prefix, after, limit) for prefix in prefixes]


def _below(
    connection: sqlite3.Connection, alive: Alive, keyset: str, prefix: str, after: int, limit: int
) -> list[Message]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE timetoken > :after AND keyset = :keyset"  # noqa: S608
        f" AND substr(channel, 1, :length) = :prefix AND ({ALIVE}) ORDER BY timetoken LIMIT :limit",
        {**alive, "after": after, "keyset": keyset, "length": len(prefix), "prefix": prefix, "limit": limit},
    )
    return [message_of(row) for row in rows]


def replayed(
    connection: sqlite3.Connection, alive: Alive, prefix: str, after: int, before: int, limit: int
) -> list[Message]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE {_RANGE}"  # noqa: S608 - constants of ours
        f" AND substr(channel, 1, :length) = :prefix AND ({ALIVE}) ORDER BY timetoken LIMIT :limit",
        {**alive, "after": after, "before": before, "length": len(prefix), "prefix": prefix, "limit": limit},
    )
    return [message_of(row) for row in rows]
