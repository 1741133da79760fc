"""The listening socket, and HTTP connections with the bounds that their parser lacks.

Uvicorn's protocol class does the parsing and the ASGI calls. Its `Server` is left out: it polls a flag and sleeps
while it ends, and it must not own the process's signals.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from blocks_network.errors import ConfigurationError
from blocks_network.server import answering
from blocks_network.server.corking import Corked

__all__ = ["App", "Listener", "bind"]

log = logging.getLogger(__name__)

App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

ADDRESS_MAX_BYTES = 65_535
"""The URL parser counts in 16 bits; clients of the protocol stay below 32 KiB."""
HEAD_MAX_BYTES = ADDRESS_MAX_BYTES + 64 * 1024
"""A request's address and headers; the parser would gather them without end."""
HEAD_S = 30
"""How long a request's head may take from its first byte, so that trickling clients do not keep connections."""
BODY_IDLE_S = 90.0
"""Silence within a request's body that ends its connection; uploads of files answer before, by a limit of their own."""
BACKLOG = 2_048


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. ConfigurationError says what to change."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as fault:
        raise ConfigurationError(
            f"the host {host!r} has no address", hint="use 127.0.0.1 for this machine, 0.0.0.0 for all its networks"
        ) from fault
    sock = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR would let two nodes share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as fault:
        sock.close()
        raise _bind_error(host, port, fault) from fault
    sock.setblocking(False)
    return sock


def _bind_error(host: str, port: int, fault: OSError) -> ConfigurationError:
    if fault.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} on {host} is in use", hint="choose another with --port, or a free one with --port 0"
        )
    if fault.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"port {port} on {host} may not be opened by this user", hint="choose a port above 1023 with --port"
        )
    return ConfigurationError(
        f"{host}:{port} cannot be opened: {fault.strerror or fault}",
        hint="use an address of this machine, as 127.0.0.1",
    )


