"""A task as its caller follows it."""

from blocks_network.consumer.delivery import CallbackErrorContext
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import StreamUnavailableError, TaskCanceled, TaskFailed
from blocks_network.stream.refs import StreamRef
from blocks_network.wire.artifacts import ArtifactRef, DownloadedArtifact
from blocks_network.wire.events import TaskEvent

__all__ = [
    "ArtifactRef",
    "CallbackErrorContext",
    "DownloadedArtifact",
    "StreamRef",
    "StreamUnavailableError",
    "TaskCanceled",
    "TaskEvent",
    "TaskFailed",
    "TaskResult",
    "TaskSession",
]
