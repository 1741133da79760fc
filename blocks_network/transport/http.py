"""Keep-alive HTTP connections, one pool for the whole process: platform calls and the pubnub library share it.

Thin connections and not a larger client, because the interpreter's lock is what limits an agent: a request through this
pool costs a small part of the CPU of the pubnub library's own stack.
"""

from __future__ import annotations

import http.client
import logging
import os
import select
import socket
import ssl
import threading
import time
import urllib.request
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from blocks_network.errors import ConfigurationError, TransportError
from blocks_network.transport.connection import Connection, TlsConnection
from blocks_network.transport.faults import ConnectFailed, Faults, Interrupted, Interruption, shown
from blocks_network.transport.responses import MAX_ANSWER_BYTES, Response, StreamedResponse

__all__ = ["POOL", "ConnectionPool"]

log = logging.getLogger(__name__)

Peer = tuple[str, str, int]
"""Scheme, host, port."""
MAX_IDLE_S = 20.0
"""A connection idle for longer is not used again. Servers close theirs after 60 s or more."""
MAX_IDLE_PER_HOST = 64
MAX_REDIRECTS = 3
DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class ConnectionPool:
    """Idle connections by (scheme, host, port). Safe for threads; a forked child starts with an empty one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Peer, list[tuple[float, Connection]]] = defaultdict(list)
        self._tls: ssl.SSLContext | None = None
        os.register_at_fork(after_in_child=self._forget)

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 30.0,
        follow_redirects: bool = False,
        interruption: Interruption | None = None,
    ) -> Response:
        """Sends one request and reads its whole answer.

        Raises ConnectFailed, TimedOut, Interrupted or TransportError; an HTTP error status is an answer like any other.
        A connection that turns out to be dead before anything was sent on it is replaced in silence.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(method, url, body, headers, connect_timeout_s, read_timeout_s, interruption)
            location = response.headers.get("Location")
            if not follow_redirects or response.status_code not in (301, 302, 303, 307, 308) or not location:
                return response
            url = urljoin(url, location)
        raise TransportError(f"{shown(url)} redirects without end")

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 120.0,
        interruption: Interruption | None = None,
    ) -> Iterator[StreamedResponse]:
        """Sends a body piece by piece, and gives the answer to be read piece by piece. Nothing is held whole.

        A `body` needs its Content-Length among the headers. `read_timeout_s` is for each step, not for the whole, and
        redirects are not followed. Errors as of `request`, also from reading the answer.
        """
        key, target = _addressed(url)
        connection, proxied_target = self._take(key, target, connect_timeout_s)
        faults = Faults(connection, url, interruption)
        with faults:
            faults.sock.settimeout(read_timeout_s)
            try:
                connection.request(method, proxied_target, body=body, headers=dict(headers or {}))
            except (BrokenPipeError, ConnectionResetError) as fault:
                log.debug("%s closed before the body was sent: %s", shown(url), fault)  # it may have said why
            answer = connection.getresponse()
        try:
            yield StreamedResponse(answer, faults)
        finally:
            if answer.isclosed() and not answer.will_close:
                self._give_back(key, connection)
            else:
                connection.close()

    def close_idle(self) -> None:
        """Closes every connection that no request uses."""
        with self._lock:
            idle, self._idle = self._idle, defaultdict(list)
        for _, connection in (entry for entries in idle.values() for entry in entries):
            connection.close()

    def tls_context(self) -> ssl.SSLContext:
        """Made once: reading the trust store takes longer than a request. SSL_CERT_FILE and _DIR beat certifi."""
        with self._lock:
            if self._tls is None:
                import certifi

                own = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
                self._tls = ssl.create_default_context(cafile=None if own else certifi.where())
            return self._tls

    def _exchange(
        self,
        method: str,
        url: str,
        body: bytes | str | None,
        headers: Mapping[str, str] | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        interruption: Interruption | None,
    ) -> Response:
        key, target = _addressed(url)
        payload = body.encode() if isinstance(body, str) else body
        connection, target = self._take(key, target, connect_timeout_s)
        try:
            with Faults(connection, url, interruption) as faults:
                faults.sock.settimeout(read_timeout_s)
                answer = connection.exchange(
                    method, target, _host_of(key), payload, headers or {}, limit_bytes=MAX_ANSWER_BYTES
                )
        except Interrupted:
            raise
        except TransportError:
            self._drop_idle(key)  # they are as old, and who tries again should not meet the same end on each of them
            raise
        if len(answer.content) > MAX_ANSWER_BYTES:
            connection.close()
            raise TransportError(f"{shown(url)} answered with more than {MAX_ANSWER_BYTES} bytes")
        if answer.ends:
            connection.close()
        else:
            self._give_back(key, connection)
        return Response(answer.status, answer.headers, answer.content, url)

    def _take(self, key: Peer, target: str, connect_timeout_s: float) -> tuple[Connection, str]:
        """A connection that is open, and the target to name on it (a whole address through a plain proxy)."""
        scheme, host, port = key
        proxy = _proxy_for(scheme, host)
        address = f"{scheme}://{_bracketed(host)}:{port}{target}" if proxy and scheme == "http" else target
        while True:
            with self._lock:
                entries = self._idle.get(key)
                entry = entries.pop() if entries else None
            if entry is None:
                return self._open(key, proxy, connect_timeout_s), address
            since, connection = entry
            if time.monotonic() - since < MAX_IDLE_S and _is_quiet(connection):
                return connection, address
            connection.close()

    def _open(self, key: Peer, proxy: SplitResult | None, timeout_s: float) -> Connection:
        scheme, host, port = key
        peer = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
        connection: Connection
        if scheme == "https":
            connection = TlsConnection(*peer, timeout=timeout_s, context=self.tls_context())
            if proxy:
                connection.set_tunnel(host, port, headers=_proxy_credentials(proxy))
        else:
            connection = Connection(*peer, timeout=timeout_s)
        try:
            connection.connect()
            _notice_dead_peers(connection.sock)
        except ssl.SSLError as fault:
            connection.close()
            raise ConnectFailed(f"{host}:{port} has no certificate that is trusted here ({fault.reason})") from fault
        except OSError as fault:
            connection.close()
            cause = fault.strerror or str(fault) or type(fault).__name__
            raise ConnectFailed(f"{host}:{port} cannot be reached ({cause})") from fault
        return connection

    def _give_back(self, key: Peer, connection: Connection) -> None:
        with self._lock:
            entries = self._idle[key]
            if len(entries) < MAX_IDLE_PER_HOST:
                entries.append((time.monotonic(), connection))
                return
        connection.close()

    def _drop_idle(self, key: Peer) -> None:
        with self._lock:
            entries = self._idle.pop(key, [])
        for _, connection in entries:
            connection.close()

    def _forget(self) -> None:
        """In a forked child: the sockets belong to the parent, and its lock may have been held."""
        self._lock = threading.Lock()
        self._idle = defaultdict(list)


