"""The outbox: messages decided together with a task's state, kept until they are on the bus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, text

from blocks_network.server.store.schema import outbox

__all__ = ["OutboxMessage", "load_outbox", "put_messages", "remove_messages"]


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """`keyset` is the keyset's name, `position` the order among all; `payload` and `meta` are JSON texts."""

    message_id: str
    position: int
    keyset: str
    channel: str
    payload: str
    meta: str | None = None
    stored: bool = True


_INSERT = text(  # again after a commit whose answer got lost: what is there already stays
    "INSERT INTO outbox (message_id, position, keyset, channel, payload, meta, stored)"
    " VALUES (:message_id, :position, :keyset, :channel, :payload, :meta, :stored) ON CONFLICT DO NOTHING"
)
_DELETE = delete(outbox).where(outbox.c.message_id == bindparam("of_message"))


def put_messages(connection: Connection, messages: Sequence[OutboxMessage]) -> None:
    """Messages that are in it already stay as they are."""
    if messages:
        names = OutboxMessage.__slots__
        connection.execute(_INSERT, [{name: getattr(message, name) for name in names} for message in messages])


def remove_messages(connection: Connection, message_ids: Iterable[str]) -> None:
    """Forgets messages that are on the bus."""
    rows = [{"of_message": message_id} for message_id in message_ids]
    if rows:
        connection.execute(_DELETE, rows)


def load_outbox(connection: Connection) -> list[OutboxMessage]:
    """What still has to reach the bus, in its order."""
    return [OutboxMessage(**row._mapping) for row in connection.execute(select(outbox).order_by(outbox.c.position))]
