"""Publishing in the background: in order per task, retried through outages, bounded, flushed at the end."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pubnub.pubnub import PubNub

from blocks_network.backoff import Backoff
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.http import ConnectFailed
from blocks_network.transport.pubnub import call

__all__ = ["Outgoing", "Publisher", "PublisherFull"]

log = logging.getLogger(__name__)

RETRY = Backoff(first_s=0.1, factor=2, cap_s=10)
MAX_PENDING = 10_000
"""Messages kept while the network is away. Beyond that `publish` blocks its caller: memory stays bounded."""
FINAL_STATUSES = (400, 404, 413, 414)
"""Answers that say that this very message will never be taken."""


class PublisherFull(TransportError):
    """The buffer stayed full for as long as the caller wanted to wait."""


@dataclass(slots=True)
class Outgoing:
    """One message. Those of one `key` (a task's id) go out in their order, each after the one before was taken."""

    key: str
    client: PubNub
    channel: str
    message: Any
    meta: dict[str, str]
    store: bool = True
    sent: Callable[[], None] | None = None
    """Called on the publisher's thread when the network has taken it."""
    lost: Callable[[TransportError], None] | None = None
    """Called on the publisher's thread when it never will."""
    attempts: int = field(default=0, init=False)


class Publisher:
    """One thread for one owner. An outage delays; only a refusal of the message itself, or the end, loses it.

    Lost messages are logged as errors and told to their `lost` callback, never dropped in silence.
    """

    def __init__(self, whose: str, *, max_pending: int = MAX_PENDING) -> None:
        self._max_pending = max_pending
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Outgoing]] = {}
        self._ready: deque[str] = deque()
        self._delayed: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._pending = 0
        self._ending = False
        self._outage_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"blocks-publisher-{whose}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def pending(self) -> int:
        """Messages accepted and not yet taken by the network."""
        return self._pending

    def publish(self, outgoing: Outgoing, *, timeout_s: float | None = None) -> None:
        """Accepts a message; blocks while the buffer is full. PublisherFull after `timeout_s` (None: no limit)."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._pending < self._max_pending or self._ending, timeout_s):
                raise PublisherFull(f"{self._pending} messages wait for the network; it has been away too long")
            if self._ending:
                raise TransportError("the publisher has ended")
            queue = self._queues.get(outgoing.key)
            if queue is None:
                self._queues[outgoing.key] = deque((outgoing,))
                self._ready.append(outgoing.key)
                self._changed.notify_all()
            else:
                queue.append(outgoing)
            self._pending += 1

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything accepted so far is out. True when it is, within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout_s)

    def wait_for(self, key: str, timeout_s: float) -> bool:
        """Waits until nothing of this key is left to send. True when it is so, within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: key not in self._queues, timeout_s)

    def stop(self, timeout_s: float) -> int:
        """Flushes for at most `timeout_s`, ends, and returns how many messages were left behind (each reported)."""
        self.flush(timeout_s)
        with self._changed:
            self._ending = True
            left = [outgoing for queue in self._queues.values() for outgoing in queue]
            self._queues.clear()
            self._ready.clear()
            self._delayed.clear()
            self._pending = 0
            self._changed.notify_all()
        for outgoing in left:
            self._give_up(outgoing, TransportError("the instance ended before the network could be reached"))
        return len(left)

    def join(self, timeout_s: float) -> bool:
        if not self._thread.ident:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            outgoing = self._next()
            if outgoing is None:
                return
            fault = self._send(outgoing)
            self._settle(outgoing, fault)

    def _next(self) -> Outgoing | None:
        """Waits for a message whose turn it is; None at the end."""
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.append(heapq.heappop(self._delayed)[2])
                if self._ready:
                    return self._queues[self._ready.popleft()][0]
                self._changed.wait(self._delayed[0][0] - now if self._delayed else None)
            return None

    def _send(self, outgoing: Outgoing) -> TransportError | None:
        outgoing.attempts += 1
        try:
            call(
                outgoing.client.publish()
                .channel(outgoing.channel)
                .message(outgoing.message)
                .meta(outgoing.meta)
                .should_store(outgoing.store)
                .use_post(True)
            )
        except TransportError as fault:
            return fault
        except Exception as fault:  # what the library raises over a message that it cannot encode
            log.exception("a message for %s cannot be sent", outgoing.channel)
            return AccessDeniedError(f"the message cannot be sent ({fault})")
        return None

    def _settle(self, outgoing: Outgoing, fault: TransportError | None) -> None:
        final = fault is None or _is_final(fault)
        self._note_outage(fault)
        with self._changed:
            queue = self._queues.get(outgoing.key)
            if queue is None:  # ended meanwhile; `stop` has reported it
                return
            if final:
                queue.popleft()
                self._pending -= 1
                if queue:
                    self._ready.append(outgoing.key)
                else:
                    del self._queues[outgoing.key]
            else:
                due = time.monotonic() + RETRY.delay(outgoing.attempts)
                heapq.heappush(self._delayed, (due, next(self._numbers), outgoing.key))
            self._changed.notify_all()
        if fault is None:
            if outgoing.sent is not None:
                outgoing.sent()
        elif final:
            self._give_up(outgoing, fault)

    def _note_outage(self, fault: TransportError | None) -> None:
        """One line for an incident and one for its end."""
        if fault is None or _is_final(fault):
            if self._outage_since is not None:
                log.warning("publishing again after %.1f s", time.monotonic() - self._outage_since)
                self._outage_since = None
        elif self._outage_since is None:
            self._outage_since = time.monotonic()
            log.warning("publishing is delayed: %s", fault)

    def _give_up(self, outgoing: Outgoing, fault: TransportError) -> None:
        kind = outgoing.message.get("type", "message") if isinstance(outgoing.message, dict) else "message"
        log.error("lost the %s event of %s: %s", kind, outgoing.key, fault)
        if outgoing.lost is not None:
            outgoing.lost(fault)


def _is_final(fault: TransportError) -> bool:
    if isinstance(fault, ConnectFailed):
        return False
    if isinstance(fault, AccessDeniedError):
        return True
    status = getattr(fault.__cause__, "get_status_code", lambda: 0)()
    return status in FINAL_STATUSES
