"""One HTTP connection: a request in one segment, and an answer whose headers are read as what they are.

`http.client` writes a request's head and body apart, each of which wakes the server, and reads an answer's headers by
the parser for e-mail, which takes longer than a whole exchange on a local network. Bodies, chunked or not, and the end
of a connection stay its matter.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Connection", "Exchanged", "Headers", "TlsConnection"]

MAX_HEADERS, MAX_LINE_BYTES = 100, 65_536
"""Of an answer, as `http.client` has them."""
READ_BYTES = 64 * 1024
"""What is read at first of an answer: all of it, mostly."""
LARGE_BYTES = 64 * 1024
"""A larger body is not copied to stand behind its head."""
_UNUSABLE = re.compile(r"[\x00-\x20\x7f]").search
_HAVE_BODIES = frozenset({"PATCH", "POST", "PUT"})


class Headers(dict[str, str]):
    """An answer's headers, found whatever the case of their names. Several of one name are one, joined by commas."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower(), default)


class Answer(http.client.HTTPResponse):
    """As the library's, and `headers` are `Headers`."""

    def begin(self) -> None:
        """Reads the head."""
        if getattr(self, "headers", None) is not None:
            return
        while True:
            version, status, reason = self._read_status()  # type: ignore[attr-defined]
            headers = self._read_headers()
            if status >= 200 or status == http.client.SWITCHING_PROTOCOLS:
                break  # else it only says that the answer is to come
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.headers = self.msg = headers  # type: ignore[assignment]
        self.chunked = (headers.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = None if self.chunked else _length_of(headers)
        if status in (204, 304) or status < 200 or self._method == "HEAD":  # type: ignore[attr-defined]
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _read_headers(self) -> Headers:
        headers = Headers()
        for _ in range(MAX_HEADERS + 1):
            line = self.fp.readline(MAX_LINE_BYTES + 1)
            if len(line) > MAX_LINE_BYTES:
                raise http.client.LineTooLong("header line")
            if line in (b"\r\n", b"\n", b""):
                return headers
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        raise http.client.HTTPException(f"got more than {MAX_HEADERS} headers")


def _length_of(headers: Headers) -> int | None:
    length = headers.get("content-length") or ""
    return int(length) if length.isascii() and length.isdigit() else None


@dataclass(slots=True)
class Exchanged:
    """An answer, read. With `ends` the connection is of no further use."""

    status: int
    headers: Headers
    content: bytes
    ends: bool


class Connection(http.client.HTTPConnection):
    """One at a time: a request is sent when the answer to the one before was read."""

    response_class = Answer

    def exchange(
        self, method: str, target: str, host: str, body: bytes | None, headers: Mapping[str, str], *, limit_bytes: int
    ) -> Exchanged:
        """Sends a request and reads its answer, of the content one byte more than the limit at the most.

        The connection is open. ValueError for what cannot be said in HTTP; else the faults of sockets, and
        `http.client.HTTPException`.
        """
        assert self.sock is not None
        head = _head(method, target, host, body, headers)
        if body is None or len(body) > LARGE_BYTES:
            self.sock.sendall(head)
            if body is not None:
                self.sock.sendall(body)
        else:
            self.sock.sendall(head + body)
        first = self.sock.recv(READ_BYTES)
        return _in_one_piece(first) or self._read(method, first, limit_bytes)

    def _read(self, method: str, first: bytes, limit_bytes: int) -> Exchanged:
        assert self.sock is not None
        answer = Answer(_Begun(self.sock, first), method=method)  # type: ignore[arg-type]  # all that it uses of one
        with closing(answer):
            answer.begin()
            content = answer.read(limit_bytes + 1)
            if answer.length and len(content) <= limit_bytes:
                raise http.client.IncompleteRead(content, answer.length)
        return Exchanged(answer.status, answer.headers, content, answer.will_close)  # type: ignore[arg-type]


_PLAIN = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [^\r\n]*\r\n").match
_NOT_PLAIN = frozenset({"transfer-encoding", "connection"})


def _in_one_piece(first: bytes) -> Exchanged | None:
    """What nearly every answer is: all there, with a length, and the connection goes on. None for any other."""
    line = _PLAIN(first)
    end = first.find(b"\r\n\r\n")
    if line is None or end < line.end() or end > MAX_LINE_BYTES:
        return None
    headers = Headers()
    for field in first[line.end() : end].decode("latin-1").split("\r\n"):
        name, _, value = field.partition(":")
        name = name.strip().lower()
        if name in headers:
            return None
        headers[name] = value.strip()
    if _length_of(headers) != len(first) - end - 4 or not _NOT_PLAIN.isdisjoint(headers):
        return None
    return Exchanged(int(line[1]), headers, first[end + 4 :], False)


class _Begun(io.RawIOBase):
    """A socket of which something was read already, as an answer takes it."""

    def __init__(self, sock: socket.socket, first: bytes) -> None:
        self._sock, self._first = sock, first

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._first:
            return self._sock.recv_into(buffer)
        some = self._first[: len(buffer)]
        self._first = self._first[len(some) :]
        buffer[: len(some)] = some
        return len(some)


class TlsConnection(Connection, http.client.HTTPSConnection):
    """The same over TLS."""


def _head(method: str, target: str, host: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    if _UNUSABLE(target):
        raise ValueError("an address holds a space or a control character")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if "Accept-Encoding" not in headers:
        lines.append("Accept-Encoding: identity")
    if body is not None or method in _HAVE_BODIES:
        lines.append(f"Content-Length: {len(body or b'')}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header holds the end of a line")
    return f"{text}\r\n\r\n".encode("latin-1")
