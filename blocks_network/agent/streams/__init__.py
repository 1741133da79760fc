"""The provider's streams: their set-up with the network, streams that tasks share, and what handlers hold of them.

streams = AgentStreams(agent_name, card, max_running_time_s=..., fail_task=..., changed=...)   one for an instance
mine = streams.of(run)                  a task's own: TaskStreams
mine.create_stream(...)                 is ctx.create_stream
mine.end_all()                          before the task's artifacts and terminal
streams.fail_stream(stream_id, reason)  ends the stream, and every task on it as failed
streams.stop(timeout_s)                 at the instance's end
"""

from blocks_network.agent.streams.instance import AgentStreams
from blocks_network.agent.streams.objects import ExternalStreamObject, OnActivateCallback, StreamObject
from blocks_network.agent.streams.registry import StreamEntry, StreamRegistry
from blocks_network.agent.streams.task import TaskStreams

__all__ = [
    "AgentStreams",
    "ExternalStreamObject",
    "OnActivateCallback",
    "StreamEntry",
    "StreamObject",
    "StreamRegistry",
    "TaskStreams",
]
