"""What kind of stream a handler gets: its own words, as far as the agent's card leaves it a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from blocks_network.errors import BlocksError
from blocks_network.wire.setup import AFFINITIES, DIRECTIONS, FORMATS, Affinity, Direction, Format, validate_stream_id

__all__ = ["DEFAULT", "Plan", "StreamRefused", "plan_stream"]

DEFAULT = "_default"


class StreamRefused(BlocksError, RuntimeError):
    """create_stream was asked for what the card, the task or the instance does not allow. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A stream that may be set up. `declared` is the card's name for it, `direction` the agent's."""

    declared: str
    direction: Direction
    format: Format
    affinity: Affinity
    external: bool

    @property
    def is_shared(self) -> bool:
        return self.affinity == "shared"


def plan_stream(
    streams: Mapping[str, Mapping[str, Any]],
    *,
    declared: str,
    direction: str,
    format: str,  # noqa: A002 - the protocol's word
    external: bool,
    is_pipe: bool,
) -> Plan:
    """`streams` is the card's section. StreamRefused says what does not go, and what would.

    An argument that is not the default counts as meant: where the card says otherwise, that is refused.
    """
    _check_choice("direction", direction, DIRECTIONS)
    _check_choice("format", format, FORMATS)
    affinity = "dedicated"
    if streams:
        declared = _declared_name(streams, declared)
        entry = streams[declared]
        direction = _settled(entry, declared, "direction", direction, "outbound")
        format = _settled(entry, declared, "format", format, "bytes")  # noqa: A001
        affinity = str(entry.get("affinity") or "dedicated")
        _check_choice("direction", direction, DIRECTIONS)
        _check_choice("format", format, FORMATS)
        _check_choice("affinity", affinity, AFFINITIES)
    if affinity == "shared":
        _check_shared(declared, external)
    if not is_pipe:
        _check_request(direction, affinity, external)
    return Plan(declared, cast(Direction, direction), cast(Format, format), cast(Affinity, affinity), external)


def _declared_name(streams: Mapping[str, Mapping[str, Any]], asked: str) -> str:
    if asked in streams:
        return asked
    names = ", ".join(sorted(streams))
    if asked != DEFAULT:
        raise StreamRefused(f"the card declares no stream {asked!r}", hint=f"it has: {names}")
    if len(streams) > 1:
        raise StreamRefused("the card declares several streams", hint=f"name one with declared_stream=: {names}")
    return next(iter(streams))


def _settled(entry: Mapping[str, Any], declared: str, key: str, asked: str, default: str) -> str:
    """The card's word, which what was asked for may repeat but not contradict."""
    value = str(entry.get(key) or default)
    if asked not in (default, value):
        raise StreamRefused(f"stream {declared} is {value} by the card, {key}={asked!r} was asked for")
    return value


def _check_choice(key: str, value: str, among: tuple[str, ...]) -> None:
    if value not in among:
        raise StreamRefused(f"{key} {value!r} is none of {', '.join(among)}")


def _check_shared(declared: str, external: bool) -> None:
    if external:
        raise StreamRefused(f"stream {declared} is shared: another process cannot be its writer")
    try:
        validate_stream_id(declared)
    except ValueError as fault:
        raise StreamRefused(f"a shared stream's name is its id: {fault}") from fault


def _check_request(direction: str, affinity: str, external: bool) -> None:
    if direction != "outbound":
        raise StreamRefused(f"a request task has outbound streams only, not {direction} ones", hint="use a pipe task")
    if external:
        raise StreamRefused("a request task has no external streams", hint="use a pipe task")
    if affinity == "shared":
        raise StreamRefused("a request task has no shared streams", hint="use a pipe task, or a dedicated stream")
