"""Answers over HTTP: one that was read, and one that is still to be read."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from typing import Any

from blocks_network import jsontext
from blocks_network.errors import TransportError
from blocks_network.transport.faults import Faults

__all__ = ["MAX_ANSWER_BYTES", "PIECE_BYTES", "Response", "StreamedResponse"]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of an answer that is read whole. Downloads are streamed instead."""
PIECE_BYTES = 256 * 1024
"""What is read at once of an answer that is not read whole."""


class Response:
    """A whole answer. The pubnub library reads `status_code`, `headers`, `content`, `text` and `json()` of it."""

    __slots__ = ("content", "headers", "status_code", "url")

    def __init__(self, status_code: int, headers: Mapping[str, str], content: bytes, url: str) -> None:
        self.status_code, self.headers, self.content, self.url = status_code, headers, content, url

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The parsed body; ValueError when it is not JSON."""
        return jsontext.decode(self.content)


class StreamedResponse:
    """An answer whose content is still to be read: `status_code` and `headers` as of `Response`."""

    def __init__(self, answer: http.client.HTTPResponse, faults: Faults) -> None:
        self._answer, self._faults = answer, faults
        self.status_code: int = answer.status
        self.headers = answer.headers

    def set_timeout(self, read_timeout_s: float) -> None:
        """For each further step."""
        self._faults.sock.settimeout(read_timeout_s)

    def pieces(self) -> Iterator[bytes]:
        """The content, once, in its order. TransportError when the connection ends before it does."""
        left = self._answer.length
        while True:
            with self._faults:
                piece = self._answer.read(PIECE_BYTES)
                if not piece and left:
                    raise http.client.IncompleteRead(b"", left)
            if not piece:
                return
            left = None if left is None else left - len(piece)
            yield piece

    def lines(self) -> Iterator[bytes]:
        """The content as lines without their ends, each as soon as it is there. TransportError as of `pieces`."""
        begun: list[bytes] = []
        size = 0
        while True:
            with self._faults:
                piece = self._answer.read1(PIECE_BYTES)
                if not piece and self._answer.length:
                    raise http.client.IncompleteRead(b"", self._answer.length)
            if not piece:
                break
            first, *others = piece.split(b"\n")
            begun.append(first)
            size += len(first)
            if size > MAX_ANSWER_BYTES:
                raise TransportError(f"a line of more than {MAX_ANSWER_BYTES} bytes was answered")
            if others:
                yield b"".join(begun)
                yield from others[:-1]
                begun, size = [others[-1]], len(others[-1])
        self._answer.read()  # so that it knows its end, and the connection is used again
        if size:
            yield b"".join(begun)

    def head(self, limit_bytes: int = 64 * 1024) -> bytes:
        """At most that much of the content: what an error answer says."""
        with self._faults:
            return self._answer.read(limit_bytes)
