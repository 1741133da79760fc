"""One connection of HTTP/1.1: requests parsed, each run by the app in a task of its own, answered in their order.

`httptools` parses. What it does not bound is bounded here: how long a head may be and take, how long a body may be
silent, how much is read ahead of the app.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from blocks_network.server.http.answering import offer, withdraw
from blocks_network.server.http.exchange import App, Exchange, status_line
from blocks_network.server.http.watch import Watch

__all__ = ["BODY_IDLE_S", "Connection", "Door"]

ADDRESS_MAX_BYTES = 65_535
"""Clients of the protocol stay below 32 KiB."""
HEAD_MAX_BYTES = ADDRESS_MAX_BYTES + 64 * 1024
"""A request's address and headers, to the nearest slice; the parser would gather them without end."""
HEAD_S = 30
"""How long a request's head may take from its first byte, so that trickling clients do not keep connections."""
BODY_IDLE_S = 90.0
"""Silence within a request's body that ends its connection; uploads of files answer before, by a limit of their own.
Also how long a client may take nothing of what it was sent."""
BODY_AHEAD_BYTES = 64 * 1024
"""Of a body, what is read before the app asks for it."""
AROUND_EACH_BYTE, AROUND_MAX_BYTES = 8, 64 * 1024
"""Of a body in chunks, what may stand around each byte (the smallest chunk needs 6 for one), and besides: the parser
would gather extensions and trailers without end."""
REQUESTS_AHEAD = 16
"""Requests that wait behind the one that is worked on. Reading goes on up to there: so a client's end is noticed."""
SLICE_BYTES = 8 * 1024
"""What is parsed at once. A socket may give thirty times as much, and that may hold thousands of requests."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Door(Protocol):
    """Whoever accepts connections (listener.py)."""

    app: App
    keep_alive_s: float
    body_idle_s: float
    refusing: bool
    connections: set[Connection]
    tasks: set[asyncio.Task[None]]

    def gone(self) -> None:
        """One of the connections has ended."""


class Connection(asyncio.Protocol):
    """Belongs to the loop."""

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self._door, self._loop = door, loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]
        self.is_closing: Callable[[], bool]
        self.write_paused = False
        self._read_paused = False
        self._drained: list[asyncio.Future[None]] = []
        self._server: tuple[str, int] | None = None
        self._client: tuple[str, int] | None = None
        # what is being parsed
        self._unparsed = b""
        """Kept while as many requests wait as may."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._plain_head: bytes | None = None
        """Of a request that offers another protocol: its head without the offer."""
        self._head_open = self._head_began = self._body_open = False
        self._head_bytes = 0
        self._body_bytes = 0
        """In the slice that is being parsed."""
        self._around_bytes = 0
        """What stood around the pieces of a body that comes in chunks, beyond what their sizes need."""
        self._refusal = HTTPStatus.BAD_REQUEST
        # what is worked on
        self._incoming: Exchange | None = None
        """The latest request: its body may still come."""
        self._current: Exchange | None = None
        """The one that is answered next."""
        self._waiting: deque[Exchange] = deque()
        self._last = False
        """No request is taken any more."""
        self._refused: HTTPStatus | None = None
        """What follows the answers that are owed."""

    # -- the transport's -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport, self.write, self.is_closing = transport, transport.write, transport.is_closing
        self._server, self._client = _address(transport, "sockname"), _address(transport, "peername")
        self._watch = Watch(
            self._loop,
            late=self._late,
            stuck=transport.abort,
            unsent_bytes=transport.get_write_buffer_size,
            take_s=self._door.body_idle_s,
        )
        self._door.connections.add(self)
        if self._door.refusing:  # it was accepted while the door was closing
            transport.close()
        else:
            self._watch.expect_within(self._door.keep_alive_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        for exchange in (self._current, *self._waiting):
            if exchange is not None:
                exchange.disconnect()
        for exchange in self._waiting:
            withdraw(exchange.scope)
        self._waiting.clear()
        self._current = self._incoming = None
        self._unparsed = b""
        self.resume_writing()
        self._watch.end()
        del self._parser, self._watch  # they hold the connection
        self._door.gone()

    def data_received(self, data: bytes) -> None:
        if self.is_closing() or self._last:
            return
        if self._unparsed:  # it was on its way when reading was paused
            self._unparsed += data
        else:
            self._take(data)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._watch.sending()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.is_closing():
            self._watch.sending()
        else:
            self._watch.sent()
        waiters, self._drained = self._drained, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> None:
        self.close()

    # -- parsing -------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Slice by slice, as far as requests may wait."""
        was_in_body, self._head_began = self._body_open, False
        for at in range(0, len(data), SLICE_BYTES):
            if self._last:
                break
            if len(self._waiting) >= REQUESTS_AHEAD:
                self._unparsed = data[at:]
                break
            if not self._parse(data if len(data) <= SLICE_BYTES else data[at : at + SLICE_BYTES]):
                break
        if self.is_closing():
            return
        self._start_next()
        self._arrange_reading()
        if self._head_open:
            if self._head_began:
                self._watch.expect_within(HEAD_S)
        elif self._body_open:
            self._watch.expect_within(self._door.body_idle_s)
        elif self._current is not None:
            self._watch.expect_nothing()
        elif was_in_body:  # it was answered before it was whole
            self._watch.expect_within(self._door.keep_alive_s)

    def _parse(self, piece: bytes) -> bool:
        """False when nothing more is parsed."""
        was_in_body, self._body_bytes = self._body_open, 0
        rest = piece
        try:
            while rest:
                try:
                    self._parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    if self._plain_head is None:
                        raise httptools.HttpParserError("an upgrade that was not offered") from None
                    # we speak no other protocol: the request is read anew without its offer, so that its body is one
                    rest = self._plain_head + rest[upgrade.args[0] :]
                    self._plain_head, self._parser = None, httptools.HttpRequestParser(self)
        except httptools.HttpParserError:
            if not self._last:  # else it is about what follows the last request
                self._refuse(self._refusal)
            return False
        if self._head_open:
            self._head_bytes += len(piece) - self._body_bytes
            if self._head_bytes > HEAD_MAX_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return False
        elif self._body_open and was_in_body:
            self._around_bytes = max(0, self._around_bytes + len(piece) - AROUND_EACH_BYTE * self._body_bytes)
            if self._around_bytes > AROUND_MAX_BYTES:
                self._refuse(HTTPStatus.BAD_REQUEST)
                return False
        return True

    def on_message_begin(self) -> None:
        if self._last:
            raise ValueError("the last request was there before")  # the parser stops
        self._url, self._headers, self._expects_continue = b"", [], False
        self._head_open = self._head_began = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > ADDRESS_MAX_BYTES:
            self._refusal = HTTPStatus.REQUEST_URI_TOO_LONG
            raise ValueError("the address is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_open:
            return  # it came behind the body: nothing reads it there
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, url, version = self._parser, self._url, self._parser.get_http_version()
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                raise ValueError("nobody is connected to elsewhere from here")
            self._plain_head = _without_offer(method, url, version, self._headers)
            return
        if url.startswith(b"/") and b"#" not in url:
            raw_path, _, query = url.partition(b"?")
        else:
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server,
        }
        is_current = version != "1.0"
        keep_alive = is_current and parser.should_keep_alive()
        expects = is_current and self._expects_continue
        self._incoming = exchange = Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects)
        offer(scope, exchange)
        self._head_open, self._body_open, self._around_bytes = False, True, 0  # from here on it is a request
        self._waiting.append(exchange)  # it begins when the parser has found nothing against its head

    def on_body(self, body: bytes) -> None:
        assert self._incoming is not None
        self._body_bytes += len(body)
        self._incoming.feed(body)

    def on_message_complete(self) -> None:
        if self._plain_head is not None:
            return  # the parser takes what follows for the other protocol
        assert self._incoming is not None
        self._body_open = False
        self._incoming.fed()
        self._last = not self._incoming.keep_alive

    # -- the requests' -------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._watch.expect_nothing()
        self._transport.close()
        self._watch.sending()

    async def drained(self) -> None:
        waiter = self._loop.create_future()
        self._drained.append(waiter)
        await waiter

    def go_on(self) -> None:
        self.write(CONTINUE)
        if self._body_open:  # its silence was ours
            self._watch.expect_within(self._door.body_idle_s)

    def taken(self) -> None:
        if self._read_paused:
            self._arrange_reading()

    def answered(self, exchange: Exchange) -> None:
        if not exchange.keep_alive:
            self.close()
        if self.is_closing():
            return
        self._current = None
        self._start_next()
        self._expect_rest()  # what stood behind the answer has its whole time from here on
        if self._current is None and self._refused is not None:
            self._say(self._refused)
            return
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._take(data)
            return
        if self._current is None and not (self._head_open or self._body_open):
            self._watch.expect_within(self._door.keep_alive_s)
        if self._read_paused:
            self._arrange_reading()

    # -- the door's ----------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """What has come is answered, and then it closes; at once when there is nothing."""
        if not self._body_open:  # else the rest of a body is in it
            self._unparsed = b""
        if self._current is None:
            self.close()
        else:
            (self._waiting[-1] if self._waiting else self._current).keep_alive = False

    def abort(self) -> None:
        self._transport.abort()

    # ------------------------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        if self._current is None and self._waiting:
            self._current = exchange = self._waiting.popleft()
            exchange.task = self._loop.create_task(self._work(exchange))
            self._door.tasks.add(exchange.task)

    async def _work(self, exchange: Exchange) -> None:
        try:
            await exchange.run(self._door.app)
        finally:
            assert exchange.task is not None
            self._door.tasks.discard(exchange.task)
            exchange.task = None
            withdraw(exchange.scope)  # each holds the other

    def _arrange_reading(self) -> None:
        """Reads on while the app keeps up."""
        ahead_bytes = 0 if self._incoming is None else self._incoming.body_bytes
        pause = bool(self._unparsed) or len(self._waiting) >= REQUESTS_AHEAD or ahead_bytes > BODY_AHEAD_BYTES
        if pause != self._read_paused and not self.is_closing():
            self._read_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
                if self._body_open:  # its silence was ours
                    self._watch.expect_within(self._door.body_idle_s)

    def _refuse(self, status: HTTPStatus) -> None:
        """What came last is no request. Those before it are answered first."""
        broken = self._incoming if self._body_open else None
        self._last, self._head_open, self._body_open = True, False, False
        self._watch.expect_nothing()
        if broken is not None and self._waiting and self._waiting[-1] is broken:
            withdraw(self._waiting.pop().scope)  # it has not begun, and will not
            self._incoming = None
        elif broken is not None and broken is self._current:
            broken.disconnect()
            if broken.began_answer:
                self.close()
            else:
                self._say(status)
            return
        self._start_next()
        if self._current is None:
            self._say(status)
        else:
            self._refused = status

    def _say(self, status: HTTPStatus) -> None:
        body = f'{{"status":{status.value},"error":true,"message":"{status.phrase}","service":"Balancer"}}'
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.write(status_line(status) + f"{head}{body}".encode("ascii"))
        self.close()

    # -- deadlines -----------------------------------------------------------------------------------------------

    def _expect_rest(self) -> None:
        """Of the request that is coming, if one is."""
        if self._head_open:
            self._watch.expect_within(HEAD_S)
        elif self._body_open:
            self._watch.expect_within(self._door.body_idle_s)

    def _late(self) -> None:
        """Nothing came from the client for as long as it may be silent."""
        if not (self._head_open or self._body_open):
            self.close()
        elif self._waits_for_us():
            self._expect_rest()
        else:
            self._transport.abort()

    def _waits_for_us(self) -> bool:
        """The client's silence is no fault of its own."""
        if self._current is not None and (self._head_open or self._incoming is not self._current):
            return True  # an answer that it waits for is still owed
        return self._read_paused or (self._incoming is not None and self._incoming.expects_continue)


def _without_offer(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request, without the protocol that it would rather speak."""
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode("ascii"), b"".join(lines))


def _address(transport: asyncio.BaseTransport, which: str) -> tuple[str, int] | None:
    """Of our side ("sockname") or the client's ("peername"); None where there is none, as with a socket in a file."""
    address = transport.get_extra_info(which)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
