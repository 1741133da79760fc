"""What happened before we listened: a channel's history, oldest first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks_network.backoff import Backoff
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.pubnub import call

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["Past", "read_history"]

PAGE = 100
TRIES = 6
RETRY = Backoff(first_s=0.1, factor=3, cap_s=2)
"""An answer that got lost: reading a page again costs nothing, and without it a task would seem to have no events."""


@dataclass(frozen=True, slots=True)
class Past:
    """One message of a channel's history."""

    timetoken: int
    payload: Any


def read_history(client: PubNub, channel: str) -> list[Past]:
    """All messages that the network keeps of the channel. TransportError when they cannot be read.

    Pages come newest first; each next one ends before the oldest message of the one before.
    """
    found: list[Past] = []
    before: int | None = None
    while True:
        page = _page_patiently(client, channel, before)
        found += page
        if len(page) < PAGE:
            break
        oldest = min(message.timetoken for message in page)
        if before is not None and oldest >= before:
            break  # a network that does not go back would be asked for ever
        before = oldest
    return sorted(found, key=lambda message: message.timetoken)


def _page_patiently(client: PubNub, channel: str, before: int | None) -> list[Past]:
    for pause_s in RETRY.delays(TRIES):
        try:
            return _page(client, channel, before)
        except AccessDeniedError:
            raise
        except TransportError:
            time.sleep(pause_s)
    return _page(client, channel, before)


def _page(client: PubNub, channel: str, before: int | None) -> list[Past]:
    endpoint = client.fetch_messages().channels([channel]).maximum_per_channel(PAGE)
    if before is not None:
        endpoint = endpoint.start(before)
    channels: Mapping[str, Any] = call(endpoint).channels
    try:
        return [Past(int(item.timetoken), item.message) for item in channels.get(channel) or ()]
    except (TypeError, ValueError) as fault:
        raise TransportError(f"the history of {channel} holds a message without timetoken") from fault
