"""The writing side of a stream: what is written while a frame is under way is gathered into the next one."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks_network import settings
from blocks_network.errors import TransportError
from blocks_network.stream.alive import PROMISE
from blocks_network.stream.errors import StreamEndedError, StreamFullError
from blocks_network.stream.sender import Sender
from blocks_network.transport.encoded import publish_text
from blocks_network.wire.frames import (
    ENVELOPE_RESERVE_BYTES,
    FIRST_SEQ,
    Encoding,
    StreamFormat,
    alive_text,
    chunk_text,
    data_text,
    end_text,
    event_text,
    events_text,
    frame_meta,
    part_texts,
)

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["MAX_WRITE_BYTES", "StreamBundleConfig", "StreamWriter"]

log = logging.getLogger(__name__)

MAX_WRITE_BYTES = 8 * 1024 * 1024
"""Of one write, as encoded. A reader keeps no more of one frame in memory."""
BUFFER_BYTES = 1024 * 1024
"""Accepted and not yet sent. Beyond that writers wait; one write is always accepted into an empty buffer."""


@dataclass(frozen=True)
class StreamBundleConfig:
    """Sizes in bytes. `max_latency_ms` has no effect: an idle stream sends at once. `uuid` names the writer."""

    max_message_size: int = 16_384
    bundle_size_bytes: int = 4096
    max_latency_ms: int = 250
    uuid: str = ""

    @classmethod
    def resolved(
        cls, max_message_size: int | None, bundle_size_bytes: int | None, max_latency_ms: int | None, uuid: str
    ) -> StreamBundleConfig:
        """What is None comes from the environment. ValueError when a message would have no room for data."""
        size = settings.STREAM_MAX_MESSAGE_SIZE.read() if max_message_size is None else max_message_size
        if size <= ENVELOPE_RESERVE_BYTES:
            raise ValueError(f"max_message_size must be above {ENVELOPE_RESERVE_BYTES} bytes, not {size}")
        bundle = settings.STREAM_BUNDLE_SIZE.read() if bundle_size_bytes is None else bundle_size_bytes
        latency = settings.STREAM_MAX_LATENCY_MS.read() if max_latency_ms is None else max_latency_ms
        return cls(size, max(1, bundle), latency, uuid)


@dataclass(frozen=True, slots=True)
class _Write:
    """One write, encoded."""

    text: str
    size: int
    encoding: Encoding


class StreamWriter:
    """Safe for threads. `lost(fault)` is called once, on the sender's thread, when the stream had to be given up.

    `durable`: frames are kept by the network, for readers that come later. `marker`: whether the end is told to readers
    (dedicated one-way streams only). `renew()` gets a new token when the network refuses the old one, None when there
    is none.
    """

    def __init__(
        self,
        client: PubNub,
        sender: Sender,
        *,
        channel: str,
        stream_id: str,
        format: StreamFormat,  # noqa: A002 - the protocol's word
        config: StreamBundleConfig,
        marker: bool,
        durable: bool = False,
        lost: Callable[[TransportError], None],
        renew: Callable[[], str | None] | None = None,
    ) -> None:
        self._client, self._sender, self._channel, self._stream_id = client, sender, channel, stream_id
        self._format, self._config, self._marker = format, config, marker
        self._durable = durable
        self._lost, self._renew = lost, renew
        self._meta = frame_meta(config.uuid)
        self._changed = threading.Condition()
        self._writes: deque[_Write] = deque()
        self._size = 0
        self._seq = FIRST_SEQ[format]
        self._parts: deque[str] = deque()
        self._under_way = 0
        """Bytes of the writes whose frame is being sent."""
        self._offered = False
        self._renewed = False
        self._ended = False
        self._ending = False
        """The end marker is under way, or out."""
        self._greets = self._greeted = self._greeting = False
        """It is to say that it is there; it has done so without anything to send; that is under way."""
        self._let_go = False
        """Nobody has to wait any more for what is under way."""
        self._fault: TransportError | None = None
        self._error: str | None = None

    def write(self, data: Any, *, timeout_s: float | None = None, until: threading.Event | None = None) -> None:
        """Accepts one chunk or event, as it is now; blocks while the buffer is full.

        StreamEndedError (a RuntimeError) after the end, and when it would have to wait although `until` is set (`wake`
        makes a waiting one look); StreamFullError when the buffer is still full after `timeout_s`; TypeError for data
        of the wrong type; ValueError for more than MAX_WRITE_BYTES.
        """
        write = self._encoded(data)
        with self._changed:

            def settled() -> bool:
                return self._takes(write.size) or self._ended or (until is not None and until.is_set())

            if not self._changed.wait_for(settled, timeout_s):
                raise StreamFullError(f"stream {self._stream_id}: {self._size} bytes wait for the network")
            if self._ended:
                raise self._refusal()
            if not self._takes(write.size):
                raise StreamEndedError(
                    f"stream {self._stream_id}: the task is to end, and {self._size} bytes wait for the network"
                )
            self._writes.append(write)
            self._size += write.size
            offered, self._offered = self._offered, True
        if not offered:
            self._offer()

    def close(self, error: str | None = None) -> None:
        """Refuses further writes and sends what was accepted, then the marker, which says `error` if there is one.

        Idempotent; `wait_sent` waits.
        """
        with self._changed:
            if self._ended:
                return
            self._ended, self._error = True, error
            self._changed.notify_all()
            self._greets = self._greeted and not self._marker  # with a marker, that is the farewell
            needed = (self._marker or self._greets) and not self._offered
            self._offered |= needed
        if needed:
            self._offer()

    def promise(self) -> None:
        """From now on every frame says that `say_alive` will be called for as long as the writer is there."""
        self._meta = {**self._meta, PROMISE: "1"}

    def say_alive(self) -> None:
        """Tells readers that the writer is there, unless what is being sent says so already. Never blocks."""
        with self._changed:
            if self._ended or self._offered:
                return
            self._offered = self._greets = True
        try:
            self._sender.offer(self)
        except TransportError:  # the owner has ended, and with it the stream
            with self._changed:
                self._offered = self._greets = False

    def wait_sent(self, timeout_s: float) -> bool:
        """True when everything accepted was sent or given up, within `timeout_s`. At once on the sender's thread."""
        if self._sender.is_lane():
            return False
        with self._changed:
            return self._changed.wait_for(lambda: not self._offered or self._let_go, timeout_s) and not self._offered

    def wake(self) -> None:
        """Writes that wait look again whether their `until` is set."""
        with self._changed:
            self._changed.notify_all()

    # --- what the sender calls, on its thread ---

    def send_next(self) -> bool:
        text = self._next_message()
        publish_text(self._client, self._channel, text, self._meta, store=self._durable and not self._greeting)
        self._renewed = False
        with self._changed:
            self._parts.popleft()
            self._greeting = False
            if not self._parts:
                self._size -= self._under_way
                self._under_way = 0
            return self._goes_on()

    def denied(self, fault: TransportError) -> bool:
        if self._renew is None or self._renewed:
            return False
        self._renewed = True  # a token that is refused as soon as it comes is no way out
        token = self._renew()
        if token is None:
            return False
        self._client.set_token(token)
        return True

    def failed(self, fault: TransportError) -> bool:
        """All that was not sent is lost, and the stream ends. A marker that shows the gap is the last thing tried."""
        with self._changed:
            if self._greeting:  # no loss: readers will believe that nobody is there, and that is how it looks
                self._greeting = False
                self._parts.clear()
                return self._goes_on()
            if self._ending:
                log.info("the end of stream %s could not be told: %s", self._stream_id, fault)
                self._parts.clear()
                return self._goes_on()
            self._fault, self._ended = fault, True
            lost_seq = self._seq - 1 if self._parts else self._seq
            self._parts.clear()
            self._writes.clear()
            self._size = self._under_way = 0
            if self._marker:
                self._ending = True
                self._parts.append(end_text(self._stream_id, lost_seq + 1, _now_ms(), error=str(fault)[:500]))
            goes_on = self._goes_on()
        log.error("stream %s is given up: %s", self._stream_id, fault)
        self._lost(fault)
        return goes_on

    def let_go(self) -> None:
        with self._changed:
            self._let_go = True
            self._changed.notify_all()

    def _goes_on(self) -> bool:
        """With the lock held: whether there is more to send; wakes who waits for room or for the end."""
        more = bool(self._parts or self._writes) or self._owes_marker() or self._greets
        self._offered = more
        self._changed.notify_all()
        return more

    def _owes_marker(self) -> bool:
        return self._marker and self._ended and not self._ending

    def _next_message(self) -> str:
        """What is to be sent now; it stays the first of `_parts` until it was."""
        with self._changed:
            if self._parts:
                return self._parts[0]
            if not self._writes and not self._owes_marker():
                self._greets, self._greeted, self._greeting = False, True, True
                self._parts.append(alive_text(self._stream_id, _now_ms(), gone=self._ended))
                return self._parts[0]
            self._greets = False  # any frame says it
            if not self._writes:
                self._ending = True
                self._parts.append(end_text(self._stream_id, self._seq, _now_ms(), error=self._error))
                return self._parts[0]
            writes = self._gathered()
            self._under_way = sum(write.size for write in writes)
            seq, self._seq = self._seq, self._seq + 1
        texts, now = [write.text for write in writes], _now_ms()
        if self._format == "bytes":
            kind, frame = "stream_data", data_text(self._stream_id, seq, now, writes[0].encoding, texts)
        else:
            kind, frame = "stream_events", events_text(self._stream_id, seq, now, texts)
        parts = part_texts(frame, kind, self._stream_id, seq, now, self._config.max_message_size)
        with self._changed:
            self._parts.extend(parts)
            return self._parts[0]

    def _gathered(self) -> list[_Write]:
        """With the lock held: the writes of the next frame, of one encoding, up to the bundle's size, whole at best."""
        first = self._writes.popleft()
        gathered, size = [first], first.size
        room = self._config.max_message_size - ENVELOPE_RESERVE_BYTES
        length = len(first.text)
        while self._writes and size < self._config.bundle_size_bytes:
            following = self._writes[0]
            length += len(following.text) + 1
            if following.encoding != first.encoding or length > room:
                break
            gathered.append(self._writes.popleft())
            size += following.size
        return gathered

    def _encoded(self, data: Any) -> _Write:
        if self._format == "bytes":
            text, encoding, size = chunk_text(data)
        else:
            (text, size), encoding = event_text(data), "utf8"
        if size > MAX_WRITE_BYTES:
            raise ValueError(f"one write of {size} bytes is more than {MAX_WRITE_BYTES}; write it in pieces")
        return _Write(text, size, encoding)

    def _takes(self, size: int) -> bool:
        return self._size == 0 or self._size + size <= BUFFER_BYTES

    def _refusal(self) -> StreamEndedError:
        if self._fault is None:
            return StreamEndedError(f"stream {self._stream_id} has ended")
        return StreamEndedError(f"stream {self._stream_id} was given up: {self._fault}")

    def _offer(self) -> None:
        try:
            self._sender.offer(self)
        except TransportError as fault:
            while self.failed(fault):  # the second time it is the marker that cannot be sent
                continue


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
