"""What an instance says of itself in its presence state on the control channel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["AgentInstancePresenceState"]


@dataclass(slots=True)
class AgentInstancePresenceState:
    """An instance's load. `concurrency` 0 is no limit; `started_at` is in Unix milliseconds.

    `lost_slots` (ours) counts those of the active tasks whose handlers were asked to end, and go on.
    """

    instance_id: str = ""
    active_tasks: int = 0
    concurrency: int = 1
    started_at: int = 0
    active_streams: int = 0
    preferred_protocol_version: str = ""
    protocol_versions: list[str] = field(default_factory=list)
    lost_slots: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The wire form, always with all seven fields of the protocol; `lostSlots` where there are any."""
        lost = {"lostSlots": self.lost_slots} if self.lost_slots else {}
        return {
            "instanceId": self.instance_id,
            "activeTasks": self.active_tasks,
            "concurrency": self.concurrency,
            "startedAt": self.started_at,
            "activeStreams": self.active_streams,
            "preferredProtocolVersion": self.preferred_protocol_version,
            "protocolVersions": list(self.protocol_versions),
            **lost,
        }
