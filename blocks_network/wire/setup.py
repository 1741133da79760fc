"""The set-up of streams: the agent's request, the network's answer to it, and the announcement to the consumer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = [
    "AFFINITIES",
    "DIRECTIONS",
    "FORMATS",
    "MAX_STREAM_ID_BYTES",
    "PHASES",
    "Affinity",
    "Direction",
    "Format",
    "Phase",
    "SetupAnswer",
    "SetupFault",
    "StreamSetup",
    "announcement",
    "invert_direction",
    "read_answer",
    "refusal_body",
    "stream_channel",
    "success_body",
    "validate_stream_id",
]

Direction = Literal["outbound", "inbound", "bidirectional"]
Format = Literal["bytes", "events"]
Affinity = Literal["dedicated", "shared"]
Phase = Literal["embedded", "token_request", "activate"]

DIRECTIONS: tuple[str, ...] = ("outbound", "inbound", "bidirectional")
FORMATS: tuple[str, ...] = ("bytes", "events")
AFFINITIES: tuple[str, ...] = ("dedicated", "shared")
PHASES: tuple[str, ...] = ("embedded", "token_request", "activate")
MAX_STREAM_ID_BYTES = 92
MAX_MINUTES = 43_200

_STREAM_ID = re.compile(r"[a-zA-Z0-9_-]+\Z")
_INVERSE: Mapping[str, Direction] = {
    "outbound": "inbound",
    "inbound": "outbound",
    "bidirectional": "bidirectional",
}


class SetupFault(ValueError):
    """A set-up that cannot be granted. `code` is the protocol's word for it."""

    def __init__(self, message: str, code: str = "InvalidArgument") -> None:
        super().__init__(message)
        self.code = code


def validate_stream_id(stream_id: object) -> str:
    """The id, or ValueError: letters, digits, _ and - only, 1 to 92 bytes."""
    if not isinstance(stream_id, str) or not _STREAM_ID.match(stream_id) or len(stream_id) > MAX_STREAM_ID_BYTES:
        raise ValueError(f"stream id {stream_id!r} is not 1 to {MAX_STREAM_ID_BYTES} of the characters a-zA-Z0-9_-")
    return stream_id


def stream_channel(agent_name: str, stream_id: str) -> str:
    return f"stream.{agent_name}.{stream_id}"


def invert_direction(direction: str) -> Direction:
    """What one side writes, the other reads. ValueError for an unknown direction."""
    try:
        return _INVERSE[direction]
    except KeyError:
        raise ValueError(f"direction {direction!r} is none of {', '.join(DIRECTIONS)}") from None


@dataclass(frozen=True, slots=True)
class StreamSetup:
    """The agent's request. `direction` is the agent's own."""

    task_id: str
    org_id: str
    agent_name: str
    stream_id: str
    channel: str
    direction: Direction
    task_kind: str
    duration_minutes: int
    format: Format
    affinity: Affinity
    phase: Phase
    declared_stream: str | None = None
    metadata: Mapping[str, Any] | None = None

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "type": "stream_setup",
            "protocolVersion": PROTOCOL_VERSION,
            "taskId": self.task_id,
            "orgId": self.org_id,
            "agentName": self.agent_name,
            "streamId": self.stream_id,
            "channel": self.channel,
            "direction": self.direction,
            "taskKind": self.task_kind,
            "durationMinutes": self.duration_minutes,
            "format": self.format,
            "affinity": self.affinity,
            "phase": self.phase,
        }
        if self.declared_stream is not None:
            wire["declaredStream"] = self.declared_stream
        if self.metadata is not None:
            wire["metadata"] = dict(self.metadata)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> StreamSetup:
        """SetupFault names the first field that is missing or wrong."""
        if not isinstance(wire, Mapping) or wire.get("type") != "stream_setup":
            raise SetupFault("the message is no stream_setup")
        texts = {key: _text(wire, key) for key in ("taskId", "orgId", "agentName", "streamId", "channel", "taskKind")}
        try:
            validate_stream_id(texts["streamId"])
        except ValueError as fault:
            raise SetupFault(str(fault)) from fault
        if texts["channel"] != stream_channel(texts["agentName"], texts["streamId"]):
            raise SetupFault("channel is not that of this agent and stream")
        minutes = wire.get("durationMinutes")
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 < minutes <= MAX_MINUTES:
            raise SetupFault(f"durationMinutes is not a number in 1..{MAX_MINUTES}")
        declared, metadata = wire.get("declaredStream"), wire.get("metadata")
        if declared is not None and not isinstance(declared, str):
            raise SetupFault("declaredStream is not a text")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise SetupFault("metadata is not an object")
        return cls(
            task_id=texts["taskId"],
            org_id=texts["orgId"],
            agent_name=texts["agentName"],
            stream_id=texts["streamId"],
            channel=texts["channel"],
            direction=cast(Direction, _choice(wire, "direction", DIRECTIONS)),
            task_kind=texts["taskKind"],
            duration_minutes=max(1, int(minutes)),
            format=cast(Format, _choice(wire, "format", FORMATS)),
            affinity=cast(Affinity, _choice(wire, "affinity", AFFINITIES)),
            phase=cast(Phase, _choice(wire, "phase", PHASES)),
            declared_stream=declared,
            metadata=metadata,
        )


