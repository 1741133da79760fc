"""What a consumer knows of a stream before it opens it, read from the network's announcement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from blocks_network.wire.setup import (
    AFFINITIES,
    DIRECTIONS,
    FORMATS,
    Affinity,
    Direction,
    Format,
    invert_direction,
    stream_channel,
    validate_stream_id,
)

__all__ = ["StreamDescriptor", "descriptors_of", "invert_direction"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamDescriptor:
    """`agent_direction` is the agent's, `local_direction` the consumer's: the inverse. `token` opens the channel."""

    task_id: str
    stream_id: str
    agent_name: str
    channel: str
    token: str = field(repr=False)
    agent_direction: Direction
    local_direction: Direction
    format: Format
    affinity: Affinity
    metadata: Mapping[str, Any] | None = None
    declared_stream: str | None = None


def descriptors_of(event: Mapping[str, Any], agent_name: str, task_id: str | None = None) -> list[StreamDescriptor]:
    """The streams that a `stream_started` event announces; empty for every other event.

    An entry that cannot be used is left out with a warning, the others count. `agent_name` is the task's agent (""
    when unknown: channels are then not compared with it); `task_id` stands in where the event has none.
    """
    entries = event.get("streams")
    if event.get("streamEvent") != "stream_started" or not isinstance(entries, Mapping):
        return []
    declared = event.get("declaredStream")
    of_task = event.get("taskId") if isinstance(event.get("taskId"), str) else task_id
    found = []
    for stream_id, entry in entries.items():
        try:
            found.append(
                _descriptor(
                    str(stream_id), entry, agent_name, of_task or "", declared if isinstance(declared, str) else None
                )
            )
        except ValueError as fault:
            log.warning("stream %s of task %s is passed over: %s", stream_id, of_task, fault)
    return found


def _descriptor(
    stream_id: str, entry: object, agent_name: str, task_id: str, declared_stream: str | None
) -> StreamDescriptor:
    if not isinstance(entry, Mapping):
        raise ValueError("its entry is not an object")
    validate_stream_id(stream_id)
    channel, token = entry.get("channel"), entry.get("token")
    if not isinstance(channel, str) or not isinstance(token, str):
        raise ValueError("it has no channel or no token")
    named = agent_name or (channel.split(".")[1] if channel.count(".") == 2 else "")
    if channel != stream_channel(named, stream_id):
        raise ValueError(f"channel {channel} is not that of agent {named} and this stream")
    direction = cast(Direction, _choice(entry, "direction", DIRECTIONS, default="outbound"))
    metadata = entry.get("metadata")
    return StreamDescriptor(
        task_id=task_id,
        stream_id=stream_id,
        agent_name=named,
        channel=channel,
        token=token,
        agent_direction=direction,
        local_direction=invert_direction(direction),
        format=cast(Format, _choice(entry, "format", FORMATS)),
        affinity=cast(Affinity, _choice(entry, "affinity", AFFINITIES)),
        metadata=metadata if isinstance(metadata, Mapping) else None,
        declared_stream=declared_stream,
    )


def _choice(entry: Mapping[str, Any], key: str, among: tuple[str, ...], default: str | None = None) -> str:
    value = entry.get(key, default)
    if value not in among:
        raise ValueError(f"its {key} {value!r} is none of {', '.join(among)}")
    return str(value)
