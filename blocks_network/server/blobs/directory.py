"""Blobs in a directory: one file a blob, its content first and a footer that describes it at its end.

    DIR/incoming/...                what writers have not committed; cleared at the start
    DIR/objects/ab/cdef.../<id>     a blob; its place is the digest of its folder's name, so no name becomes a path

One file, because one rename then makes content and description visible together, also when the process is killed.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from blocks_network.server.blobs import BLOB_ID, Blob, BlobClash, BlobsFull, BlobTooLarge

__all__ = ["DirectoryBlobs"]

log = logging.getLogger(__name__)
T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
"""What goes to or comes from the disk at once: large enough that changing threads costs nearly nothing."""
THREADS = 4
FOOTER_BYTES = 64 * 1024
"""A footer larger than this was not written here."""
_TAIL = struct.Struct(">I4s")
_MAGIC = b"blk1"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DirectoryBlobs:
    """`path` None takes a temporary directory that goes with `stop`. `capacity_bytes` bounds all blobs together."""

    def __init__(self, path: Path | None = None, *, capacity_bytes: int | None = None) -> None:
        self._path, self._capacity = path, capacity_bytes
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._placing = threading.Lock()
        """Held while a blob appears under its id or goes; never while content is read or written."""
        self._writers: set[_Writer] = set()
        """Those that have not ended."""
        self.used_bytes = 0
        """What lies in the store, together with what writers have taken so far. Belongs to the loop."""

    async def start(self) -> None:
        if self._threads is not None:
            return
        if self._path is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="blocks-blobs-")
        root = Path(self._temporary.name) if self._temporary is not None else self._path
        assert root is not None
        self._incoming, self._objects = root / "incoming", root / "objects"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blocks-blobs")
        self.used_bytes = await self.run(self._tidy)

    async def stop(self) -> None:
        for writer in tuple(self._writers):
            await writer.abort()
        threads, self._threads = self._threads, None
        if threads is None:
            return
        await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    async def open(
        self, folder: str, blob_id: str, *, limit_bytes: int, attributes: Mapping[str, str] | None = None
    ) -> _Writer:
        target = self._place(folder, blob_id)
        if target is None:
            raise ValueError(f"{blob_id!r} is no blob id")
        draft = self._incoming / secrets.token_hex(16)
        file = await self.run(_create, draft)
        description = {"folder": folder, "id": blob_id, "attributes": dict(attributes or {})}
        writer = _Writer(self, file, draft, target, description, limit_bytes)
        self._writers.add(writer)
        return writer

    async def find(self, folder: str, blob_id: str) -> Blob | None:
        place = self._place(folder, blob_id)
        return None if place is None else await self.run(_described, place)

    async def read(self, blob: Blob, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        place = self._place(blob.folder, blob.blob_id)
        if place is None:
            raise LookupError(f"{blob.blob_id!r} is no blob id")
        left = max(0, blob.size - start) if length is None else max(0, min(length, blob.size - start))
        file = await self.run(_open_at, place, start)
        try:
            while left:
                chunk = await self.run(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"blob {blob.blob_id} ends {left} bytes too early")
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def delete(self, folder: str, blob_id: str) -> bool:
        place = self._place(folder, blob_id)
        freed = None if place is None else await self.run(self._remove, place)
        self.used_bytes -= freed or 0
        return freed is not None

    async def list(self, folder: str, *, limit: int, after: str | None = None) -> Sequence[Blob]:
        return await self.run(_listed, self._folder(folder), limit, after or "")

    # -- for its writers --------------------------------------------------------------------------------------------

    async def run(self, fn: Callable[..., T], *args: Any) -> T:
        """Runs on a thread of the store, to its end even when the caller is cancelled."""
        if self._threads is None:
            raise RuntimeError("the blobs are not open")
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, fn, *args))

    def take(self, size: int) -> None:
        """Reserves room. BlobsFull when there is none."""
        if self._capacity is not None and self.used_bytes + size > self._capacity:
            raise BlobsFull(f"the files of this network may take {self._capacity} bytes in all")
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        self.used_bytes -= size

    def forget(self, writer: _Writer) -> None:
        self._writers.discard(writer)

    def place(self, draft: Path, target: Path) -> bool:
        """On a thread: makes a finished draft visible. False when the same blob is there already."""
        with self._placing:
            before = _described(target)
            if before is not None:
                ours = _described(draft)
                if ours is None or (ours.size, ours.sha256) != (before.size, before.sha256):
                    raise BlobClash(f"blob {target.name} holds other bytes")
                return False
            made = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.replace(target)
        for folder in {target.parent, *(folder.parent for folder in made)}:
            _sync_folder(folder)
        return True

    # -- the disk, on its threads ------------------------------------------------------------------------------------

    def _tidy(self) -> int:
        """Clears drafts away and counts what lies in the store."""
        for folder in (self._incoming, self._objects):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self._incoming.iterdir():
            log.info("an upload that did not end is cleared away: %s", draft.name)
            draft.unlink()
        return sum(file.stat().st_size for file in self._objects.glob("*/*/*"))

    def _remove(self, place: Path) -> int | None:
        with self._placing:
            try:
                size = place.stat().st_size
                place.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return None
        _sync_folder(place.parent)
        return size

    def _folder(self, folder: str) -> Path:
        digest = hashlib.sha256(folder.encode("utf-8", "surrogatepass")).hexdigest()
        return self._objects / digest[:2] / digest[2:42]

    def _place(self, folder: str, blob_id: str) -> Path | None:
        """Where a blob lies; None for what is no id."""
        return self._folder(folder) / blob_id if BLOB_ID.match(blob_id) else None


class _Writer:
    """One blob on its way to the disk. One caller at a time, as the gateway's requests are."""

    def __init__(
        self,
        blobs: DirectoryBlobs,
        file: IO[bytes],
        draft: Path,
        target: Path,
        description: dict[str, Any],
        limit_bytes: int,
    ) -> None:
        self._blobs, self._file, self._draft, self._target = blobs, file, draft, target
        self._description, self._limit = description, limit_bytes
        self._digest = hashlib.sha256()
        self._size = self._taken = self._waiting_bytes = 0
        self._waiting: list[bytes] = []
        self._on_disk = asyncio.Lock()
        """Held over every step on a thread, so that `abort` comes after a step whose caller was cancelled."""
        self._ended = False

    async def write(self, chunk: bytes) -> None:
        if self._size + len(chunk) > self._limit:
            raise BlobTooLarge(f"more than {self._limit} bytes")
        self._take(len(chunk))
        self._size += len(chunk)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= CHUNK_BYTES:
            await self._step(self._flush, self._gathered())

    async def commit(self) -> Blob:
        await self._step(self._flush, self._gathered())
        blob = Blob(
            folder=self._description["folder"],
            blob_id=self._description["id"],
            size=self._size,
            sha256=self._digest.hexdigest(),
            created_at_ms=int(time.time() * 1000),
            attributes=self._description["attributes"],
        )
        footer = _footer(blob)
        self._take(len(footer))
        new = await self._step(self._finish, footer)
        self._ended = True
        self._blobs.forget(self)
        if not new:
            self._blobs.give_back(self._taken)
            known = await self._blobs.find(blob.folder, blob.blob_id)
            return known or blob
        return blob

    async def abort(self) -> None:
        async with self._on_disk:  # a step may still run whose caller was cancelled
            if self._ended:
                return
            self._ended = True
            self._blobs.forget(self)
            taken, self._taken = self._taken, 0
            self._blobs.give_back(taken)
            await self._blobs.run(self._discard)

    async def _step(self, fn: Callable[..., T], *args: Any) -> T:
        async def held() -> T:
            async with self._on_disk:
                return await self._blobs.run(fn, *args)

        try:
            return await asyncio.shield(asyncio.ensure_future(held()))
        except OSError as fault:
            if fault.errno in _NO_ROOM:
                raise BlobsFull("the disk is full") from fault
            raise

    def _take(self, size: int) -> None:
        self._blobs.take(size)
        self._taken += size

    def _gathered(self) -> list[bytes]:
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return chunks

    def _flush(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)
            self._file.write(chunk)

    def _finish(self, footer: bytes) -> bool:
        """True when the blob is new; False when it was there already, and the draft is gone."""
        self._file.write(footer)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        new = self._blobs.place(self._draft, self._target)
        if not new:
            self._draft.unlink()
        return new

    def _discard(self) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)


