"""A TCP proxy that breaks its connections when a test says so: at once, or in the middle of an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop
from gateway_harness import DEADLINE_S

__all__ = ["CuttingProxy"]

T = TypeVar("T")

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset in place of an end."""


class CuttingProxy:
    """Stands before `target`, host:port; clients are pointed to `origin`. One thread; used as a context manager."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self.origin = ""
        self._left_bytes: int | None = None
        self._cut_within = threading.Event()
        self._closing = False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = uvloop.new_event_loop()  # asyncio's own leaves a connection open that comes while it closes
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting-proxy", daemon=True)

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.origin = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    def cut(self) -> None:
        """Resets all connections that are open now; there is one at least."""
        assert self._run(self._cut())

    def cut_answer_after(self, size_bytes: int) -> None:
        """Passes on so many more bytes from the network, then resets the connection that they are on; returns then."""
        self._cut_within.clear()
        self._loop.call_soon_threadsafe(setattr, self, "_left_bytes", size_bytes)
        assert self._cut_within.wait(DEADLINE_S)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(DEADLINE_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        pair = (writer, far_writer)
        self._pairs.add(pair)
        if self._closing:
            self._reset(pair)
        await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer, pair))
        self._reset(pair)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answering: tuple[asyncio.StreamWriter, asyncio.StreamWriter] | None = None,
    ) -> None:
        """Until one side ends. On the way of answers the bytes to the cut are counted."""
        try:
            while data := await reader.read(65536):
                left = self._left_bytes
                if answering is not None and left is not None:
                    self._left_bytes = left - len(data)
                    if len(data) > left:
                        writer.write(data[:left])
                        await writer.drain()
                        self._left_bytes = None
                        self._reset(answering)
                        self._cut_within.set()
                        return
                writer.write(data)
                await writer.drain()
            if not writer.transport.is_closing():  # a cut of both ways may have been in between
                writer.write_eof()
        except OSError:  # the one or the other end is gone
            writer.transport.abort()

    def _reset(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
            for writer in pair:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    async def _cut(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)
        return len(pairs)

    async def _close(self) -> None:
        self._closing = True
        self._server.close()
        this = asyncio.current_task()
        while rest := [task for task in asyncio.all_tasks() if task is not this]:  # some may have just been accepted
            await self._cut()
            await asyncio.wait(rest)
