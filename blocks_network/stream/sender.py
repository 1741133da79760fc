"""Sends the frames of all streams of one owner in the background: in order for each stream, retried, never mixed."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from typing import Protocol

from blocks_network.backoff import Backoff
from blocks_network.errors import TransportError
from blocks_network.stream.errors import category_of, status_of

__all__ = ["GIVE_UP_S", "LANES", "Sender", "Source"]

log = logging.getLogger(__name__)

RETRY = Backoff(first_s=0.1, factor=2, cap_s=5)
GIVE_UP_S = 300.0
"""How long the network may be away before a frame counts as lost: live data is worthless after minutes."""
LANES = 4
"""Threads at most. The second one starts when a stream is ready while the first waits for the network's answer."""
HANDOVER_S = 0.01
"""What the first write after a pause waits at the most for its message to be out."""
PAUSE_S = 0.02
FINAL_STATUSES = frozenset({400, 403, 404, 413, 414})


class Source(Protocol):
    """A stream's writing side. Methods are called on a lane's thread, one at a time for each source."""

    def send_next(self) -> bool:
        """Sends one message over the network. True when more is ready. Raises TransportError."""

    def denied(self, fault: TransportError) -> bool:
        """The network refused the token. True: a new one is set, try again."""

    def failed(self, fault: TransportError) -> bool:
        """What was being sent is lost. True when the source still has something to send."""

    def let_go(self) -> None:
        """The sender ends while a lane has this source: nobody is to wait for what is under way. From any thread."""


class Sender:
    """Starts its threads when there is work; `stop` ends them. A source is with one lane at a time, or waits here."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._changed = threading.Condition()
        self._ready: deque[Source] = deque()
        self._delayed: list[tuple[float, int, Source]] = []
        self._attempts: dict[Source, tuple[int, float]] = {}
        self._sending: set[Source] = set()
        """With a lane now."""
        self._numbers = itertools.count()
        self._lanes: list[threading.Thread] = []
        self._idle = 0
        self._sent_one = threading.Event()
        self._offered_at = 0.0
        self._finishing = False
        self._ending = False

    def offer(self, source: Source) -> None:
        """The source has something to send. It offers itself again only after `send_next` said that it is empty."""
        with self._changed:
            if self._finishing or self._ending:
                raise TransportError("the owner of this stream has ended")
            self._ready.append(source)
            rested = time.monotonic() - self._offered_at > PAUSE_S
            self._offered_at = time.monotonic()
            self._sent_one.clear()
            lane = None
            if self._idle < len(self._ready) and len(self._lanes) < LANES:
                lane = self._new_lane()
            self._changed.notify()
        if lane is not None:
            lane.start()
        # A writer in a tight loop gives the interpreter's lock up every 5 ms only, and a lane needs it several times
        # before its request is out: without this, a first chunk would wait for all that.
        if rested:
            self._sent_one.wait(HANDOVER_S)

    def _new_lane(self) -> threading.Thread:
        """Must hold the lock."""
        lane = threading.Thread(
            target=self._run, name=f"blocks-stream-sender-{len(self._lanes) + 1}-{self._whose}", daemon=True
        )
        self._lanes.append(lane)
        return lane

    def is_lane(self) -> bool:
        """True on a thread of this sender: such a thread must not wait for what it has to send itself."""
        return threading.current_thread() in self._lanes

    def finish(self) -> None:
        """Ends as soon as nothing is left to send."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def stop(self) -> None:
        """What is not sent by now is lost, and its sources hear of it. Ask writers to end first."""
        with self._changed:
            self._ending = True
            left = [*self._ready, *(source for _, _, source in self._delayed)]
            self._ready.clear()
            self._delayed.clear()
            self._attempts.clear()
            sending = list(self._sending)
            self._changed.notify_all()
        for source in left:
            _abandon(source)
        for source in sending:  # a lane may be inside a request for as long as its timeouts
            source.let_go()

    def join(self, timeout_s: float) -> bool:
        """True when all threads have ended within `timeout_s`; the calling thread is not waited for."""
        deadline = time.monotonic() + timeout_s
        others = [lane for lane in self._lanes if lane is not threading.current_thread()]
        for lane in others:
            lane.join(max(0.0, deadline - time.monotonic()))
        return not any(lane.is_alive() for lane in others)

    def _run(self) -> None:
        while (source := self._next()) is not None:
            try:
                more = source.send_next()
                self._sent_one.set()
            except TransportError as fault:
                self._after(source, fault)
            except Exception as fault:  # a message that the library cannot send
                log.exception("a stream's frame cannot be sent")
                self._lose(source, TransportError(f"the frame cannot be sent ({fault})"))
            else:
                self._sent(source, more)

    def _next(self) -> Source | None:
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.append(heapq.heappop(self._delayed)[2])
                if self._ready:
                    source = self._ready.popleft()
                    self._sending.add(source)
                    return source
                if self._finishing and not self._delayed:
                    return None  # what another lane is sending comes back to that lane
                self._idle += 1
                self._changed.wait(self._delayed[0][0] - now if self._delayed else None)
                self._idle -= 1
            return None

    def _sent(self, source: Source, more: bool) -> None:
        with self._changed:
            self._sending.discard(source)
            attempts = self._attempts.pop(source, None)
            if more and not self._ending:
                self._ready.append(source)  # behind the others: no stream starves another
                self._changed.notify()
                more = False
        if attempts is not None:
            log.warning("a stream is sent again after %.1f s", time.monotonic() - attempts[1])
        if more:
            _abandon(source)

    def _after(self, source: Source, fault: TransportError) -> None:
        """Once more later, or never."""
        category = category_of(fault)
        if category == "access_denied":
            if source.denied(fault):
                self._sent(source, True)
            else:
                self._lose(source, fault)
            return
        if status_of(fault) in FINAL_STATUSES:
            self._lose(source, fault)
            return
        now = time.monotonic()
        with self._changed:
            self._sending.discard(source)
            count, since = self._attempts.get(source, (0, now))
            self._attempts[source] = (count + 1, since)
            given_up = now - since > GIVE_UP_S or self._ending
            if not given_up:
                due = now + RETRY.delay(count + 1)
                heapq.heappush(self._delayed, (due, next(self._numbers), source))
                self._changed.notify()
        if given_up:
            self._lose(source, fault)
        elif count == 0:
            log.warning("a stream is delayed: %s", fault)

    def _lose(self, source: Source, fault: TransportError) -> None:
        with self._changed:
            self._sending.discard(source)
            self._attempts.pop(source, None)
        if source.failed(fault):
            self._sent(source, True)


def _abandon(source: Source) -> None:
    fault = TransportError("the owner of this stream ended before the network could be reached")
    while source.failed(fault):  # a source may have a last word to send, which is lost as well
        continue
