"""Files between this machine and the network, in pieces: downloads by reference, uploads by form."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import quote

from pubnub.endpoints.file_operations.get_file_url import GetFileDownloadUrl

from blocks_network.errors import AccessDeniedError, ConfigurationError, TransportError
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import call
from blocks_network.transport.responses import PIECE_BYTES
from blocks_network.wire.artifacts import ArtifactRef, check_integrity

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["MAX_FILE_BYTES", "Content", "Progress", "Target", "download_file", "download_to", "post_form", "size_of"]

MAX_FILE_BYTES = 1024 * 1024 * 1024
"""A download beyond it is given up: no network of the protocol takes a larger file."""
READ_TIMEOUT_S = 120.0

Content = bytes | bytearray | memoryview | Path
Progress = Callable[[int, int], object]
"""A file's bytes, or where they are: a path is read while it is sent."""


class Target(Protocol):
    """Where a download goes: an open file, or anything else with its `write`."""

    def write(self, piece: bytes, /) -> object: ...


def download_file(client: PubNub, ref: ArtifactRef) -> bytes:
    """The bytes that a `file` reference stands for, checked against its size and hash where it has them.

    ConfigurationError (ValueError) when the reference lacks a field; else as `download_to`.
    """
    if not ref.channel or not ref.file_id or not ref.file_name:
        raise ConfigurationError("a file's reference needs channel, fileId and fileName")
    sized = isinstance(ref.size, int) and ref.size > 0  # 0 is also what a reference without a size says
    target = io.BytesIO()
    download_to(
        client, ref.channel, ref.file_id, ref.file_name, target, limit_bytes=ref.size if sized else MAX_FILE_BYTES
    )
    raw = target.getvalue()
    check_integrity(ref, len(raw), hashlib.sha256(raw).hexdigest())
    return raw


def download_to(
    client: PubNub, channel: str, file_id: str, file_name: str, target: Target, *, limit_bytes: int = MAX_FILE_BYTES
) -> int:
    """Writes a file of the network to `target` as it comes, and returns its size. What `target` raises comes through.

    AccessDeniedError when the client's token may not read the channel; TransportError when the file does not exist,
    is larger than `limit_bytes`, or does not come whole.
    """
    address = _address_of(client, channel, file_id, file_name)
    size = 0
    with POOL.stream("GET", address, read_timeout_s=READ_TIMEOUT_S) as answer:
        if answer.status_code != 200:
            said = answer.head().decode("utf-8", "replace")
            if answer.status_code == 403:
                raise AccessDeniedError(f"the network does not give file {file_name} out", body=said)
            raise TransportError(f"file {file_name} was answered with HTTP {answer.status_code}: {said[:200]}")
        for piece in answer.pieces():
            size += len(piece)
            if size > limit_bytes:
                raise TransportError(f"file {file_name} has more than the {limit_bytes} bytes that it should have")
            target.write(piece)
    return size


def _address_of(client: PubNub, channel: str, file_id: str, file_name: str) -> str:
    """The signed address of the content. The library puts the name into its path as it is, so it goes in encoded."""
    wanted = GetFileDownloadUrl(client).channel(channel).file_id(quote(file_id, safe=""))
    return str(call(wanted.file_name(quote(file_name, safe=""))).file_url)


def post_form(
    url: str,
    fields: Sequence[tuple[str, str]],
    content: Content,
    *,
    file_name: str,
    mime_type: str,
    on_progress: Progress | None = None,
) -> tuple[int, str]:
    """Posts a form with its file last, streamed. The HTTP status and the head of what was answered.

    `on_progress(sent, size)` is told, in bytes of the file, before each piece and at the end. TransportError when there
    was no answer; OSError when a path cannot be read.
    """
    boundary = f"blocks{secrets.token_hex(16)}"
    head = (
        b"".join(_part(boundary, name, value) for name, value in fields)
        + (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_escaped(file_name)}"\r\n'
            f"Content-Type: {_one_line(mime_type)}\r\n\r\n"
        ).encode()
    )
    tail = f"\r\n--{boundary}--\r\n".encode()
    with _Source(content, on_progress) as source:
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + source.size + len(tail)),
        }
        body = _body(head, source, tail)
        try:
            with POOL.stream("POST", url, body=body, headers=headers, read_timeout_s=READ_TIMEOUT_S) as answer:
                return answer.status_code, answer.head().decode("utf-8", "replace")
        except TransportError:
            if source.fault is not None:
                raise source.fault from None
            raise


def size_of(content: Content) -> int:
    """In bytes. OSError for a path that cannot be read."""
    if isinstance(content, Path):
        return content.stat().st_size
    return memoryview(content).nbytes


class _Source:
    """Bytes or an open file of a size that was read once."""

    def __init__(self, content: Content, on_progress: Progress | None = None) -> None:
        self._on_progress = on_progress
        self._file: BinaryIO = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
        self.size = os.fstat(self._file.fileno()).st_size if isinstance(content, Path) else memoryview(content).nbytes
        self.fault: OSError | None = None
        """Kept here, because the connection takes an OSError for its own."""

    def pieces(self) -> Iterator[bytes]:
        left = self.size
        while left:
            try:
                piece = self._file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise OSError(f"the file became {left} bytes shorter while it was sent")
            except OSError as fault:
                self.fault = fault
                raise
            self._tell(self.size - left)
            left -= len(piece)
            yield piece
        self._tell(self.size)

    def _tell(self, sent: int) -> None:
        if self._on_progress is not None:
            self._on_progress(sent, self.size)

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _body(head: bytes, source: _Source, tail: bytes) -> Iterator[bytes]:
    yield head
    yield from source.pieces()
    yield tail


def _part(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{_escaped(name)}"\r\n\r\n{value}\r\n'.encode()


def _escaped(name: str) -> str:
    """A name in a part's header, as browsers write it."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _one_line(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
