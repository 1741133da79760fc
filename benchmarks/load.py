"""A closed-loop HTTP/1.1 load generator: each connection sends its next request when the last answer is whole.

It parses as little as it can, so that it costs less than the server that it measures: answers must carry a
Content-Length, and their status is looked at only for being 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import uvloop

__all__ = ["Outcome", "run"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave. `failed` counts answers that were not 200."""

    requests: int
    failed: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, next_request: Callable[[], bytes | None], done: asyncio.Future[None]) -> None:
        self._next, self._done = next_request, done
        self._buffer = b""
        self.answers = self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        at = buffer.lower().find(b"content-length:", 0, head_end) + 15
        length = int(buffer[at : buffer.index(b"\r", at)])
        if len(buffer) < head_end + 4 + length:
            return
        self.answers += 1
        self.failed += buffer[9:12] != b"200"
        self._buffer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        request = self._next()
        if request is not None:
            self._transport.write(request)
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()


def run(host: str, port: int, *, connections: int, seconds: float, request: Callable[[], bytes]) -> Outcome:
    """Sends what `request` makes over each connection for that long."""
    return uvloop.run(_run(host, port, connections, seconds, request))


async def _run(host: str, port: int, connections: int, seconds: float, request: Callable[[], bytes]) -> Outcome:
    loop = asyncio.get_running_loop()
    began = perf_counter()
    ends = began + seconds

    def next_request() -> bytes | None:
        return request() if perf_counter() < ends else None

    waiting: list[asyncio.Future[None]] = []
    opened: list[_Connection] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        _, connection = await loop.create_connection(lambda done=done: _Connection(next_request, done), host, port)
        waiting.append(done)
        opened.append(connection)
    await asyncio.gather(*waiting)
    return Outcome(sum(c.answers for c in opened), sum(c.failed for c in opened), perf_counter() - began)
