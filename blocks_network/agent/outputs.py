"""Artifacts on their way out: inside their event when they are small, else through the network's file uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blocks_network import settings
from blocks_network.agent.events import TaskEvents
from blocks_network.agent.results import Artifact
from blocks_network.agent.tasks import TaskRun
from blocks_network.transport.publisher import Publisher
from blocks_network.wire.artifacts import build_artifact_ref

__all__ = ["Outputs", "Upload"]

MAX_INLINE_BYTES = 22_000
"""What still fits, as base64 and with its envelope, into the protocol's 32 KiB, however high the limit was set."""
FLUSH_S = 60.0

Upload = Callable[[TaskRun, Artifact, str], None]
"""Stores an artifact under a file name; the network itself publishes its event. FileUploadError."""


class Outputs:
    """Publishes the artifacts of an instance's tasks."""

    def __init__(self, publisher: Publisher, upload: Upload) -> None:
        self._publisher, self._upload = publisher, upload

    def publish(self, run: TaskRun, events: TaskEvents, artifact: Artifact) -> None:
        """Inline: queued like any event. By upload: done when this returns, after every earlier event of the task."""
        limit = min(settings.ARTIFACT_INLINE_LIMIT_BYTES.read(), MAX_INLINE_BYTES)
        if len(artifact.data) > limit:
            self._publisher.wait_for(run.task_id, FLUSH_S)
            self._upload(run, artifact, safe_name(artifact.file_name) or f"{run.task_id}-artifact")
            return
        ref = build_artifact_ref(
            data=artifact.data,
            mime_type=artifact.mime_type,
            hash=f"sha256:{hashlib.sha256(artifact.data).hexdigest()}",
            file_name=safe_name(artifact.file_name),
            inline_limit=limit,
        )
        events.artifact(ref, artifact.output_id)


def safe_name(name: str | None) -> str | None:
    """The last component, without control characters, at most 255 bytes."""
    if not name:
        return None
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(char for char in last if ord(char) >= 32 and ord(char) != 127)
    return printable.encode("utf-8", "replace")[:255].decode("utf-8", "ignore") or None
