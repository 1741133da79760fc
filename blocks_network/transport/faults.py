"""What can go wrong in an exchange over HTTP, as errors of ours, and how another thread breaks one off."""

from __future__ import annotations

import http.client
import logging
import socket
import threading

from blocks_network.errors import TransportError
from blocks_network.transport.connection import Connection

__all__ = ["ConnectFailed", "Faults", "Interrupted", "Interruption", "TimedOut", "shown"]

log = logging.getLogger(__name__)


class ConnectFailed(TransportError):
    """No connection was made, so nothing was sent."""


class TimedOut(TransportError):
    """The peer did not answer in time; whether it acted is unknown."""


class Interrupted(TransportError):
    """The request was given up by this process."""


class Interruption:
    """Ends a blocked request from another thread: closes its socket, and refuses every later one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Idempotent. The blocked call raises Interrupted."""
        with self._lock:
            self.interrupted = True
        self.break_off()

    def break_off(self) -> None:
        """Fails the request under way, if any, but allows later ones: the blocked call raises TransportError."""
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError as fault:  # the peer was quicker
                    log.debug("socket already closed: %s", fault)

    def watch(self, sock: socket.socket | None) -> bool:
        """The socket to close, None when the request is over. False when it was interrupted already."""
        with self._lock:
            self._socket = None if self.interrupted else sock
            return not self.interrupted


class Faults:
    """The one edge to the library's faults: each closes the connection and becomes an error of ours.

    With an interruption, that may end what is done within.
    """

    __slots__ = ("_connection", "_interruption", "_url", "sock")

    def __init__(self, connection: Connection, url: str, interruption: Interruption | None = None) -> None:
        """The connection is open. It forgets its socket with an answer that ends it, which is still to be read then."""
        assert connection.sock is not None
        self._connection, self._url, self._interruption = connection, url, interruption
        self.sock: socket.socket = connection.sock

    def __enter__(self) -> Faults:
        if self._interruption is not None and not self._interruption.watch(self.sock):
            self._connection.close()
            raise Interrupted("the request was interrupted")
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _trace: object) -> None:
        interruption = self._interruption
        if interruption is not None:
            interruption.watch(None)
        if fault is None:
            return
        timeout_s = self.sock.gettimeout() or 0.0
        self._connection.close()
        if isinstance(fault, TimeoutError):
            raise TimedOut(f"{shown(self._url)} did not answer within {timeout_s:g} s") from fault
        if isinstance(fault, (OSError, http.client.HTTPException)):
            if interruption is not None and interruption.interrupted:
                raise Interrupted("the request was interrupted") from fault
            raise TransportError(f"{shown(self._url)}: connection lost ({fault or type(fault).__name__})") from fault


def shown(url: str) -> str:
    """An address for error texts: without its query, where tokens travel."""
    return url.partition("?")[0]
