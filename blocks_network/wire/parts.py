"""Request parts: what a caller gives an agent to work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks_network.wire.artifacts import ArtifactRef

__all__ = ["RequestPart"]

_FIELDS = ("partId", "text", "contentType", "artifactRef")


@dataclass(slots=True)
class RequestPart:
    """One part of a request: a text, or a file by reference. Unknown wire keys live in `extra` and travel on."""

    part_id: str | None = None
    text: str | None = None
    content_type: str | None = None
    artifact_ref: ArtifactRef | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        wire: dict[str, Any] = {}
        if self.part_id is not None:
            wire["partId"] = self.part_id
        if self.text is not None:
            wire["text"] = self.text
        if self.content_type is not None:
            wire["contentType"] = self.content_type
        if self.artifact_ref is not None:
            wire["artifactRef"] = self.artifact_ref.to_dict()
        return {**wire, **self.extra}

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> RequestPart:
        ref = wire.get("artifactRef")
        return cls(
            part_id=wire.get("partId"),
            text=wire.get("text"),
            content_type=wire.get("contentType"),
            artifact_ref=ArtifactRef.from_dict(ref) if isinstance(ref, Mapping) else None,
            extra={key: value for key, value in wire.items() if key not in _FIELDS},
        )
