"""Puts the parts of large frames together again, within bounds of time and memory."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from blocks_network.wire.frames import PartFrame

__all__ = ["MAX_BYTES", "MAX_GROUPS", "STALE_S", "PartCollector"]

STALE_S = 30.0
"""A group whose parts do not all come within this time is given up."""
MAX_GROUPS = 64
MAX_BYTES = 32 * 1024 * 1024
"""Of all groups together, as base64. The oldest go first."""


@dataclass(slots=True)
class _Group:
    since_s: float
    total: int
    about: tuple[object, object, object]
    data: dict[int, str] = field(default_factory=dict)
    size: int = 0


class PartCollector:
    """Not safe for threads. Groups belong to a sender, so that two writers never mix."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, str], _Group] = OrderedDict()
        self._size = 0

    @property
    def open_groups(self) -> int:
        return len(self._groups)

    def add(self, sender: str, part: PartFrame, now_s: float) -> Any:
        """The whole frame's parsed JSON when this was the last part, else None.

        A part that disagrees with its group drops the group; so does JSON that cannot be read. A part that came
        before with the same data is ignored.
        """
        self._forget_old(now_s)
        key, about = (sender, part.group), (part.kind, part.seq, part.stream_id)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(now_s, part.total, about)
        known = group.data.get(part.part)
        if group.total != part.total or group.about != about or (known is not None and known != part.data):
            self._drop(key)
            return None
        if known is None:
            group.data[part.part] = part.data
            group.size += len(part.data)
            self._size += len(part.data)
        if len(group.data) < group.total:
            self._keep_bounds()
            return None
        self._drop(key)
        return _joined(group)

    def _drop(self, key: tuple[str, str]) -> None:
        self._size -= self._groups.pop(key).size

    def _forget_old(self, now_s: float) -> None:
        while self._groups:
            key, oldest = next(iter(self._groups.items()))
            if now_s - oldest.since_s <= STALE_S:
                return
            self._drop(key)

    def _keep_bounds(self) -> None:
        while self._groups and (len(self._groups) > MAX_GROUPS or self._size > MAX_BYTES):
            self._drop(next(iter(self._groups)))


def _joined(group: _Group) -> Any:
    try:
        raw = b"".join(base64.b64decode(group.data[number], validate=True) for number in range(1, group.total + 1))
        return json.loads(raw)
    except (ValueError, RecursionError):  # also what base64 and UTF-8 cannot decode
        return None
