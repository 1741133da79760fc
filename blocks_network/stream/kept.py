"""What a network with `durable-streams` has kept of a stream, for readers that come when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blocks_network.errors import TransportError
from blocks_network.transport.pubnub import call
from blocks_network.wire.timetokens import ALL_KEPT

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["FEATURE", "Kept", "Replay", "find_kept"]

FEATURE = "durable-streams"
SHARED_FRAMES = 100
"""Of a stream that has no beginning of a task's own: as many as a live reader that comes late would get."""


class Replay(NamedTuple):
    """How a stream that is over is read."""

    has_end: bool
    """Its writer has told its end: where that is missing, so is more."""
    without: str | None = None
    """Frames of writers whose names begin so are passed over: the reader's own side of a conversation."""


class Kept(NamedTuple):
    """A cursor to read from, and the timetoken of the last frame."""

    cursor: int
    last: int


def find_kept(client: PubNub, channel: str, *, shared: bool) -> Kept | None:
    """None when nothing was kept. AccessDeniedError or TransportError; blocks for one request."""
    most = SHARED_FRAMES if shared else 1
    channels = call(client.fetch_messages().channels([channel]).maximum_per_channel(most)).channels
    try:
        times = sorted(int(item.timetoken) for item in channels.get(channel) or ())
    except (AttributeError, TypeError, ValueError) as fault:
        raise TransportError(f"what was kept of {channel} holds a frame without timetoken") from fault
    if not times:
        return None
    return Kept(times[0] - 1 if shared else ALL_KEPT, times[-1])