def _text(wire: Mapping[str, Any], key: str) -> str:
    value = wire.get(key)
    if not isinstance(value, str) or not value:
        raise SetupFault(f"{key} is missing")
    return value


def _choice(wire: Mapping[str, Any], key: str, among: tuple[str, ...]) -> str:
    value = wire.get(key)
    if value not in among:
        raise SetupFault(f"{key} is none of {', '.join(among)}")
    return str(value)


@dataclass(frozen=True, slots=True)
class SetupAnswer:
    """What the network granted. `token` is the agent's own; absent in the phase `activate`."""

    task_id: str
    stream_id: str
    channel: str
    direction: str
    phase: str
    token_ttl_minutes: float
    token: str | None = None


def success_body(answer: SetupAnswer) -> bytes:
    """The body of HTTP 403 that carries a granted set-up."""
    granted: dict[str, Any] = {
        "taskId": answer.task_id,
        "streamId": answer.stream_id,
        "channel": answer.channel,
        "direction": answer.direction,
        "phase": answer.phase,
        "tokenTtlMinutes": answer.token_ttl_minutes,
    }
    if answer.token is not None:
        granted["token"] = answer.token
    return _body({"ok": True, "streamSetupResponse": granted})


def refusal_body(code: str, message: str) -> bytes:
    """The body of HTTP 403 that carries a refused set-up."""
    return _body({"ok": False, "error": {"code": code, "message": message}})


def _body(payload: dict[str, Any]) -> bytes:
    return json.dumps({"status": 403, "message": payload}, separators=(",", ":")).encode()


def read_answer(body: str) -> SetupAnswer | SetupFault | None:
    """The network's answer in the body of a 403: granted, refused, or None when it is an ordinary denial."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    if not isinstance(parsed, Mapping):
        return None
    inner = parsed.get("message")
    payload = inner if isinstance(inner, Mapping) else parsed
    error = payload.get("error")
    if payload.get("ok") is False and isinstance(error, Mapping):
        return SetupFault(str(error.get("message", "")), str(error.get("code", "")))
    granted = payload.get("streamSetupResponse")
    return _read_granted(granted) if isinstance(granted, Mapping) else None


def _read_granted(granted: Mapping[str, Any]) -> SetupAnswer | None:
    texts = [granted.get(key) for key in ("taskId", "streamId", "channel")]
    direction, phase, minutes = granted.get("direction"), granted.get("phase"), granted.get("tokenTtlMinutes")
    token = granted.get("token")
    if not all(isinstance(text, str) and text for text in texts) or direction not in DIRECTIONS or phase not in PHASES:
        return None
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
        return None
    task_id, stream_id, channel = cast("list[str]", texts)
    return SetupAnswer(
        task_id, stream_id, channel, direction, phase, minutes, token if isinstance(token, str) and token else None
    )


def announcement(setup: StreamSetup, token: str, token_ttl_minutes: int) -> dict[str, Any]:
    """The event on the task's channel that tells the consumer of the stream. `token` is the consumer's."""
    entry: dict[str, Any] = {
        "channel": setup.channel,
        "token": token,
        "tokenTtlMinutes": token_ttl_minutes,
        "direction": setup.direction,
        "format": setup.format,
        "affinity": setup.affinity,
    }
    if setup.metadata is not None:
        entry["metadata"] = dict(setup.metadata)
    event: dict[str, Any] = {
        "type": "progress",
        "taskId": setup.task_id,
        "streamEvent": "stream_started",
        "streams": {setup.stream_id: entry},
        "protocolVersion": PROTOCOL_VERSION,
    }
    if setup.declared_stream is not None:
        event["declaredStream"] = setup.declared_stream
    return event
