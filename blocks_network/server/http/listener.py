"""The listening socket: opened, and its connections counted, so that the end can wait for what is under way."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys

from blocks_network.errors import ConfigurationError
from blocks_network.server.http.connection import BODY_IDLE_S, Connection
from blocks_network.server.http.exchange import App

__all__ = ["App", "Listener", "bind"]

log = logging.getLogger(__name__)

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


class Listener:
    """Accepts connections on one socket, which it owns from `start` on. All methods belong to the running loop."""

    def __init__(self, app: App, sock: socket.socket, *, keep_alive_s: float, body_idle_s: float = BODY_IDLE_S) -> None:
        self.app, self.keep_alive_s, self.body_idle_s = app, keep_alive_s, body_idle_s
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """One for each request that is worked on."""
        self.refusing = False
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def start(self) -> None:
        """Accepts from here on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self, loop), sock=self._sock, backlog=BACKLOG)

    def refuse(self) -> None:
        """No new connection, and no further request on those that are open. What is under way goes on."""
        self.refusing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.shutdown()

    async def drain(self, grace_s: float) -> int:
        """Waits for what is under way, at most `grace_s`, and closes all. Returns how many requests were cut."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while self.tasks and loop.time() < deadline:  # what waits behind a request begins when that is answered
            await asyncio.wait(set(self.tasks), timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        cut = set(self.tasks)
        for task in cut:
            task.cancel()
        if cut:
            log.warning("%d requests took longer than the %.1f s that the end allows", len(cut), grace_s)
            ended, _ = await asyncio.wait(cut, timeout=1)
            self.tasks -= ended  # one that was cut before its first step has not taken itself out
        self._empty.clear()
        if self.connections:
            try:  # what was answered is still on its way into the sockets
                await asyncio.wait_for(self._empty.wait(), max(0.1, deadline - loop.time()))
            except asyncio.TimeoutError:
                for connection in list(self.connections):
                    connection.abort()
        return len(cut)

    def gone(self) -> None:
        if not self.connections:
            self._empty.set()
