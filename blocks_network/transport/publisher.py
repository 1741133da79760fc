"""Publishing in the background: in order per task, retried through outages, bounded, flushed at the end.

The first message leaves at once; what gathers while a request is under way leaves together with the next one.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from itertools import islice

from blocks_network.backoff import Backoff
from blocks_network.errors import TransportError
from blocks_network.transport.sending import Outgoing, Sender, SingleSender, Skipped, is_final

__all__ = ["Outgoing", "Publisher", "PublisherFull"]

log = logging.getLogger(__name__)

RETRY = Backoff(first_s=0.1, factor=2, cap_s=10)
MAX_PENDING = 10_000
"""Messages kept while the network is away. Beyond that `publish` blocks its caller: memory stays bounded."""


class PublisherFull(TransportError):
    """The buffer stayed full for as long as the caller wanted to wait."""


class Publisher:
    """One thread for one owner. An outage delays; only a refusal of the message itself, or the end, loses it.

    Lost messages are logged as errors and told to their `lost` callback, never dropped in silence.
    """

    def __init__(self, whose: str, *, sender: Sender | None = None, max_pending: int = MAX_PENDING) -> None:
        self._sender: Sender = sender or SingleSender()
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
            batch = self._next()
            if not batch:
                return
            for outgoing in batch:
                outgoing.attempts += 1
            self._settle(batch, self._sender.send(batch))

    def _next(self) -> list[Outgoing]:
        """Waits for messages whose turn it is, and takes as many as go out together; empty at the end."""
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.append(heapq.heappop(self._delayed)[2])
                if self._ready:
                    return self._gather()
                self._changed.wait(self._delayed[0][0] - now if self._delayed else None)
            return []

    def _gather(self) -> list[Outgoing]:
        """Must hold the lock. A key that is taken from is not ready again until its messages are settled."""
        batch: list[Outgoing] = []
        others: list[str] = []
        while self._ready and len(batch) < self._sender.most:
            key = self._ready.popleft()
            queue = self._queues[key]
            if batch and not self._sender.together(batch[0], queue[0]):
                others.append(key)
                continue
            batch += islice(queue, self._sender.most - len(batch))
        self._ready.extendleft(reversed(others))
        return batch

    def _settle(self, batch: list[Outgoing], faults: list[TransportError | None]) -> None:
        taken: list[tuple[Outgoing, TransportError | None]] = []
        outcomes: dict[str, list[tuple[Outgoing, TransportError | None]]] = {}
        for outgoing, fault in zip(batch, faults, strict=True):
            outcomes.setdefault(outgoing.key, []).append((outgoing, fault))
        self._note_outage(next((fault for fault in faults if fault is not None and not is_final(fault)), None))
        with self._changed:
            for key, results in outcomes.items():
                queue = self._queues.get(key)
                if queue is not None:  # else ended meanwhile; `stop` has reported its messages
                    taken += self._advance(key, queue, results)
            self._changed.notify_all()
        for outgoing, fault in taken:
            if fault is not None:
                self._give_up(outgoing, fault)
            elif outgoing.sent is not None:
                outgoing.sent()

    def _advance(
        self, key: str, queue: deque[Outgoing], results: list[tuple[Outgoing, TransportError | None]]
    ) -> list[tuple[Outgoing, TransportError | None]]:
        """Must hold the lock. Takes out what is settled for good; the first that is not holds up those behind it."""
        taken: list[tuple[Outgoing, TransportError | None]] = []
        for outgoing, fault in results:
            if fault is not None and not is_final(fault):
                if isinstance(fault, Skipped):
                    self._ready.append(key)
                else:
                    due = time.monotonic() + RETRY.delay(outgoing.attempts)
                    heapq.heappush(self._delayed, (due, next(self._numbers), key))
                return taken
            queue.popleft()
            self._pending -= 1
            taken.append((outgoing, fault))
        if queue:
            self._ready.append(key)
        else:
            del self._queues[key]
        return taken

    def _note_outage(self, fault: TransportError | None) -> None:
        """One line for an incident and one for its end. None: nothing stands against the network."""
        if fault is None or isinstance(fault, Skipped):
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
