"""Control messages: what the network tells an agent's instances to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

from blocks_network.wire.parts import RequestPart

__all__ = [
    "AnyControlMessage",
    "CancelTaskMessage",
    "ControlMessage",
    "ExpireTaskMessage",
    "PIPE_MAX_MINUTES",
    "StartTaskMessage",
    "broadcast_meta",
    "extract_start_task_tokens",
    "is_broadcast",
    "parse_control_message",
    "pipe_duration_fault",
    "start_task_fault",
    "targeted_meta",
]

PIPE_MAX_MINUTES = 43_200
"""30 days, the longest life of a pipe task."""


@dataclass(slots=True)
class _Message:
    """What all control messages share: a camelCase wire form in which what is empty is left out."""

    _WIRE: ClassVar[dict[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        wire = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is None or (value in ("", [], {}) and value is not False):
                continue
            wire[_camel(spec.name)] = value
        return wire


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


@dataclass(slots=True)
class StartTaskMessage(_Message):
    """A task to run. It holds no token: those go to the runtime alone (`extract_start_task_tokens`).

    `duration` is in minutes and, like `duration_expires_at_ms` (Unix ms), set for pipe tasks only.
    """

    type: str = "StartTask"
    task_id: str = ""
    agent_name: str = ""
    owner_id: str = ""
    request_parts: list[RequestPart] = field(default_factory=list)
    caller_claims: dict[str, Any] = field(default_factory=dict)
    request_summary: dict[str, Any] = field(default_factory=dict)
    task_kind: str | None = None
    duration: float | None = None
    duration_expires_at_ms: float | None = None
    consumer_public_key: str | None = None
    has_stream: bool = False
    org_id: str | None = None
    protocol_version: str | None = None
    attempt: int = 1
    """Which run of the task this is to be: a StartTask that comes again has the same one, a retry the next."""

    def to_dict(self) -> dict[str, Any]:
        wire = _Message.to_dict(self)
        if self.attempt == 1:
            wire.pop("attempt", None)
        if self.request_parts:
            wire["requestParts"] = [
                part.to_dict() if isinstance(part, RequestPart) else part for part in self.request_parts
            ]
        if not self.has_stream:
            wire.pop("hasStream", None)
        return wire

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> StartTaskMessage:
        """Reads the wire form. Check it with `start_task_fault` first when it comes from outside."""
        return cls(
            task_id=wire.get("taskId", ""),
            agent_name=wire.get("agentName", ""),
            owner_id=wire.get("ownerId", ""),
            request_parts=[
                RequestPart.from_dict(part) if isinstance(part, Mapping) else part
                for part in wire.get("requestParts") or []
            ],
            caller_claims=dict(wire.get("callerClaims") or {}),
            request_summary=dict(wire.get("requestSummary") or {}),
            task_kind=wire.get("taskKind"),
            duration=wire.get("duration"),
            duration_expires_at_ms=wire.get("durationExpiresAtMs"),
            consumer_public_key=wire.get("consumerPublicKey"),
            has_stream=wire.get("hasStream") is True,
            org_id=wire.get("orgId"),
            protocol_version=wire.get("protocolVersion"),
            attempt=attempt_of(wire.get("attempt")),
        )


@dataclass(slots=True)
class CancelTaskMessage(_Message):
    """The caller no longer wants the task."""

    type: str = "CancelTask"
    task_id: str = ""
    reason: str = ""
    caller: str = ""
    protocol_version: str | None = None

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> CancelTaskMessage:
        return cls(
            task_id=wire.get("taskId", ""),
            reason=wire.get("reason", ""),
            caller=wire.get("caller", ""),
            protocol_version=wire.get("protocolVersion"),
        )


@dataclass(slots=True)
class ExpireTaskMessage(_Message):
    """A pipe task's time is over."""

    type: str = "ExpireTask"
    task_id: str = ""
    agent_name: str = ""
    reason: str = ""
    protocol_version: str | None = None

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> ExpireTaskMessage:
        return cls(
            task_id=wire.get("taskId", ""),
            agent_name=wire.get("agentName", ""),
            reason=wire.get("reason", ""),
            protocol_version=wire.get("protocolVersion"),
        )