def _footer(blob: Blob) -> bytes:
    text = json.dumps(
        {
            "folder": blob.folder,
            "id": blob.blob_id,
            "size": blob.size,
            "sha256": blob.sha256,
            "createdAtMs": blob.created_at_ms,
            "attributes": dict(blob.attributes),
        }
    ).encode()
    if len(text) > FOOTER_BYTES:
        raise ValueError("the attributes of a blob are too long")
    return text + _TAIL.pack(len(text), _MAGIC)


def _described(place: Path) -> Blob | None:
    """What a file's footer says; None when there is no such file, or it is damaged."""
    try:
        with place.open("rb") as file:
            whole = file.seek(0, os.SEEK_END)
            file.seek(max(0, whole - _TAIL.size))
            length, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or length > FOOTER_BYTES:
                raise ValueError("no footer")
            file.seek(whole - _TAIL.size - length)
            said = json.loads(file.read(length))
        if said["size"] != whole - _TAIL.size - length:
            raise ValueError("not as long as its footer says")
        return Blob(said["folder"], said["id"], said["size"], said["sha256"], said["createdAtMs"], said["attributes"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, struct.error) as fault:
        log.error("the file %s of the blobs is damaged: %s", place, fault)
        return None


def _listed(folder: Path, limit: int, after: str) -> list[Blob]:
    try:
        ids = sorted(name for name in os.listdir(folder) if name > after and BLOB_ID.match(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[Blob] = []
    for blob_id in ids:
        if len(found) == limit:
            break
        blob = _described(folder / blob_id)
        if blob is not None:
            found.append(blob)
    return found


def _create(draft: Path) -> IO[bytes]:
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    return os.fdopen(descriptor, "wb", buffering=CHUNK_BYTES)


def _open_at(place: Path, start: int) -> IO[bytes]:
    try:
        file = place.open("rb")
    except FileNotFoundError:
        raise LookupError(f"blob {place.name} is gone") from None
    file.seek(start)
    return file


def _sync_folder(folder: Path) -> None:
    """Makes names durable, where the system knows how to."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
