"""Readers: clients that follow all the tasks they sent through one channel group, in place of one poll a task.

A client makes up a name and sends it with each task; the group's name is that one, bound to who the client is. The bus
delivers each message of such a task under the group's name as well, from memory alone: a reader that was away for
longer, or over a restart of the network, asks the task's own channel for what it missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.principal import Principal
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.bus import Draft
from blocks_network.server.tasks.dispatch import ReadGrant
from blocks_network.server.tasks.live import LiveTask
from blocks_network.wire.channels import sessions_group

__all__ = ["READER_MINUTES", "group_of", "grant_reader", "readers_alias", "stored_name"]

READER_MINUTES = 60


def stored_name(principal: Principal, reader: str) -> str:
    """What a task keeps: nobody but this user can be given a token for it."""
    return hashlib.sha256(f"{principal.user_id}\0{reader}".encode()).hexdigest()[:32]


def group_of(org_id: str, name: str) -> str:
    return sessions_group(org_id, name)


def grant_reader(tokens: CapabilityTokens, keyset: Keyset, principal: Principal, reader: str) -> ReadGrant:
    """Permission to read the caller's group; `channel` is the group's name."""
    group = group_of(principal.org_id, stored_name(principal, reader))
    token = tokens.mint(keyset, ttl_minutes=READER_MINUTES, groups={group: Bits.READ})
    return ReadGrant(token, group, READER_MINUTES)


def readers_alias(task_of: Callable[[Draft], LiveTask | None]) -> Callable[[Draft], str | None]:
    """For `Bus.alias` on the tasks' channels."""

    def also(draft: Draft) -> str | None:
        task = task_of(draft)
        return None if task is None else task.readers_group

    return also
