"""One HTTP connection: a request in one segment, and an answer whose headers are read as what they are.

`http.client` writes a request's head and body apart, each of which wakes the server, and reads an answer's headers by
the parser for e-mail, which takes longer than a whole exchange on a local network. Bodies, chunked or not, and the end
of a connection stay its matter.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping

__all__ = ["Answer", "Connection", "Headers", "TlsConnection"]

MAX_HEADERS, MAX_LINE_BYTES = 100, 65_536
"""Of an answer, as `http.client` has them."""
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


class Connection(http.client.HTTPConnection):
    """One at a time: a request is sent when the answer to the one before was read."""

    response_class = Answer

    def exchange(self, method: str, target: str, host: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Sends a request, and returns the answer with its body still to be read. The connection is open.

        ValueError for what cannot be said in HTTP; else the faults of sockets, and `http.client.HTTPException`.
        """
        assert self.sock is not None
        head = _head(method, target, host, body, headers)
        if body is None or len(body) > LARGE_BYTES:
            self.sock.sendall(head)
            if body is not None:
                self.sock.sendall(body)
        else:
            self.sock.sendall(head + body)
        answer = Answer(self.sock, method=method)
        try:
            answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer


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
