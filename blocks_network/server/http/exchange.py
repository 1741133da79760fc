"""One request and its answer: what the ASGI app receives and sends, and the answers that leave by a call."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

__all__ = ["App", "Exchange", "Wire", "status_line"]

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_NO_TOKEN = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
BODILESS = (204, 304)
_FAULT = b"Internal Server Error"


class Wire(Protocol):
    """The connection, as its requests see it."""

    write: Callable[[bytes], None]
    """To the socket at once, as far as that takes it."""
    write_paused: bool
    """The client has not taken what it was sent."""

    is_closing: Callable[[], bool]

    def close(self) -> None:
        """After what was written."""

    async def drained(self) -> None:
        """Returns when the client has taken enough, or has gone."""

    def go_on(self) -> None:
        """Tells a client that holds its body back to send it."""

    def taken(self) -> None:
        """The app has taken what there was of the body: more may come."""

    def answered(self, exchange: Exchange) -> None:
        """Its answer is complete."""


class Exchange:
    """`receive` and `send` are ASGI's. It is an `Answering` too, and offers itself in the scope (see answering.py)."""

    __slots__ = (
        "_body",
        "_body_told",
        "_chunked",
        "_head",
        "_is_head",
        "_left_bytes",
        "_waiters",
        "_wire",
        "began_answer",
        "body_bytes",
        "complete",
        "disconnected",
        "expects_continue",
        "keep_alive",
        "more_body",
        "scope",
        "task",
    )

    def __init__(self, wire: Wire, scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool) -> None:
        self._wire, self.scope, self.keep_alive = wire, scope, keep_alive
        self.expects_continue = expects_continue
        """The client holds its body back until it is told to go on."""
        self.task: asyncio.Task[None] | None = None
        """Works on it."""
        self._is_head = scope["method"] == "HEAD"
        self._waiters: list[asyncio.Future[None]] = []
        self._body: list[bytes] = []
        self.body_bytes = 0
        """Of the body, what has come and was not taken."""
        self.more_body, self._body_told = True, False
        self.began_answer = self.complete = self.disconnected = False
        self._head = b""
        """Held until the body comes: the answer's first segment has both, and wakes its reader once."""
        self._chunked = False
        self._left_bytes: int | None = None
        """Of the length that the head has promised."""

    # -- from the connection -------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """More of the body has come."""
        if not self.complete:
            self._body.append(piece)
            self.body_bytes += len(piece)
            self._wake()

    def fed(self) -> None:
        """That was all of it."""
        self.more_body = False
        self._wake()

    def disconnect(self) -> None:
        """Nobody is there any more to read the answer."""
        self.disconnected = True
        self._wake()

    async def run(self, app: App) -> None:
        """The app's whole work on it. A fault that escapes is logged, and answered while that can be done."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.complete:
                self._wire.close()
            raise
        except Exception:
            log.exception("%s %s failed", self.scope["method"], self.scope["path"])
            await self._give_up()
        else:
            if not self.complete and not self.disconnected:
                log.error("%s %s was left without a whole answer", self.scope["method"], self.scope["path"])
                await self._give_up()

    async def _give_up(self) -> None:
        if self.complete:
            return  # the connection may be at the next request
        if self.began_answer:
            self._wire.close()  # a part of an answer cannot be taken back
            return
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(_FAULT)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _FAULT})

    # -- ASGI ----------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        if self.expects_continue and not (self.began_answer or self._wire.is_closing()):
            self.expects_continue = False
            self._wire.go_on()
        while not self.disconnected and not self.complete:
            if self._body or not (self.more_body or self._body_told):
                body, self._body, self.body_bytes = b"".join(self._body), [], 0
                self._body_told = not self.more_body
                self._wire.taken()
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._wire.write_paused and not self.disconnected:
            await self._wire.drained()
        if self._nobody_reads():
            return
        kind = message["type"]
        if kind != ("http.response.body" if self.began_answer else "http.response.start"):
            raise RuntimeError(f"an answer is a start and then its body; this is {kind!r}")
        if self.complete:
            raise RuntimeError("the answer was complete already")
        if self.began_answer:
            self._send_body(message.get("body", b""), last=not message.get("more_body", False))
        else:
            self._begin(message["status"], list(message.get("headers", ())))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if any(not name or _NO_TOKEN.search(name) or _NO_VALUE.search(value) for name, value in headers):
            raise RuntimeError("an answer has a header that cannot be sent")
        lines, closing = [status_line(status)], False
        self._begin_answer()
        for name, value in headers:
            name = name.lower()
            if name == b"content-length":
                self._left_bytes = int(value)
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self._chunked = True
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive, closing = False, True
            lines.append(b"%b: %b\r\n" % (name, value))
        bodiless = self._is_head or status < 200 or status in BODILESS
        if not bodiless and self._left_bytes is None and not self._chunked:
            if self.scope["http_version"] == "1.0":
                self.keep_alive = False  # the end of the connection is the end of the answer
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not closing:
            lines.append(b"connection: close\r\n")
        if bodiless:
            self._chunked, self._left_bytes = False, 0
        self._head = b"%b\r\n" % b"".join(lines)

    def _send_body(self, piece: bytes, *, last: bool) -> None:
        if self._is_head:
            piece = b""
        if self._left_bytes is not None and not self._chunked:
            self._left_bytes -= len(piece)
            if self._left_bytes < 0 or (last and self._left_bytes):
                raise RuntimeError("the answer's body is not as long as its head says")
        data, self._head = self._head, b""
        if not self._chunked:
            data += piece
        else:
            if piece:
                data += b"%x\r\n%b\r\n" % (len(piece), piece)
            if last:
                data += b"0\r\n\r\n"
        if data:
            self._wire.write(data)
        if last:
            self._complete()

    # -- answers by a call ---------------------------------------------------------------------------------------

    def whole(self, status: int, head: bytes, body: bytes) -> bool:
        if self._nobody_reads():
            return True
        if self.began_answer or self._wire.write_paused or self._is_head or status in BODILESS:
            return False
        self._begin_answer()
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        self._wire.write(b"%b%bcontent-length: %d\r\n%b\r\n%b" % (status_line(status), head, len(body), closing, body))
        self._complete()
        return True

    def begin(self, status: int, head: bytes, piece: bytes) -> bool:
        if self._nobody_reads() or self.began_answer or self._wire.write_paused:
            return False
        if self._is_head or not self.keep_alive:
            return False  # who wants the connection to end may not know chunks either
        self._begin_answer()
        self._chunked = True
        self._wire.write(
            b"%b%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (status_line(status), head, len(piece), piece)
        )
        return True

    def more(self, piece: bytes) -> bool:
        if self._nobody_reads():
            return True  # the request's own task hears of it
        if self._wire.write_paused:
            return False
        self._wire.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    def end(self) -> None:
        if not (self._nobody_reads() or self.complete):
            self._wire.write(b"0\r\n\r\n")
            self._complete()

    # ------------------------------------------------------------------------------------------------------------

    def _begin_answer(self) -> None:
        self.began_answer = True
        if self.expects_continue and self.more_body:  # whether its body still comes, nobody can tell
            self.keep_alive = False
        self.expects_continue = False

    def _nobody_reads(self) -> bool:
        if not self.disconnected and self._wire.is_closing():
            self.disconnect()
        return self.disconnected

    def _complete(self) -> None:
        self.complete = True
        self._body, self.body_bytes = [], 0
        self._wake()
        self._wire.answered(self)

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def status_line(status: int) -> bytes:
    return _STATUS_LINES[status]


_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
