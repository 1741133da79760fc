"""Streams on an event loop: a reader's thread hands on what comes, a few at a time, and waits while nobody takes it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from blocks_network.consumer.aio.bridge import Bridge
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.refs import StreamRef

if TYPE_CHECKING:
    from blocks_network.stream.client import StreamClient
    from blocks_network.stream.inbox import InboundMessage

__all__ = ["AsyncStream", "AsyncStreamRef"]

AHEAD = 256
"""What may wait between a stream's reader and a loop that is busy."""


class AsyncStreamRef:
    """A stream that was announced. `ref` is the one below."""

    def __init__(self, ref: StreamRef, bridge: Bridge) -> None:
        self.ref, self._bridge = ref, bridge

    @property
    def descriptor(self) -> StreamDescriptor:
        return self.ref.descriptor

    @property
    def is_open(self) -> bool:
        return self.ref.is_open

    async def open(self, *, reorder_timeout_ms: float | None = None) -> AsyncStream:
        """As StreamRef.open."""
        client = await self._bridge.call(self.ref.open, reorder_timeout_ms=reorder_timeout_ms)
        return AsyncStream(client, self._bridge)

    def __repr__(self) -> str:
        return f"Async{self.ref!r}"


class AsyncStream:
    """An open stream; the methods are those of StreamClient. A context manager that ends it. `client` is the one
    below."""

    def __init__(self, client: StreamClient, bridge: Bridge) -> None:
        self.client, self._bridge = client, bridge

    @property
    def is_active(self) -> bool:
        return self.client.is_active

    async def write(self, data: Any, *, timeout_s: float | None = None) -> None:
        """Waits while the buffer is full."""
        await self._bridge.call(self.client.write, data, timeout_s=timeout_s)

    async def flush(self, timeout_s: float | None = None) -> bool:
        """True when the network has taken everything written so far."""
        given = {} if timeout_s is None else {"timeout_s": timeout_s}
        return await self._bridge.call(self.client.flush, **given)

    async def end(self, *, error: str | None = None) -> None:
        """Sends what was written, and finishes the iterations."""
        await self._bridge.call(self.client.end, error=error)

    def events(self) -> AsyncIterator[Any]:
        """The events, to the stream's end."""
        return self._read(lambda until: self.client.events(until=until))

    def bytes(self) -> AsyncIterator[bytes]:
        """The chunks, to the stream's end."""
        return self._read(lambda until: self.client.bytes(until=until))

    def inbound(self) -> AsyncIterator[InboundMessage]:
        """Whole frames, to the stream's end."""
        return self._read(self.client.messages_until)

    async def _read(self, read: Callable[[threading.Event], Iterator[Any]]) -> AsyncIterator[Any]:
        pump = _Pump(read, self._bridge.loop, self.client.stream_id)
        pump.start()
        try:
            async for item in pump.items():
                yield item
        finally:
            pump.stop()
            self.client.wake_readers()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()


class _Pump:
    """One reading: a thread that blocks for the next item, so that the loop need not."""

    def __init__(
        self, read: Callable[[threading.Event], Iterator[Any]], loop: asyncio.AbstractEventLoop, name: str
    ) -> None:
        self._read, self._loop = read, loop
        self._taken: deque[Any] = deque()
        self._some = asyncio.Event()
        self._room = threading.Semaphore(AHEAD)
        self._stopped = threading.Event()
        self._over = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"blocks-aio-stream-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The thread ends with its next look; whoever stops it wakes the stream's readers."""
        self._stopped.set()
        self._room.release()

    async def items(self) -> AsyncIterator[Any]:
        while True:
            self._some.clear()
            while self._taken:
                item = self._taken.popleft()
                self._room.release()
                yield item
            if self._over and not self._taken:
                break
            await self._some.wait()
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            for item in self._read(self._stopped):
                self._room.acquire()
                if self._stopped.is_set():
                    return
                self._taken.append(item)
                self._tell()
        except BaseException as fault:  # noqa: BLE001 - it is raised where the stream is read
            self._fault = fault
        finally:
            self._over = True
            self._tell()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._some.set)
