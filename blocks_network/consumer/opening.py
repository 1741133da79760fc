"""How a session begins: after a message was sent, or on a task that somebody sent before. No gap, nothing twice."""

from __future__ import annotations

import logging
from dataclasses import replace

from blocks_network.api.tasks import SentTask, TaskInfo
from blocks_network.api.tokens import ReadToken
from blocks_network.consumer.catchup import read_history
from blocks_network.consumer.following import Following, SessionFacts
from blocks_network.consumer.hub import Hub
from blocks_network.consumer.link import Link, Role
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError
from blocks_network.transport.pubnub import PubNubKeys
from blocks_network.wire.events import TERMINAL_STATES
from blocks_network.wire.timetokens import ALL_CACHED

__all__ = ["open_known", "open_sent"]

log = logging.getLogger(__name__)


def open_sent(
    link: Link,
    sent: SentTask,
    keys: PubNubKeys,
    *,
    agent_name: str,
    owner_id: str,
    auto_drain: bool | None = None,
    drain_window_s: float | None = None,
) -> TaskSession:
    """The session of a task that the network has just taken. Never raises: the task exists, and its id must be known.

    A network that gives a cursor needs no further call; else the channel's history says where to read on.
    """
    own_keyset = not sent.subscribe_key or sent.subscribe_key == keys.subscribe_key
    task_keys = keys
    if not own_keyset:
        task_keys = replace(keys, subscribe_key=sent.subscribe_key or "", publish_key=sent.publish_key)
    token, channel, fault = sent.read_token, sent.status_channel, None
    if not channel:
        token, channel, fault = _asked_channel(link, sent, token)
    facts = SessionFacts(
        task_id=sent.task_id,
        owner_id=owner_id,
        keys=task_keys,
        channel=channel,
        agent_name=agent_name,
        read_token=token,
        idempotent=sent.idempotent,
        queued=sent.queued,
        push_config_id=sent.push_config_id,
        own_keyset=own_keyset,
        artifacts_may_be_late=sent.cursor is None,
    )
    session = TaskSession(facts, link, auto_drain=auto_drain, drain_window_s=drain_window_s)
    inside = session.inside
    if fault is not None:
        inside.cut_off(fault)
    elif sent.idempotent and sent.state in TERMINAL_STATES:
        inside.conclude(sent.state or "", closed=True)
    else:
        _begin(inside, sent.cursor, link.hub if sent.session_group and own_keyset else None)
    return session


def open_known(
    link: Link,
    info: TaskInfo,
    token: ReadToken,
    keys: PubNubKeys,
    *,
    own_keyset: bool,
    role: Role,
    auto_drain: bool | None = None,
    drain_window_s: float | None = None,
) -> TaskSession:
    """The session of a task that exists. TransportError when its history cannot be read.

    A terminal in the history beats a state that lags behind it: a live session on a dead task would wait for ever.
    """
    facts = SessionFacts(
        task_id=info.task_id,
        owner_id=info.owner,
        keys=keys,
        channel=token.channel,
        agent_name=info.agent_name,
        read_token=token.token,
        role=role,
        own_keyset=own_keyset,
    )
    session = TaskSession(facts, link, auto_drain=auto_drain, drain_window_s=drain_window_s)
    inside = session.inside
    inside.note_state(info.state or None)
    cursor = _catch_up(inside)
    if cursor is None:
        return session
    if info.state in TERMINAL_STATES:
        inside.conclude(info.state, closed=False)
    else:
        inside.follow(cursor)
    return session


def _begin(inside: Following, cursor: int | None, hub: Hub | None) -> None:
    """Follows the task, by the hub where there is one; reads what happened before when the network gave no cursor."""
    if hub is not None and cursor is not None:
        try:
            inside.join(hub, cursor)
        except BlocksError as fault:
            log.warning("task %s gets a poll of its own: %s", inside.task_id, fault)
        else:
            return
    try:
        if cursor is None:
            cursor = _catch_up(inside)
            if cursor is None:
                return
    except BlocksError as fault:
        log.warning("the history of task %s cannot be read, it is followed from its start: %s", inside.task_id, fault)
        cursor = ALL_CACHED
    try:
        inside.follow(cursor)
    except BlocksError as fault:
        inside.cut_off(fault)


def _catch_up(inside: Following) -> int | None:
    """Takes the history; the cursor to read on from, or None when the task has ended in it."""
    channel = inside.facts.channel
    cursor = inside.remember(inside.reading(lambda pubnub: read_history(pubnub, channel)))
    ended = inside.terminal_state()
    if ended is None:
        return cursor
    inside.conclude(ended, closed=False)
    return None


def _asked_channel(link: Link, sent: SentTask, token: str | None) -> tuple[str | None, str, BlocksError | None]:
    """(token, channel, what prevented it) from the call that gives read tokens: it names the channel too."""
    try:
        asked = link.read_token(sent.task_id, "consumer")
    except BlocksError as fault:
        return token, "", fault
    return asked.token, asked.channel, None
