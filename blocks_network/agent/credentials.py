"""CredentialCache: what programs of their own keep of tasks that they serve. Memory only; safe for threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

__all__ = ["CachedCredentials", "CredentialCache"]


@dataclass(slots=True)
class CachedCredentials:
    """One task's credentials. The token does not show in representations."""

    owner_id: str
    write_token: str = field(repr=False)
    agent_name: str
    environment: str = "playground"
    org_id: str = ""
    stream_ids: set[str] = field(default_factory=set)


class CredentialCache:
    """By task id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, CachedCredentials] = {}

    def set(
        self,
        task_id: str,
        *,
        owner_id: str,
        write_token: str,
        agent_name: str,
        environment: str = "playground",
        org_id: str = "",
    ) -> None:
        """Stores a task's credentials; the streams of an existing entry are kept."""
        with self._lock:
            known = self._entries.get(task_id)
            streams = known.stream_ids if known is not None else set()
            self._entries[task_id] = CachedCredentials(owner_id, write_token, agent_name, environment, org_id, streams)

    def get(self, task_id: str) -> CachedCredentials | None:
        with self._lock:
            return self._entries.get(task_id)

    def add_stream(self, task_id: str, stream_id: str) -> None:
        """Notes a stream of a known task; unknown tasks are ignored."""
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is not None:
                entry.stream_ids.add(stream_id)

    def remove(self, task_id: str) -> None:
        with self._lock:
            self._entries.pop(task_id, None)

    def has(self, task_id: str) -> bool:
        with self._lock:
            return task_id in self._entries

    def task_ids(self) -> list[str]:
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
