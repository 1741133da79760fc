"""Channel names: who speaks to whom where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from blocks_network.errors import ConfigurationError

__all__ = [
    "SESSIONS_PREFIX",
    "sessions_group",
    "AGENT_NAME",
    "RESERVED_OWNER_IDS",
    "ChannelManager",
    "control_channel",
    "create_channel_manager",
    "is_agent_name",
    "normalize_tag_slug",
    "owner_of",
    "registry_all_channel",
    "registry_log_channel",
    "registry_tag_channel",
    "registry_visibility_channel",
    "setup_channel",
    "task_channel",
    "task_of_channel",
    "upload_channel",
    "validate_owner_id",
]

AGENT_NAME = re.compile(r"[a-zA-Z0-9_]+\Z")
RESERVED_OWNER_IDS = frozenset({"agent", "obs", "sys", "u", "anonymous", "system", "stream"})


def _given(**names: str) -> None:
    for name, value in names.items():
        if not value:
            raise ConfigurationError(f"{name} required")


def _of_task(prefix: str, task_id: str, org_id: str) -> str:
    if not (task_id and org_id):
        _given(task_id=task_id, org_id=org_id)
    return f"{prefix}.{org_id}.{task_id}"


def is_agent_name(name: object) -> bool:
    """True for `[a-zA-Z0-9_]+`."""
    return isinstance(name, str) and AGENT_NAME.match(name) is not None


def control_channel(agent_id: str) -> str:
    _given(agent_id=agent_id)
    return f"agent.{agent_id}.control"


def task_channel(task_id: str, org_id: str) -> str:
    """Where a task's events are published."""
    return _of_task("u", task_id, org_id)


def setup_channel(task_id: str, org_id: str) -> str:
    """Where a task's streams are set up; the network answers instead of delivering."""
    return _of_task("setup", task_id, org_id)


def task_of_channel(channel: str) -> tuple[str, str] | None:
    """(org id, task id) of a task channel, None for any other name."""
    pieces = channel.split(".")
    if len(pieces) == 3 and pieces[0] == "u" and pieces[1] and pieces[2]:
        return pieces[1], pieces[2]
    return None


SESSIONS_PREFIX = "sessions."


def upload_channel(org_id: str, session: str) -> str:
    """Where the files of one message lie that were uploaded before it. An empty `session` gives their prefix."""
    _given(org_id=org_id)
    return f"upload.{org_id}.{session}"


def owner_of(owner_id: object, caller_claims: Mapping[str, Any] | None) -> str:
    """A task's owner: its ownerId, else callerClaims.sub, else "anonymous"; what is not a text counts as absent."""
    if isinstance(owner_id, str) and owner_id:
        return owner_id
    subject = (caller_claims or {}).get("sub")
    return subject if isinstance(subject, str) and subject else "anonymous"


def sessions_group(org_id: str, reader: str) -> str:
    """The channel group in which a client finds the events of all the tasks that it sent under this name."""
    _given(org_id=org_id, reader=reader)
    return f"{SESSIONS_PREFIX}{org_id}.{reader}"


def normalize_tag_slug(tag: str) -> str:
    """Lower case; anything but a-z 0-9 . _ becomes _; runs of _ collapse; ends are stripped."""
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9._]", "_", tag.lower())).strip("_")


def registry_all_channel() -> str:
    return "registry.all"


def registry_log_channel() -> str:
    return "registry.log"


def registry_tag_channel(tag: str) -> str:
    return f"registry.tag.{normalize_tag_slug(tag)}"


def registry_visibility_channel(is_public: bool) -> str:
    return "registry.public" if is_public else "registry.private"


def validate_owner_id(owner_id: str) -> None:
    """ConfigurationError (a ValueError) for an empty or reserved owner id, in any letter case."""
    _given(owner_id=owner_id)
    if owner_id.lower() in RESERVED_OWNER_IDS:
        raise ConfigurationError(f"owner id {owner_id!r} is reserved", hint="choose another id")


class ChannelManager:
    """The channel names that one agent uses."""

    def __init__(self, agent_name: str) -> None:
        _given(agent_name=agent_name)
        self.agent_name = agent_name

    def control_channel(self, agent_id: str) -> str:
        return control_channel(agent_id)

    def task_channel(self, task_id: str, org_id: str) -> str:
        return task_channel(task_id, org_id)

    def stream_channel(self, stream_id: str) -> str:
        _given(stream_id=stream_id)
        return f"stream.{self.agent_name}.{stream_id}"

    def stream_wildcard(self) -> str:
        return f"stream.{self.agent_name}.*"

    def obs_channel(self, agent_name: str | None = None) -> str:
        return f"obs.{agent_name or self.agent_name}.log"

    def task_metadata_channel(self, task_id: str) -> str:
        _given(task_id=task_id)
        return f"task.{task_id}"

    def parse_task_metadata_channel(self, channel: str) -> str | None:
        prefix, _, task_id = channel.partition(".")
        return task_id if prefix == "task" and task_id else None

    def user_task_pattern(self, org_id: str) -> str:
        _given(org_id=org_id)
        return f"u.{org_id}.*"

    def agent_wildcard(self, agent_name: str | None = None) -> str:
        return f"agent.{agent_name or self.agent_name}.*"


def create_channel_manager(agent_name: str) -> ChannelManager:
    return ChannelManager(agent_name)