@dataclass(slots=True)
class ControlMessage(_Message):
    """PauseTask, ResumeTask, RetryTask, TerminateTask or SwitchEnvironment."""

    type: str = ""
    task_id: str = ""
    caller: str = ""
    protocol_version: str | None = None

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> ControlMessage:
        return cls(
            type=wire.get("type", ""),
            task_id=wire.get("taskId", ""),
            caller=wire.get("caller", ""),
            protocol_version=wire.get("protocolVersion"),
        )


AnyControlMessage = StartTaskMessage | CancelTaskMessage | ExpireTaskMessage | ControlMessage
_OTHERS = frozenset({"PauseTask", "ResumeTask", "RetryTask", "TerminateTask", "SwitchEnvironment"})


def parse_control_message(wire: object) -> AnyControlMessage | None:
    """The message of a control envelope; None when it is no object or of a type that nobody knows."""
    if not isinstance(wire, Mapping):
        return None
    kind = wire.get("type")
    if kind == "StartTask":
        return StartTaskMessage.from_dict(wire)
    if kind == "CancelTask":
        return CancelTaskMessage.from_dict(wire)
    if kind == "ExpireTask":
        return ExpireTaskMessage.from_dict(wire)
    if kind in _OTHERS:
        return ControlMessage.from_dict(wire)
    return None


def extract_start_task_tokens(wire: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(write token, control token) of a StartTask envelope. No handler ever sees them."""
    return wire.get("writeToken"), wire.get("controlToken")


def attempt_of(value: object) -> int:
    """A StartTask's `attempt`; 1 where there is none, or nothing usable."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def start_task_fault(wire: Mapping[str, Any]) -> str | None:
    """What is wrong with a StartTask envelope, naming the field; None when it can be run."""
    shapes: dict[str, tuple[type, ...]] = {
        "agentName": (str,),
        "ownerId": (str,),
        "requestParts": (list,),
        "callerClaims": (dict,),
        "requestSummary": (dict,),
        "taskKind": (str,),
        "consumerPublicKey": (str,),
        "hasStream": (bool,),
        "orgId": (str,),
        "writeToken": (str,),
        "controlToken": (str,),
    }
    for name, kinds in shapes.items():
        if name in wire and wire[name] is not None and not isinstance(wire[name], kinds):
            return f"{name} is not {'/'.join(kind.__name__ for kind in kinds)}"
    if "requestParts" in wire and wire["requestParts"] is None:
        return "requestParts is null"
    for index, part in enumerate(wire.get("requestParts") or []):
        if not isinstance(part, (Mapping, str)):
            return f"requestParts[{index}] is neither an object nor a text"
    if wire.get("taskKind") == "pipe":
        return pipe_duration_fault(wire.get("duration"), wire.get("durationExpiresAtMs"))
    return None


def pipe_duration_fault(duration: object, expires_at_ms: object) -> str | None:
    """What is wrong with a pipe task's life: minutes without fraction in 1..43200, and an instant above 0 (Unix ms)."""
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        return "duration is not a number"
    if not 1 <= duration <= PIPE_MAX_MINUTES or duration != int(duration):  # NaN fails the first comparison
        return f"duration is not a whole number of minutes in 1..{PIPE_MAX_MINUTES}"
    is_number = isinstance(expires_at_ms, (int, float)) and not isinstance(expires_at_ms, bool)
    if not is_number or not 0 < cast(float, expires_at_ms) < math.inf:
        return "durationExpiresAtMs is not a number above 0"
    return None


def targeted_meta(instance_id: str) -> dict[str, str]:
    """The publish meta of a message for one instance."""
    return {"instance": instance_id}


def broadcast_meta() -> dict[str, str]:
    """The publish meta of a message for every instance."""
    return {"broadcast": "true"}


def is_broadcast(meta: object) -> bool:
    """True when any truthy `broadcast` stands in the meta; a message without meta counts as targeted."""
    return isinstance(meta, Mapping) and bool(meta.get("broadcast"))
