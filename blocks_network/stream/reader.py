"""The reading side of a stream: from the network's poll to the inbox, in each writer's order."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.stream.alive import PROMISE, WriterWatch
from blocks_network.stream.errors import StreamError
from blocks_network.stream.inbox import InboundMessage, Inbox
from blocks_network.stream.kept import Replay, find_kept
from blocks_network.stream.multipart import PartCollector
from blocks_network.stream.reorder import Gap, Reorder, Sequenced
from blocks_network.stream.threads import StreamThreads
from blocks_network.transport.subscription import Received, Subscription
from blocks_network.wire.frames import (
    FIRST_SEQ,
    AliveFrame,
    EndFrame,
    PartFrame,
    RawFrame,
    StreamFormat,
    read_frame,
)
from blocks_network.wire.timetokens import ALL_CACHED, ALL_KEPT

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["REORDER_TIMEOUT_MS", "StreamReader"]

log = logging.getLogger(__name__)

REORDER_TIMEOUT_MS = 750.0


class StreamReader:
    """A subscription's listener. Starts at the oldest frame that the network still has: of a `durable` stream the
    first, of a shared one the newest hundred. With `replay` it reads what was kept of a stream that is over, and ends.

    `failed(error)` hears of faults and gaps, `finished()` is called once at the writer's end; both on the reader's
    threads, outside its lock. `renew()` gets a new token when the network refuses the old one, None when there is none.
    """

    def __init__(
        self,
        client: PubNub,
        threads: StreamThreads,
        *,
        channel: str,
        stream_id: str,
        format: StreamFormat,  # noqa: A002 - the protocol's word
        shared: bool,
        own_uuid: str | None,
        reorder_timeout_ms: float | None,
        failed: Callable[[StreamError], None],
        finished: Callable[[], None],
        renew: Callable[[], str | None] | None = None,
        durable: bool = False,
        replay: Replay | None = None,
    ) -> None:
        self._client, self._shared, self._replay = client, shared, replay
        self._last: int | None = None
        """In a replay, the timetoken of the last frame."""
        self._read_to = 0
        self.inbox = Inbox()
        self._channel, self._stream_id, self._own_uuid = channel, stream_id, own_uuid
        self._threads, self._failed, self._finished, self._renew = threads, failed, finished, renew
        timeout_ms = REORDER_TIMEOUT_MS if reorder_timeout_ms is None else reorder_timeout_ms
        self._reorder = Reorder(FIRST_SEQ[format], timeout_s=timeout_ms / 1000, shared=shared)
        self._parts = PartCollector()
        self._watch = WriterWatch(threads.after, gone=self._writer_gone, deaf=self._hears_nothing)
        self._cut_off = False
        self._lock = threading.Lock()
        self._due_s: float | None = None
        self._withdraw: Callable[[], None] | None = None
        self._told_done = False
        self._renewed = False
        self._subscription = Subscription(
            client,
            [channel],
            self,
            name=f"stream-{stream_id}",
            cursor=ALL_KEPT if durable and not shared else ALL_CACHED,
            filter_expression=None if own_uuid is None else f"meta.sender != '{own_uuid}'",
            idle=None if replay is None else self._silence,
        )

    def start(self) -> None:
        """A replay asks first what there is: that blocks for a request. AccessDeniedError or TransportError."""
        if self._replay is not None and not self._find_kept():
            self._finish_replay()
            return
        self._subscription.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """True when the network has answered a poll."""
        return self._subscription.wait_ready(timeout_s)

    def close(self) -> None:
        """Ask it to end: nothing more is received, what was is still read. `join` waits."""
        self._subscription.stop()
        self.inbox.close()
        self._watch.stop()
        with self._lock:
            withdraw, self._withdraw, self._due_s = self._withdraw, None, None
        if withdraw is not None:
            withdraw()

    def join(self, timeout_s: float) -> bool:
        return self._subscription.join(timeout_s)

    # --- what the subscription calls, on its thread ---

    def received(self, message: Received) -> None:
        sender = _sender_of(message)
        if message.channel != self._channel or sender == self._own_uuid:
            return
        if self._replay is None or self._replay.without is None or not sender.startswith(self._replay.without):
            if self._replay is None and isinstance(message.meta, Mapping) and PROMISE in message.meta:
                self._watch.heard(sender)
            self._digest(sender, message.payload)
        self._read_to = message.timetoken
        if self._last is not None and message.timetoken >= self._last:
            self._finish_replay()
        self.inbox.wait_room()

    def connected(self) -> None:
        self._renewed = self._cut_off = False

    def disconnected(self, fault: TransportError) -> None:
        self._cut_off = True
        self._failed(StreamError.of_fault(fault, self._channel))

    def denied(self, fault: AccessDeniedError) -> bool:
        if self._renew is not None and not self._renewed:
            self._renewed = True  # a token that is refused as soon as it comes is no way out
            token = self._renew()
            if token is not None:
                self._subscription.set_token(token)
                return True
        self._failed(StreamError.of_fault(fault, self._channel))
        return False

    def _find_kept(self) -> bool:
        try:
            kept = find_kept(self._client, self._channel, shared=self._shared)
        except AccessDeniedError:
            token = None if self._renew is None else self._renew()
            if token is None:
                raise
            self._subscription.set_token(token)
            kept = find_kept(self._client, self._channel, shared=self._shared)
        if kept is None:
            return False
        if self._last is None:
            self._subscription.seek(kept.cursor)
        self._last = kept.last
        return True

    def _silence(self) -> None:
        """In a replay nothing comes any more: the frames up to the last one may have been deleted meanwhile."""
        try:
            more = self._find_kept() and self._last is not None and self._last > self._read_to
        except TransportError as fault:
            log.info("what is kept of stream %s cannot be asked for: %s", self._stream_id, fault)
            return
        if not more:
            self._finish_replay()

    def _finish_replay(self) -> None:
        """Everything that was kept is here. What is missing will not come; a dedicated writer has told its end."""
        with self._lock:
            ready: list[Sequenced | Gap] = []
            while self._reorder.next_deadline_s() is not None:
                ready += self._reorder.expire(math.inf)
            tell = self._hand_on(ready)
            if not self._reorder.done and self._replay is not None and self._replay.has_end:
                text = f"the end of stream {self._stream_id} was not kept"
                tell.append(StreamError("frames_lost", text, self._channel))
            self._reorder.done = True
        self._tell(tell)

    def _digest(self, sender: str, wire: object) -> None:
        if isinstance(wire, Mapping) and wire.get("streamId", self._stream_id) != self._stream_id:
            log.debug("a frame of another stream on %s was passed over", self._channel)
            return
        with self._lock:
            frame = read_frame(wire)
            if isinstance(frame, PartFrame):
                frame = read_frame(self._parts.add(sender, frame, time.monotonic()))
        if isinstance(frame, AliveFrame):
            if frame.gone:
                self._watch.left(sender)
            return
        if frame is None or isinstance(frame, PartFrame):
            return
        if isinstance(frame, EndFrame):
            self._watch.ended(sender)
        with self._lock:
            if isinstance(frame, EndFrame) and frame.seq is None:
                log.warning("the end of stream %s has no sequence number", self._stream_id)
            ready = self._reorder.add(sender, frame, time.monotonic())
            tell = self._hand_on(ready)
        self._tell(tell)

    def _expire(self) -> None:
        """On the timers' thread."""
        with self._lock:
            self._withdraw = self._due_s = None
            tell = self._hand_on(self._reorder.expire(time.monotonic()))
        self._tell(tell)

    def _hand_on(self, ready: list[Sequenced | Gap]) -> list[StreamError]:
        """With the lock held, so that two threads keep one order. Returns what has to be told without it."""
        self.inbox.put(_inbound(item) for item in ready if not isinstance(item, Gap))
        tell = [self._gap_error(item) for item in ready if isinstance(item, Gap)]
        if self._reorder.done and self._reorder.error is not None:
            tell.append(StreamError("writer_failed", self._reorder.error, self._channel))
            self._reorder.error = None
        due_s = self._reorder.next_deadline_s()
        if due_s != self._due_s:
            if self._withdraw is not None:
                self._withdraw()
            self._due_s = due_s
            delay_s = 0.0 if due_s is None else due_s - time.monotonic()
            self._withdraw = None if due_s is None else self._threads.after(delay_s, self._expire)
        return tell

    def _hears_nothing(self) -> bool:
        return self._cut_off or self.inbox.full

    def _writer_gone(self, sender: str) -> None:
        log.info("writer %s of stream %s is gone", sender, self._stream_id)
        self._failed(StreamError("writer_gone", f"writer {sender} of stream {self._stream_id} is gone", self._channel))

    def _gap_error(self, gap: Gap) -> StreamError:
        text = f"frames {gap.first} to {gap.last} of stream {self._stream_id} did not come"
        log.warning("%s", text)
        return StreamError("frames_lost", text, self._channel)

    def _tell(self, errors: list[StreamError]) -> None:
        for error in errors:
            self._failed(error)
        with self._lock:
            ends = self._reorder.done and not self._told_done
            self._told_done |= ends
        if ends:
            self._subscription.stop()
            self.inbox.close()
            self._finished()


def _sender_of(message: Received) -> str:
    """The writer's uuid: what it says in the meta, else the publisher that the network saw."""
    sender = message.meta.get("sender") if isinstance(message.meta, Mapping) else None
    return sender if isinstance(sender, str) and sender else message.publisher


def _inbound(frame: Sequenced) -> InboundMessage:
    if isinstance(frame, RawFrame):
        return InboundMessage(frame.wire, frame.seq, frame.ts_ms, "raw")
    return InboundMessage(frame.items, frame.seq, frame.ts_ms, frame.format, frame.encoding)
