"""Artifacts onto this machine: their bytes, or files with names that are safe here."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from blocks_network.errors import BlocksError, ConfigurationError, TransportError
from blocks_network.wire.artifacts import ArtifactRef, DownloadedArtifact, check_integrity, decode_inline_artifact

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["ArtifactNotSaved", "download_artifact", "fetch_into", "free_name", "safe_file_name", "save_all"]

MAX_NAME_BYTES = 255
"""What file systems allow for one path component."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?\Z", re.IGNORECASE)
_FORBIDDEN = '<>:"|?*'


def download_artifact(ref: ArtifactRef | Mapping[str, object], pubnub: PubNub | None = None) -> DownloadedArtifact:
    """An artifact's bytes, checked against its size and hash where it has them.

    ConfigurationError (ValueError) for a reference that is malformed or of an unknown kind; TransportError when the
    network does not give the file, or other bytes than it promised. `pubnub` reads the artifact's channel.
    """
    artifact = ref if isinstance(ref, ArtifactRef) else ArtifactRef.from_dict(ref)
    downloaded = decode_inline_artifact(artifact) if artifact.kind == "inline" else _download_file(artifact, pubnub)
    check = hashlib.sha256(downloaded.data)
    check_integrity(artifact, len(downloaded.data), check.hexdigest())
    return downloaded


def fetch_into(ref: ArtifactRef, target: BinaryIO, pubnub: PubNub | None) -> None:
    """Writes an artifact's bytes to `target`, large ones piece by piece. Errors as `download_artifact`."""
    if ref.kind == "inline":
        target.write(download_artifact(ref).data)
        return
    from blocks_network.api.files import download_to

    seen = _Counted(target)
    download_to(_readable(ref, pubnub), *_location(ref), seen)
    check_integrity(ref, seen.size, seen.digest.hexdigest())


def safe_file_name(name: str | None, fallback: str) -> str:
    """One path component that is harmless on every system, as close to `name` as can be; else `fallback`.

    Only the last component counts, whichever slash parts it. Control characters, drive letters, names that Windows
    keeps for devices, trailing dots and spaces, and over-long names are made safe, never refused.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    last = re.sub(r"\A[A-Za-z]:", "", last)
    kept = "".join(
        "_" if character in _FORBIDDEN else character
        for character in last
        if unicodedata.category(character)[0] != "C"  # control, format, surrogate: invisible, and a way to deceive
    )
    kept = kept.strip(" ").rstrip(". ")
    if not kept or kept.strip(".") == "":
        return fallback
    if _RESERVED.match(kept):
        kept = f"_{kept}"
    return _shortened(kept, "")


def free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name-1.ext`, `name-2.ext`, ... when it is taken; names that differ in letter case only are equal."""
    used = {other.casefold() for other in taken}
    stem, dot, extension = name.rpartition(".") if "." in name[1:] else (name, "", "")
    candidate, number = name, 0
    while candidate.casefold() in used:
        number += 1
        candidate = _shortened(stem, f"-{number}{dot}{extension}")
    return candidate


def save_into(directory: Path, name: str, ref: ArtifactRef, fetch: Callable[[ArtifactRef, BinaryIO], None]) -> Path:
    """Writes one artifact to `directory/name`, whole or not at all. A symbolic link already there is replaced, not
    followed."""
    partial = directory / f".{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as target:
            fetch(ref, target)
        partial.replace(directory / name)
    finally:
        partial.unlink(missing_ok=True)
    return directory / name


def _shortened(stem: str, ending: str) -> str:
    """`stem` cut at a character's end so that it fits with `ending`; its own extension survives where it is short."""
    extension = ""
    if not ending:
        head, dot, tail = stem.rpartition(".")
        if head and len(tail.encode()) <= 16:
            stem, extension = head, dot + tail
    room = MAX_NAME_BYTES - len((extension + ending).encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + extension + ending


def _download_file(ref: ArtifactRef, pubnub: PubNub | None) -> DownloadedArtifact:
    from io import BytesIO

    from blocks_network.api.files import download_to

    target = BytesIO()
    download_to(_readable(ref, pubnub), *_location(ref), target)
    return DownloadedArtifact(target.getvalue(), ref.mime_type, ref.file_name)


def _location(ref: ArtifactRef) -> tuple[str, str, str]:
    """(channel, file id, file name) of a file of the network."""
    if not ref.channel or not ref.file_id or not ref.file_name:
        missing = [
            n for n, v in (("channel", ref.channel), ("fileId", ref.file_id), ("fileName", ref.file_name)) if not v
        ]
        raise ConfigurationError(f"the artifact's reference has no {' and no '.join(missing)}")
    return ref.channel, ref.file_id, ref.file_name


def _readable(ref: ArtifactRef, pubnub: PubNub | None) -> PubNub:
    if ref.kind != "file":
        raise ConfigurationError(f"an artifact of kind {ref.kind!r} is unknown")
    if pubnub is None:
        raise ConfigurationError("a PubNub client is needed for an artifact that is a file of the network")
    return pubnub


class _Counted:
    """A target that knows what went through it."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> int:
        self.size += len(piece)
        self.digest.update(piece)
        return self._target.write(piece)


def save_all(refs: Sequence[ArtifactRef], directory: Path, fetch: Callable[[ArtifactRef, BinaryIO], None]) -> list[str]:
    """Writes every artifact, in order, and returns the absolute paths. `fetch` brings the bytes of one.

    One that fails does not stop the others: the first fault is raised after them, with the artifact's name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    home = directory.resolve()
    taken = [entry.name for entry in home.iterdir() if entry.is_dir() and not entry.is_symlink()]
    paths: list[str] = []
    first_fault: BlocksError | OSError | None = None
    first_name = ""
    for index, ref in enumerate(refs):
        name = free_name(safe_file_name(ref.file_name, f"artifact-{index}"), taken)
        taken.append(name)
        try:
            paths.append(str(save_into(home, name, ref, fetch)))
        except (BlocksError, OSError) as fault:
            if first_fault is None:
                first_fault, first_name = fault, ref.file_name or name
    if first_fault is not None:
        saved = f"{len(paths)} of {len(refs)} artifacts were saved"
        raise ArtifactNotSaved(
            f"artifact {first_name!r} was not saved: {first_fault} ({saved})", paths
        ) from first_fault
    return paths


class ArtifactNotSaved(TransportError):
    """At least one artifact could not be saved; its cause is `__cause__`. `paths` are those that were."""

    def __init__(self, message: str, paths: list[str]) -> None:
        super().__init__(message)
        self.paths = paths
