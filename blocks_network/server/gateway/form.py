"""An upload form as it arrives: its fields, then its file piece by piece, never the whole of it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

__all__ = ["FilePart", "Form", "MalformedForm"]

MAX_FIELDS = 64
MAX_FIELDS_BYTES = 64 * 1024
"""All fields before the file, names and values."""


class MalformedForm(Exception):
    """The body is no form with fields and one file, or ends before its file does."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part called `file`. Its name and type are what the sender says; the signed terms decide."""

    file_name: str
    content_type: str


class Form:
    """Reads a form once: `head` first, then `content` to its end.

    Fields after the file are not looked at, as elsewhere in the protocol.
    """

    def __init__(self, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise MalformedForm("the content type is not multipart/form-data with a boundary")
        self._chunks = chunks
        self.fields: dict[str, str] = {}
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._value = bytearray()
        self._seen_bytes = 0
        self._file: FilePart | None = None
        self._pieces: deque[bytes] = deque()
        self._file_ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                },
            )
        except FormParserError as fault:
            raise MalformedForm(str(fault)) from fault
        self._value_of_header = b""

    async def head(self) -> FilePart:
        """Reads all fields, up to the beginning of the file. MalformedForm when there is no file."""
        while self._file is None:
            if not await self._feed():
                raise MalformedForm("the form has no file")
        return self._file

    async def content(self) -> AsyncIterator[bytes]:
        """The file's bytes. MalformedForm when the form ends before them."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._file_ended:
                return
            if not await self._feed():
                raise MalformedForm("the form ends within its file")

    async def _feed(self) -> bool:
        """Reads a little more; False at the end of the body."""
        chunk = await anext(self._chunks, None)
        if chunk is None:
            return False
        try:
            self._parser.write(chunk)
        except FormParserError as fault:
            raise MalformedForm(str(fault)) from fault
        return True

    # -- called by the parser, which cuts headers and data wherever a chunk ends --------------------------------------

    def _part_begins(self) -> None:
        self._headers, self._header, self._value_of_header = {}, b"", b""
        self._name, self._value = None, bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value_of_header += data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._header.lower()] = self._value_of_header
        self._header = self._value_of_header = b""

    def _headers_end(self) -> None:
        if self._file is not None:
            return
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = _text(options.get(b"name", b""))
        if name == "file":
            self._file = FilePart(_text(options.get(b"filename", b"")), _text(self._headers.get(b"content-type", b"")))
        elif len(self.fields) >= MAX_FIELDS:
            raise MalformedForm("too many fields")
        else:
            self._name = name
            self._count(len(name))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None:
            self._count(end - start)
            self._value += data[start:end]
        elif self._file is not None and not self._file_ended:
            self._pieces.append(data[start:end])

    def _part_ends(self) -> None:
        if self._name is not None:
            self.fields.setdefault(self._name, _text(bytes(self._value)))
            self._name = None
        elif self._file is not None:
            self._file_ended = True

    def _count(self, size: int) -> None:
        self._seen_bytes += size
        if self._seen_bytes > MAX_FIELDS_BYTES:
            raise MalformedForm("the fields are too large")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
