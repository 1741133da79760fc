"""Artifacts: what a task gives back, inside its message or as a file of the network."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from blocks_network import settings
from blocks_network.errors import ConfigurationError, TransportError

__all__ = [
    "ArtifactRef",
    "check_integrity",
    "DEFAULT_MIME_TYPE",
    "DownloadedArtifact",
    "build_artifact_ref",
    "decode_inline_artifact",
    "should_inline_artifact",
]

DEFAULT_MIME_TYPE = "application/octet-stream"


@dataclass(slots=True)
class ArtifactRef:
    """Where an artifact's bytes are: `inline` in `data` (base64), or a `file` on a channel of the network."""

    kind: str = "inline"
    mime_type: str = DEFAULT_MIME_TYPE
    size: int = 0
    hash: str | None = None
    data: str | None = None
    file_name: str | None = None
    channel: str | None = None
    file_id: str | None = None
    expires_at: int | str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The wire form; what is None is left out."""
        pairs = {
            "kind": self.kind,
            "mimeType": self.mime_type,
            "size": self.size,
            "hash": self.hash,
            "data": self.data,
            "fileName": self.file_name,
            "channel": self.channel,
            "fileId": self.file_id,
            "expiresAt": self.expires_at,
        }
        return {key: value for key, value in pairs.items() if value is not None}

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> ArtifactRef:
        """Reads the wire form; absent fields take their defaults."""
        return cls(
            kind=wire.get("kind", "inline"),
            mime_type=wire.get("mimeType", DEFAULT_MIME_TYPE),
            size=wire.get("size", 0),
            hash=wire.get("hash"),
            data=wire.get("data"),
            file_name=wire.get("fileName"),
            channel=wire.get("channel"),
            file_id=wire.get("fileId"),
            expires_at=wire.get("expiresAt"),
        )


@dataclass(frozen=True, slots=True)
class DownloadedArtifact:
    """An artifact's bytes and what they are."""

    data: bytes
    mime_type: str
    file_name: str | None = None


def should_inline_artifact(size_bytes: int, inline_limit: int | None = None) -> bool:
    """True when that many bytes travel inside the message (limit inclusive)."""
    limit = settings.ARTIFACT_INLINE_LIMIT_BYTES.read() if inline_limit is None else inline_limit
    return size_bytes <= limit


def build_artifact_ref(
    *,
    data: str | bytes | bytearray | None = None,
    mime_type: str = DEFAULT_MIME_TYPE,
    size: int | None = None,
    hash: str | None = None,  # noqa: A002 - the protocol's field
    file: Mapping[str, Any] | None = None,
    file_name: str | None = None,
    inline_limit: int | None = None,
) -> dict[str, Any]:
    """The wire form of an artifact reference: inline when it fits or no `file` is given, else a file reference.

    `file` has `id`, `channel`, `name` (beats `file_name`) and `expires_at` or `expiresAt`.
    """
    raw = data.encode() if isinstance(data, str) else bytes(data or b"")
    bytes_in_all = len(raw) if size is None else size
    fits = data is not None and should_inline_artifact(bytes_in_all, inline_limit)
    inline: Literal["inline", "file"] = "inline" if file is None or fits else "file"
    ref = ArtifactRef(kind=inline, mime_type=mime_type, size=bytes_in_all, hash=hash, file_name=file_name)
    if inline == "inline":
        ref.data = base64.b64encode(raw).decode("ascii")
    elif file is not None:
        ref.channel, ref.file_id = file.get("channel"), file.get("id")
        ref.file_name = file.get("name") or file_name
        ref.expires_at = file.get("expires_at", file.get("expiresAt"))
    return ref.to_dict()


def decode_inline_artifact(ref: ArtifactRef | Mapping[str, Any]) -> DownloadedArtifact:
    """The bytes of an inline artifact; zero bytes are valid. ConfigurationError (ValueError) when it is malformed."""
    artifact = ref if isinstance(ref, ArtifactRef) else ArtifactRef.from_dict(ref)
    if artifact.kind != "inline":
        raise ConfigurationError(f"artifact of kind {artifact.kind!r} is not inline")
    if artifact.data is None:
        raise ConfigurationError("inline artifact without data")
    try:
        raw = base64.b64decode(artifact.data, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise ConfigurationError("inline artifact whose data is not base64") from fault
    return DownloadedArtifact(raw, artifact.mime_type, artifact.file_name)


def check_integrity(ref: ArtifactRef, size: int, sha256: str) -> None:
    """TransportError when the bytes (so many, of this hex digest) are not those that the reference promises."""
    if ref.hash and ref.hash.lower().startswith("sha256:") and ref.hash[7:].lower() != sha256:
        raise TransportError(f"artifact {ref.file_name or ref.file_id or ''} arrived damaged: its hash differs")
    if isinstance(ref.size, int) and ref.size > 0 and ref.size != size:
        raise TransportError(
            f"artifact {ref.file_name or ref.file_id or ''} arrived damaged: {size} bytes in place of {ref.size}"
        )