def _notice_dead_peers(sock: socket.socket) -> None:
    """A long poll waits for minutes in silence; keep-alive probes end it within 40 s when its peer is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds_or_count in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # absent on some systems, whose own defaults then hold
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds_or_count)


def _addressed(url: str) -> tuple[Peer, str]:
    """The peer, and what to ask it for."""
    scheme, _, rest = url.partition("://")
    place, slash, target = rest.partition("/")
    if not slash or "#" in target or "?" in place:
        parts = urlsplit(url)
        place, target = parts.netloc, f"{parts.path[1:]}?{parts.query}" if parts.query else parts.path[1:]
    return _peer(scheme, place), f"/{target}"


@lru_cache(maxsize=256)
def _peer(scheme: str, place: str) -> Peer:
    parts = _split(f"{scheme}://{place}")
    return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]


def _host_of(peer: Peer) -> str:
    """The Host header."""
    scheme, host, port = peer
    return _bracketed(host) if port == DEFAULT_PORTS[scheme] else f"{_bracketed(host)}:{port}"


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{shown(url)} is no http or https address")
    return parts


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """False when the peer closed the idle connection, or sent what nobody asked for."""
    sock = connection.sock
    if sock is None:
        return False
    try:
        if hasattr(select, "poll"):  # select() fails on descriptors above 1023
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            return not poller.poll(0)
        return not select.select([sock], [], [], 0)[0]
    except (OSError, ValueError):
        return False


def _proxy_for(scheme: str, host: str) -> SplitResult | None:
    """The proxy that the environment names for this host; loopback is never proxied."""
    if host in LOOPBACK or host.startswith("127."):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(pair.encode()).decode("ascii")}


POOL = ConnectionPool()
"""The process's one pool."""
