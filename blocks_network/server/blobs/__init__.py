"""Blobs: the bytes of files and of large artifacts. A seam; `directory` is the default.

A blob lies in a folder under an id, and is there as a whole or not at all. Folders are any texts (they come from
outside: a subscribe key and a channel); ids are ours (`new_blob_id`), and what is not of their form does not exist.

Every implementation keeps these rules (tests/contract runs them over all):

1. `commit` returns after the blob is durable; whatever dies before that leaves nothing that anybody can see.
2. A blob never changes. A second commit under its id succeeds when size and content are the same, and changes nothing.
3. No method holds a blob's content in memory, and none blocks the event loop while the disk or a peer works.
4. Ids sort by the time they were made; `list` goes from old to new.
5. All methods belong to the event loop that `start` ran on.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "BLOB_ID",
    "Blob",
    "BlobClash",
    "BlobError",
    "BlobTooLarge",
    "BlobWriter",
    "Blobs",
    "BlobsFull",
    "new_blob_id",
]

BLOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


class BlobError(Exception):
    """A blob cannot be written."""


class BlobTooLarge(BlobError):
    """More bytes came than this blob may have."""


class BlobsFull(BlobError):
    """No room for it: the bound on all blobs together, or the disk."""


class BlobClash(BlobError):
    """Another content was committed under this id before."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that was committed. `sha256` is in hex; `attributes` are the writer's own and come back as they were."""

    folder: str
    blob_id: str
    size: int
    sha256: str
    created_at_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)


class BlobWriter(Protocol):
    """Takes one blob's bytes. Ends by `commit` or `abort`, the latter any number of times, also after a commit."""

    async def write(self, chunk: bytes) -> None:
        """BlobTooLarge beyond the blob's bound, BlobsFull beyond that on all: then nothing remains but to abort."""

    async def commit(self) -> Blob:
        """Makes the blob durable and visible. BlobClash when its id holds other bytes, BlobsFull without room."""

    async def abort(self) -> None:
        """Gives up what was written. Nothing after a commit."""


class Blobs(Protocol):
    """See the module's docstring for the contract."""

    async def start(self) -> None:
        """Opens the store and clears away what writers left that did not end."""

    async def stop(self) -> None:
        """Closes the store. Writers that have not ended lose what they wrote."""

    async def open(
        self, folder: str, blob_id: str, *, limit_bytes: int, attributes: Mapping[str, str] | None = None
    ) -> BlobWriter:
        """A writer for at most `limit_bytes`. ValueError for an id that is not one."""

    async def find(self, folder: str, blob_id: str) -> Blob | None:
        """The blob without its content; None when there is none."""

    def read(self, blob: Blob, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The content from byte `start`, in chunks. LookupError when the blob was deleted before the first chunk."""

    async def delete(self, folder: str, blob_id: str) -> bool:
        """True when there was one. Readers under way read on."""

    async def list(self, folder: str, *, limit: int, after: str | None = None) -> Sequence[Blob]:
        """The oldest `limit` blobs of a folder, of those with an id above `after`."""


def new_blob_id() -> str:
    """A UUID of version 7: it sorts by its time of birth (ms) and cannot be guessed (74 random bits)."""
    born = int(time.time() * 1000) & (1 << 48) - 1
    chance = secrets.randbits(74)
    number = born << 80 | 0x7 << 76 | (chance >> 62) << 64 | 0b10 << 62 | chance & (1 << 62) - 1
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
