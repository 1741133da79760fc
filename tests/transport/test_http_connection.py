"""What a connection writes and reads, against a server that says exactly what a test wants."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from blocks_network.errors import TransportError
from blocks_network.transport.connection import Connection
from blocks_network.transport.faults import Interrupted, Interruption
from blocks_network.transport.http import ConnectionPool

DEADLINE_S = 10.0


class Peer:
    """Takes connections one after another; each request is answered with the next of `answers`."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with closing(sock):
                while request := self._whole(sock):
                    self.requests.append(request)
                    answer = self.answers.pop(0)
                    sock.sendall(answer)
                    if b"close" in answer.partition(b"\r\n\r\n")[0]:
                        break

    def _whole(self, sock: socket.socket) -> bytes:
        """One request; empty at the end of the connection."""
        request = b""
        while data := sock.recv(1 << 20):
            request += data
            head, end, body = request.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if end and len(body) >= int(length[1] if length else 0):
                return request
        return b""

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(DEADLINE_S)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def pool(peer: Peer) -> Iterator[ConnectionPool]:
    made = ConnectionPool()
    yield made
    made.close_idle()


@pytest.fixture
def ask(peer: Peer, pool: ConnectionPool) -> Callable[..., tuple[int, bytes]]:
    def call(answer: bytes, method: str = "GET", path: str = "/x", **given: object) -> tuple[int, bytes]:
        peer.answers.append(answer)
        response = pool.request(method, f"http://127.0.0.1:{peer.port}{path}", read_timeout_s=DEADLINE_S, **given)  # type: ignore[arg-type]
        return response.status_code, response.content

    return call


Ask = Callable[..., tuple[int, bytes]]
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_request_is_one_segment_with_what_http_demands(peer: Peer, ask: Ask) -> None:
    assert ask(PLAIN, "POST", "/a?b=c", body=b"{}", headers={"X-One": "1"}) == (200, b"ok")
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a?b=c HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}" in lines
    assert {"X-One: 1", "Content-Length: 2", "Accept-Encoding: identity"} < set(lines)
    assert body == b"{}"


@pytest.mark.parametrize(("method", "said"), [("GET", False), ("DELETE", False), ("POST", True), ("PUT", True)])
def test_only_methods_that_have_a_body_say_that_theirs_is_empty(peer: Peer, ask: Ask, method: str, said: bool) -> None:
    ask(PLAIN, method)
    assert (b"Content-Length: 0" in peer.requests[0]) is said


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\nContent-Length:2\n\nok", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN, b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall until the end", b"all until the end"),
        (b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_every_way_to_end_an_answer_is_understood(ask: Ask, answer: bytes, content: bytes) -> None:
    assert ask(answer)[1] == content
    assert ask(PLAIN) == (200, b"ok")  # and what comes next is not confused with it


def test_headers_are_found_in_any_case_and_repeated_ones_are_joined(peer: Peer, pool: ConnectionPool) -> None:
    peer.answers.append(b"HTTP/1.1 200 OK\r\nX-a: 1\r\nx-A:  2 \r\ncontent-LENGTH: 0\r\n\r\n")
    headers = pool.request("GET", f"http://127.0.0.1:{peer.port}/").headers
    assert (headers.get("X-A"), headers["x-a"], "X-a" in headers, "b" in headers) == ("1, 2", "1, 2", True, False)
    assert headers.get("absent", "none") == "none"


def test_a_connection_serves_again_unless_the_answer_ends_it(peer: Peer, ask: Ask) -> None:
    for _ in range(3):
        ask(PLAIN)
    assert peer.connections == 1
    ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    ask(PLAIN)
    assert peer.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nclose: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"close: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99\r\n\r\nless",
    ],
)
def test_what_is_no_whole_answer_is_a_fault_of_the_connection(ask: Ask, answer: bytes) -> None:
    with pytest.raises(TransportError):
        ask(answer)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb"])
def test_nothing_can_be_smuggled_through_a_header(peer: Peer, ask: Ask, value: str) -> None:
    with pytest.raises(ValueError, match="end of a line"):
        ask(PLAIN, headers={"X-One": value})
    assert peer.requests == []


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: 1", "/\x7f"])
def test_nothing_can_be_smuggled_through_an_address(peer: Peer, path: str) -> None:
    connection = Connection("127.0.0.1", peer.port)
    connection.connect()
    with closing(connection), pytest.raises(ValueError, match="address"):
        connection.exchange("GET", path, "host", None, {}, limit_bytes=1)
    assert peer.requests == []


def test_a_large_body_arrives_whole(peer: Peer, ask: Ask) -> None:
    body = bytes(range(256)) * 4_000
    assert ask(PLAIN, "POST", body=body) == (200, b"ok")
    assert peer.requests[0].partition(b"\r\n\r\n")[2] == body


def test_an_interrupted_request_sends_nothing(peer: Peer, pool: ConnectionPool) -> None:
    interruption = Interruption()
    interruption.interrupt()
    with pytest.raises(Interrupted):
        pool.request("GET", f"http://127.0.0.1:{peer.port}/", interruption=interruption)
    assert peer.requests == []
