"""What a completed task gave back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blocks_network.errors import ConfigurationError
from blocks_network.wire.artifacts import ArtifactRef, DownloadedArtifact
from blocks_network.wire.events import TaskEvent

__all__ = ["TaskResult"]


@dataclass(frozen=True)
class TaskResult:
    """A completed task: its terminal event and its artifacts. Bytes are fetched when they are asked for.

    Where a property speaks of "the" artifact it is the first one; ConfigurationError (ValueError) when there is none.
    """

    task_id: str
    event: TaskEvent
    artifacts: list[ArtifactRef]
    _download: Callable[[ArtifactRef], DownloadedArtifact] = field(repr=False, compare=False)
    _output_ids: list[str | None] = field(default_factory=list, repr=False, compare=False)

    def download(self, ref: ArtifactRef) -> DownloadedArtifact:
        """One artifact's bytes."""
        return self._download(ref)

    @property
    def data(self) -> bytes:
        """The bytes of the artifact."""
        return self.download(self._first()).data

    @property
    def text(self) -> str:
        """The artifact as UTF-8 text."""
        return self.data.decode("utf-8")

    def json(self) -> Any:
        """The artifact, parsed as JSON. ValueError when it is not JSON."""
        return json.loads(self.data)

    def output(self, output_id: str) -> ArtifactRef:
        """The artifact of one of the agent's declared outputs. KeyError when the task gave none."""
        for ref, known in zip(self.artifacts, self._output_ids, strict=False):
            if known == output_id:
                return ref
        raise KeyError(output_id)

    def _first(self) -> ArtifactRef:
        if not self.artifacts:
            raise ConfigurationError(f"task {self.task_id} completed without an artifact")
        return self.artifacts[0]
