"""Recovery: from what the database and the bus kept to living tasks.

The tables are the state behind the stored cursor. What came on the bus after it is read again, in order; then what had
been decided and not published leaves; then the timers run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from blocks_network.server.access.keysets import Keysets
from blocks_network.server.bus import Bus, Message
from blocks_network.server.store import tasks as store
from blocks_network.server.store.database import Connection, Database
from blocks_network.server.store.outbox import OutboxMessage, load_outbox
from blocks_network.server.store.tasks import TaskRecord
from blocks_network.server.tasks.control import Control
from blocks_network.server.tasks.fleets import Fleets
from blocks_network.server.tasks.ledger import CURSOR
from blocks_network.server.tasks.live import LiveTask, Outcome
from blocks_network.server.tasks.overseer import Overseer
from blocks_network.wire.events import is_terminal_event

__all__ = ["TASK_CHANNELS", "recover"]

log = logging.getLogger(__name__)

TASK_CHANNELS = "u."
REPLAYED = 1_000
"""Messages read from the bus at a time."""
LOOKED_AT = 100
"""How many of a channel's newest messages are compared with what the outbox still has."""


async def recover(
    *, database: Database, bus: Bus, keysets: Keysets, overseer: Overseer, fleets: Fleets, control: Control
) -> tuple[list[OutboxMessage], list[str], Callable[[], None]]:
    """Brings the living tasks back and follows the bus from there on without a gap.

    Returns the messages that still have to leave, the ids of those that had left already, and the way to stop
    following.
    """
    arrived: list[Message] = []
    deliver = arrived.append
    unfollow = bus.follow(TASK_CHANNELS, lambda message: deliver(message))
    now = bus.now()

    def load(connection: Connection) -> tuple[list[TaskRecord], list[OutboxMessage], int | None]:
        return store.living(connection), load_outbox(connection), store.read_cursor(connection, CURSOR)

    records, outbox, cursor = await database.read(load)
    for record in records:
        keys = keysets.by_name(record.keyset)
        task = LiveTask.of(record, keys, fleets.of(record.agent_id, keys))
        overseer.restore(task)
    unsent, sent = await _unsent(bus, keysets, outbox)
    overseer.positions = max((message.position for message in outbox), default=0)
    for leaving in unsent:
        _mark_closing(overseer, leaving)
    overseer.cursor = now if cursor is None else cursor
    if cursor is not None:
        await _replay(bus, overseer)
    for message in arrived:
        if message.timetoken > overseer.cursor:
            overseer.heard(message)
    deliver = overseer.heard  # from here on without a buffer: nothing was awaited since the last look
    for task in list(overseer.living.values()):
        control.restored(task)
    if records:
        log.info("%d tasks were not ended; %d of their messages still have to leave", len(records), len(unsent))
    return unsent, sent, unfollow


async def _replay(bus: Bus, overseer: Overseer) -> None:
    while True:
        missed = await bus.replay(TASK_CHANNELS, after=overseer.cursor, limit=REPLAYED)
        for message in missed:
            overseer.heard(message)
        if len(missed) < REPLAYED:
            return


async def _unsent(bus: Bus, keysets: Keysets, outbox: list[OutboxMessage]) -> tuple[list[OutboxMessage], list[str]]:
    """Parts the outbox into what the bus does not have and the ids of what it has: nothing is published twice, and
    no terminal after another."""
    unsent, sent = [], []
    for message in outbox:
        subscribe_key = keysets.by_name(message.keyset).subscribe_key
        stored = await bus.history(subscribe_key, message.channel, limit=LOOKED_AT, newest=True)
        payloads = {bytes(found.draft.payload) for found in stored}
        payload = message.payload.encode()
        over = is_terminal_event(json.loads(payload)) and any(map(_is_terminal, payloads))
        if payload in payloads or over:
            sent.append(message.message_id)
        else:
            unsent.append(message)
    return unsent, sent


def _is_terminal(payload: bytes) -> bool:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and is_terminal_event(event)


def _mark_closing(overseer: Overseer, message: OutboxMessage) -> None:
    """A terminal in the outbox: the task is as good as ended, and is not placed again."""
    event = json.loads(message.payload)
    task = overseer.living.get(event.get("taskId", ""))
    if task is not None and is_terminal_event(event):
        task.closing = Outcome(event["state"], event.get("error"), event.get("reason"), event.get("completionReason"))
        task.fleet.waiting.pop(task.task_id, None)
