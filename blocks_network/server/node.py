"""One node: the network on a port, run by a thread of its own. Embedded in a program, or alone in a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from blocks_network.errors import ConfigurationError
from blocks_network.server.access.keysets import Keysets
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import DataDirectory, Identity

if TYPE_CHECKING:  # the extra `server` is needed at the start, not at the import
    from blocks_network.server.app import Network
    from blocks_network.server.http.listener import Listener

__all__ = ["Node"]

log = logging.getLogger(__name__)

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - named to be replaced, not to be opened
STOP_MARGIN_S = 10.0
"""What the end may take beyond the grace of its requests: a last commit on a slow disk."""
UPLOAD_MARGIN_S = 15.0
"""An upload that falls silent is answered before its connection is cut."""


class Node:
    """`start` returns when the port accepts; `stop` when everything is on the disk and the thread is gone.

    After `start`: `host`, `port`, `base_url`, `cdm_url`, `origin`, `api_key`, `keysets`. A node runs once.
    Its thread is a daemon: all that it acknowledged is durable already, so a process may end without it.
    """

    def __init__(self, config: NodeConfig | None = None) -> None:
        self.config = config or NodeConfig()
        self.host, self.port = self.config.host, self.config.port
        self._directory = DataDirectory(self.config.data_dir) if self.config.data_dir is not None else None
        self._identity: Identity | None = None
        self._started: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self.ended = threading.Event()
        """Set when the node has ended, by `stop` or by a fault of its own; `fault` tells which."""
        self.fault: BaseException | None = None

    def start(self) -> Node:
        """ConfigurationError for a port, a directory or a key that cannot be used. Nothing stays open then."""
        if self._thread is not None or self.ended.is_set():
            raise RuntimeError("a node runs once; make a new one")
        _require_extra()
        if self.config.database is not None:
            _require_postgres()
        from blocks_network.server.http.listener import bind

        try:
            if self._directory is not None:
                self._directory.open()
            api_key = self.config.api_key
            self._identity = self._directory.identity(api_key) if self._directory else Identity.generate(api_key)
            sock = bind(self.config.host, self.config.port)
        except ConfigurationError:
            self._close_directory()
            raise
        self.port = int(sock.getsockname()[1])
        self._loop = _new_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, sock), name=f"blocks-node-{self.port}", daemon=True
        )
        self._thread.start()
        try:
            self._started.result()
        except BaseException:  # also an interrupt while it starts
            self.stop()
            raise
        log.debug("the network is ready at %s", self.base_url)
        return self

    def end(self) -> None:
        """Asks it to end and returns at once; `ended` is set when it has. A signal handler may call it."""
        if self._loop is None:
            self._ending.set()  # not started yet: it will end as soon as it is
            return
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._ending.set)

    def stop(self) -> bool:
        """Answers what waits, finishes what is under way, closes all. True when it ended in time. May be repeated."""
        if self._thread is None:
            return True
        self.end()
        self._thread.join(self.config.stop_grace_s + STOP_MARGIN_S)
        if self._thread.is_alive():
            log.error("the node on port %d did not end in time", self.port)
            return False
        return True

    def __enter__(self) -> Node:
        return self.start() if self._thread is None else self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where clients find the platform API, without a slash at the end."""
        return (self.config.public_base or f"http://{self._own_origin()}").rstrip("/")

    @property
    def cdm_url(self) -> str:
        """The configuration document: all that a client has to know."""
        return f"{self.base_url}/config.json"

    @property
    def origin(self) -> str:
        """host:port of the PubNub protocol."""
        return self.base_url.partition("://")[2]

    @property
    def ssl(self) -> bool:
        """Whether clients reach it over TLS, which a proxy in front of it ends."""
        return self.base_url.startswith("https://")

    @property
    def api_key(self) -> str:
        return self._known().api_key

    @property
    def keysets(self) -> Keysets:
        return self._known().keysets

    def _own_origin(self) -> str:
        host = WILDCARDS.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def _known(self) -> Identity:
        if self._identity is None:
            raise RuntimeError("the node's keys are known when it has started")
        return self._identity

    def _close_directory(self) -> None:
        if self._directory is not None:
            self._directory.close()

    def _run(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        """The node's thread. A fault before the start goes to who waits for it, a later one is kept and logged."""
        try:
            asyncio.set_event_loop(loop)
            try:
                loop.run_until_complete(self._serve(sock))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                loop.close()
        except BaseException as fault:
            self.fault = fault
            if self._started.done():
                log.exception("the node on port %d has failed", self.port)
            else:
                self._started.set_exception(fault)
        finally:
            sock.close()
            self._close_directory()
            self.ended.set()

    async def _serve(self, sock: socket.socket) -> None:
        """The life of a node. The end goes from the door inwards: see `Network.stop` for what lies behind it."""
        from blocks_network.server.app import Network
        from blocks_network.server.http.listener import Listener

        network = Network(
            self.config,
            self._known(),
            directory=self._directory,
            base_url=self.base_url,
            origin=self.origin,
            ssl=self.ssl,
        )
        limits = self.config.limits
        listener = Listener(
            network,
            sock,
            keep_alive_s=self.config.keep_alive_s,
            body_idle_s=max(limits.body_idle_s, limits.upload_idle_s + UPLOAD_MARGIN_S),
        )
        await network.start()
        try:
            await listener.start()
            self._started.set_result(None)
            await self._ending.wait()
        finally:
            await self._close(network, listener)

    async def _close(self, network: Network, listener: Listener) -> None:
        listener.refuse()  # first, so that nobody polls again when the polls are answered
        await network.release()
        await listener.drain(self.config.stop_grace_s)
        await network.stop()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def _require_extra() -> None:
    """ConfigurationError that names the extra when a library of it is missing."""
    try:
        import blocks_network.server.app
        import blocks_network.server.http.listener  # noqa: F401
    except ModuleNotFoundError as missing:
        library = missing.name or "a library"
        if library.partition(".")[0] == "blocks_network":
            raise
        raise ConfigurationError(
            f"running a network needs {library}, which is not installed",
            hint='install it with: pip install "blocks-network[server]"',
        ) from missing


def _require_postgres() -> None:
    """ConfigurationError that names the extra when PostgreSQL's driver is missing, or the library under it."""
    try:
        import psycopg  # noqa: F401
    except ImportError as missing:
        raise ConfigurationError(
            f"a database apart needs the driver psycopg: {missing}",
            hint='install it with: pip install "blocks-network[postgres]"',
        ) from missing