class BoundedHttp(HttpToolsProtocol):
    """One connection. An endless address or head is refused; one that does not arrive in time is cut."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], None],
        *,
        body_idle_s: float = BODY_IDLE_S,
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={}, _loop=loop)
        self._gone = gone
        self._begun: RequestResponseCycle | None = None
        """The request that is worked on; others of the connection wait behind it."""
        self._head_open = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal = HTTPStatus.BAD_REQUEST
        self._body_idle_s = body_idle_s
        self._body_open = False
        self._body_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._corked = Corked(transport)
        self.transport = cast("asyncio.Transport", self._corked)
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._begun is not None and not self._begun.response_complete:  # the base knows of the last request alone
            self._begun.disconnected = True
            self._begun.message_event.set()
        self._stop_timer()
        self._stop_body_timer()
        self._gone()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._body_open:
            self._await_body()
        if not self._head_open:
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_MAX_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open, self._head_bytes = True, 0
        self._stop_timer()  # the idle time is over; a head that is not whole yet gets a time of its own

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > ADDRESS_MAX_BYTES:
            self._refusal = HTTPStatus.REQUEST_URI_TOO_LONG
            raise ValueError("the address is too long")  # the parser stops, and `send_400_response` answers

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._stop_timer()
        self._body_open = True
        super().on_headers_complete()
        answering.offer(cast("dict[str, Any]", self.scope), _Answering(self.cycle, self._corked))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._begun = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        self._body_open = False
        self._stop_body_timer()
        super().on_message_complete()

    def _await_body(self) -> None:
        """The rest of a body has to go on coming; a body that came in one piece has no timer."""
        self._stop_body_timer()
        self._body_timer = self.loop.call_later(self._body_idle_s, self._body_is_late)

    def _body_is_late(self) -> None:
        self._body_timer = None
        if self.flow.read_paused:  # the network does not take it at the moment; that is no silence of the client
            self._await_body()
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        self._corked.uncork()  # an answer to HEAD has no body
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What the base calls for everything that it cannot parse."""
        self._refuse(self._refusal)

    def _refuse(self, status: HTTPStatus) -> None:
        body = f'{{"status":{status.value},"error":true,"message":"{status.phrase}","service":"Balancer"}}'
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode("ascii")
        )
        self.transport.close()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Answering:
    """What `cycle.send` does with the messages of ASGI, without them."""

    __slots__ = ("_corked", "_cycle")

    def __init__(self, cycle: RequestResponseCycle, corked: Corked) -> None:
        self._cycle, self._corked = cycle, corked

    def whole(self, status: int, head: bytes, body: bytes) -> bool:
        cycle = self._cycle
        if self._nobody_reads():
            return True
        if cycle.response_started or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
            return False
        cycle.response_started = True
        closing = b"" if cycle.keep_alive else b"connection: close\r\n"
        self._corked.write_through(
            b"%b%bcontent-length: %d\r\n%b\r\n%b" % (STATUS_LINE[status], head, len(body), closing, body)
        )
        self._complete()
        return True

    def begin(self, status: int, head: bytes, piece: bytes) -> bool:
        cycle = self._cycle
        if self._nobody_reads() or cycle.response_started or cycle.flow.write_paused:
            return False
        if cycle.scope["method"] == "HEAD" or not cycle.keep_alive or _is_last(cycle.scope["headers"]):
            return False  # who wants the connection to end may not know chunks either
        cycle.response_started = cycle.chunked_encoding = True
        self._corked.write_through(
            b"%b%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (STATUS_LINE[status], head, len(piece), piece)
        )
        return True

    def more(self, piece: bytes) -> bool:
        if self._nobody_reads():
            return True  # the request's own task hears of it
        if self._cycle.flow.write_paused:
            return False
        self._corked.write_through(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    def end(self) -> None:
        if not (self._nobody_reads() or self._cycle.response_complete):
            self._corked.write_through(b"0\r\n\r\n")
            self._complete()

    def _nobody_reads(self) -> bool:
        cycle = self._cycle
        if not cycle.disconnected and self._corked.is_closing():
            cycle.disconnected = True
            cycle.message_event.set()
        return cycle.disconnected

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._corked.close()
        cycle.on_response()


def _is_last(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the client says so of its request: not every version of uvicorn looks."""
    return any(name == b"connection" and b"close" in value.lower() for name, value in headers)


class Listener:
    """Accepts connections on one socket, which it owns from `start` on. All methods belong to the running loop."""

    def __init__(self, app: App, sock: socket.socket, *, keep_alive_s: int, body_idle_s: float = BODY_IDLE_S) -> None:
        self._sock, self._body_idle_s = sock, body_idle_s
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            http=BoundedHttp,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,  # the program configures logging
            access_log=False,  # addresses of the protocol hold tokens
            server_header=False,  # nobody needs to know what runs here, and every client parses it
            proxy_headers=False,  # nobody is believed to speak for somebody else
            timeout_keep_alive=keep_alive_s,
            backlog=BACKLOG,
        )
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def start(self) -> None:
        """Accepts from here on."""
        loop = asyncio.get_running_loop()
        self._config.load()
        self._server = await loop.create_server(
            lambda: BoundedHttp(self._config, self._state, loop, self._gone, body_idle_s=self._body_idle_s),
            sock=self._sock,
            backlog=BACKLOG,
        )

    def refuse(self) -> None:
        """No new connection, and no further request on those that are open. What is under way goes on."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()

    async def drain(self, grace_s: float) -> int:
        """Waits for what is under way, at most `grace_s`, and closes all. Returns how many requests were cut."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        cut: set[asyncio.Task[None]] = set()
        if self._state.tasks:
            _, cut = await asyncio.wait(set(self._state.tasks), timeout=grace_s)
            for task in cut:
                task.cancel()
            if cut:
                log.warning("%d requests took longer than the %.1f s that the end allows", len(cut), grace_s)
                await asyncio.wait(cut, timeout=1)
        self._empty.clear()
        if self._state.connections:
            try:  # what was answered is still on its way into the sockets
                await asyncio.wait_for(self._empty.wait(), max(0.1, deadline - loop.time()))
            except asyncio.TimeoutError:
                for connection in list(self._state.connections):
                    connection.transport.abort()
        return len(cut)

    def _gone(self) -> None:
        if not self._state.connections:
            self._empty.set()
