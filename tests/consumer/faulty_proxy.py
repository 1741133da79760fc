"""A TCP proxy with the faults of real networks: every connection is cut after some bytes, or falls silent."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from types import TracebackType

import uvloop

__all__ = ["RESET", "FaultyProxy"]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset in place of an end."""
DEADLINE_S = 10.0


class FaultyProxy:
    """Stands before `target` (host:port, may be set later); clients are pointed to `origin`. One thread.

    `cut_after` bytes of answers, each connection is reset; None: never. `cuts` counts them.
    """

    def __init__(self, target: str = "", *, cut_after: int | None = None) -> None:
        self.target, self.cut_after, self.cuts = target, cut_after, 0
        self.origin = ""
        self._silent: set[asyncio.Task[None]] = set()
        self._all_silent = False
        self._thawed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = uvloop.new_event_loop()  # asyncio's own leaves a connection open that comes while it closes
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.origin = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    def silence(self) -> int:
        """From now on nothing comes through the connections that are open, which stay open: half-open ones. New ones
        work. Returns how many there are."""
        return self._run(self._silence())

    def lose_everything(self) -> None:
        """Every packet, of all connections, until `recover`."""
        self._run(self._lose(True))

    def recover(self) -> None:
        """What was held back comes through, as TCP has it."""
        self._run(self._lose(False))

    def _run(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    async def _silence(self) -> int:
        self._silent |= self._tasks
        return len(self._silent)

    async def _lose(self, on: bool) -> None:
        self._all_silent = on
        if on:
            self._thawed.clear()
        else:
            self._thawed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._tasks.add(this)
        host, _, port = self.target.partition(":")
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(host, int(port))
            there = asyncio.ensure_future(self._pass_on(reader, far, this, None))
            back = asyncio.ensure_future(self._pass_on(far_reader, writer, this, self.cut_after))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # the network is away, or the proxy ends
            return
        finally:
            self._tasks.discard(this)
            for each in (writer, far):
                if each is not None:
                    sock: socket.socket = each.get_extra_info("socket")
                    if sock.fileno() >= 0:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    each.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        whole: asyncio.Task[None],
        left: int | None,
    ) -> None:
        """Until one side ends, or `left` bytes went through."""
        try:
            while data := await reader.read(65536):
                if whole in self._silent:
                    await asyncio.Event().wait()
                while self._all_silent:
                    await self._thawed.wait()
                if left is not None and len(data) > left:
                    self.cuts += 1
                    writer.write(data[:left])
                    await writer.drain()
                    return
                left = None if left is None else left - len(data)
                writer.write(data)
                await writer.drain()
        except OSError:  # the one or the other end is gone
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        this = asyncio.current_task()
        while rest := [task for task in asyncio.all_tasks() if task is not this]:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
