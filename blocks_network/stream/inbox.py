"""What was received and not yet read: bounded toward the network, drained by iterators."""

from __future__ import annotations

import base64
import io
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blocks_network.wire.frames import binary_restored

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["MAX_WAITING", "Inbox", "InboundMessage", "StreamFile"]

MAX_WAITING = 256
"""Frames that wait for their reader. Beyond that the stream is not polled: what comes waits in the network."""


@dataclass(frozen=True)
class InboundMessage:
    """One frame. `data` is its list of chunks or events (the whole frame when the format is "raw"), `ts` Unix ms."""

    data: Any
    seq: int
    ts: int
    format: Literal["bytes", "events", "raw"]
    encoding: str = "utf8"


class Inbox:
    """Safe for threads. Several iterators share it: each item goes to one of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[InboundMessage] = deque()
        self._opened: deque[Any] = deque()
        """Items of a frame that an iterator has begun."""
        self._closed = False

    def put(self, messages: Iterable[InboundMessage]) -> None:
        """Never blocks; nothing is taken after `close`."""
        with self._changed:
            if not self._closed:
                self._waiting.extend(messages)
                self._changed.notify_all()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    def wait_room(self) -> None:
        """Blocks while too much waits for the reader."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._closed)

    def close(self) -> None:
        """No more will come. What is here is still read; then iterators end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Iterators look again whether their `until` is set."""
        with self._changed:
            self._changed.notify_all()

    def messages(self, until: threading.Event | None = None) -> Iterator[InboundMessage]:
        """Whole frames, until the end. `until` ends this iterator alone, after `wake`."""
        while (message := self._take(until)) is not None:
            yield message

    def chunks(self, until: threading.Event | None = None) -> Iterator[bytes]:
        """The chunks of a bytes stream, until the end. RuntimeError on a frame of events."""
        return self._items("bytes", until)

    def events(self, until: threading.Event | None = None) -> Iterator[Any]:
        """The events of an events stream, until the end. RuntimeError on a frame of bytes."""
        return self._items("events", until)

    def _items(self, wanted: str, until: threading.Event | None) -> Iterator[Any]:
        while True:
            with self._changed:
                while not self._opened or _is_set(until):
                    message = self._next(until)
                    if message is None:
                        return
                    if message.format == "raw":  # a later version's frame, which nobody here can read
                        continue
                    if message.format != wanted:
                        raise RuntimeError(f"this stream carries {message.format}: read it with {message.format}()")
                    self._opened.extend(_opened(message))
                item = self._opened.popleft()
            yield item

    def _take(self, until: threading.Event | None) -> InboundMessage | None:
        with self._changed:
            return self._next(until)

    def _next(self, until: threading.Event | None) -> InboundMessage | None:
        """With the lock held: waits for a frame; None at the end."""
        self._changed.wait_for(lambda: self._waiting or self._closed or _is_set(until))
        if not self._waiting or _is_set(until):
            return None
        message = self._waiting.popleft()
        if len(self._waiting) < MAX_WAITING:
            self._changed.notify_all()
        return message


def _is_set(until: threading.Event | None) -> bool:
    return until is not None and until.is_set()


def _opened(message: InboundMessage) -> Iterator[Any]:
    if message.format == "events":
        for event in message.data:
            yield binary_restored(event)
        return
    for chunk in message.data:
        if message.encoding == "base64":
            try:
                yield base64.b64decode(chunk)
            except ValueError:  # a published writer puts text between binary chunks without encoding it
                yield chunk.encode("utf-8", "surrogatepass")
        else:
            yield chunk.encode("utf-8", "surrogatepass")


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a raw file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = chunk
        view = memoryview(buffer).cast("B")
        piece, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(piece)] = piece
        return len(piece)


class StreamFile(io.BufferedReader):
    """A stream's bytes as a file. `read(n)` gives what is there, at most n bytes; b"" is the end.

    `read()` reads to the end; `readline()` returns as soon as the line is there.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__(_Chunks(chunks))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read()
        return self.read1(size)
