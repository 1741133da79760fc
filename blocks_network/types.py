"""The data classes that handlers and agent programs use."""

from blocks_network.agent.context import TaskContext
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.wire.artifacts import ArtifactRef
from blocks_network.wire.control import (
    AnyControlMessage,
    CancelTaskMessage,
    ControlMessage,
    ExpireTaskMessage,
    StartTaskMessage,
    extract_start_task_tokens,
    parse_control_message,
)
from blocks_network.wire.parts import RequestPart
from blocks_network.wire.presence import AgentInstancePresenceState

__all__ = [
    "AgentInstanceOptions",
    "AgentInstancePresenceState",
    "AnyControlMessage",
    "ArtifactRef",
    "CancelTaskMessage",
    "ControlMessage",
    "ExpireTaskMessage",
    "RequestPart",
    "StartTaskMessage",
    "TaskContext",
    "extract_start_task_tokens",
    "parse_control_message",
]
