"""What can go wrong with a stream: `StreamError` is told to callbacks, the exceptions are raised by its methods."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from blocks_network.errors import AccessDeniedError, BlocksError, TransportError
from blocks_network.transport.faults import ConnectFailed, TimedOut

__all__ = ["FATAL", "StreamEndedError", "StreamError", "StreamFullError", "category_of", "status_of"]

FATAL = frozenset({"access_denied", "bad_request", "not_delivered"})
"""Categories after which a stream ends."""


@dataclass(frozen=True)
class StreamError:
    """Told to `on_error`. `error` is what the transport said, `timestamp` Unix seconds.

    Categories: access_denied, bad_request, network_down, network_issues, timeout, malformed_response, other; and of
    ours: not_delivered (the network will not take what was written), frames_lost (a gap that cannot be filled),
    writer_failed (the other side could not deliver everything), writer_gone (a consumer that wrote has ended, or
    nothing was heard of it for half a minute: the stream goes on, and so may the consumer).
    """

    category: str
    error: Any
    channel: str
    timestamp: float = field(default_factory=time.time)
    fatal: bool = False

    @classmethod
    def of_fault(cls, fault: TransportError, channel: str, *, publishing: bool = False) -> StreamError:
        category = category_of(fault)
        if publishing and category not in FATAL:
            category = "not_delivered"
        return cls(category, fault, channel, fatal=category in FATAL)


class StreamEndedError(BlocksError, RuntimeError):
    """A stream was used after its end."""


class StreamFullError(TransportError, TimeoutError):
    """The buffer of a stream stayed full for as long as the writer wanted to wait: nothing was written."""


def status_of(fault: TransportError) -> int:
    """The HTTP status behind a fault, 0 when there was no answer."""
    status = getattr(fault.__cause__, "get_status_code", lambda: 0)()
    return status if isinstance(status, int) else 0


def category_of(fault: TransportError) -> str:
    if isinstance(fault, AccessDeniedError):
        return "access_denied"
    if isinstance(fault, TimedOut):
        return "timeout"
    if isinstance(fault, ConnectFailed):
        return "network_down"
    status = status_of(fault)
    if status == 400:
        return "bad_request"
    if status:
        return "other"
    return "malformed_response" if isinstance(fault.__cause__, (KeyError, TypeError, ValueError)) else "network_issues"
