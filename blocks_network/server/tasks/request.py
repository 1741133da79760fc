"""SendMessage's parameters: read, checked against the agent's card, and made into what is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks_network.errors import ConfigurationError
from blocks_network.server.limits import Limits
from blocks_network.server.store.providers import Provider
from blocks_network.server.tasks.refusals import TaskRefusal, check_storable, invalid_params
from blocks_network.server.tasks.retries import RetryPolicy
from blocks_network.wire import cards
from blocks_network.wire.channels import validate_owner_id
from blocks_network.wire.control import PIPE_MAX_MINUTES

__all__ = ["Wanted", "check_against_card"]

BILLING_MODES = ("free", "paid")
KEY_CHARS = 255
"""Of an idempotency key, an owner id, a part id."""
PUBLIC_KEY_CHARS = 4_096
READER_CHARS = 64
FINGERPRINT_MIN_CHARS = 16


@dataclass(slots=True)
class Wanted:
    """A task as its sender described it. `owner_id` is empty for the caller; `duration` is in minutes."""

    agent_name: str
    billing_mode: str
    parts: list[dict[str, Any]]
    owner_id: str = ""
    idempotency_key: str | None = None
    upload_session_id: str | None = None
    stream: bool = False
    task_kind: str = "request"
    duration: int | None = None
    consumer_public_key: str | None = None
    policy: RetryPolicy | None = None
    reader: str | None = None
    """The name under which its client reads all its tasks (see readers.py)."""
    anon_fingerprint: str | None = None
    """Whoever has it may read the task without an identity."""
    push: object = None
    """`pushNotificationConfig` as it came."""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], limits: Limits) -> Wanted:
        """Reads the wire form; unknown parameters are ignored. TaskRefusal names the one that is wrong."""
        blocks = _object(_object(params, "extensions"), "blocks", "extensions.")
        kind = _text(blocks, "taskKind", "extensions.blocks.") or "request"
        if kind not in cards.TASK_KINDS:
            raise invalid_params(f"extensions.blocks.taskKind is none of {', '.join(cards.TASK_KINDS)}")
        agent_name = _text(params, "agentName")
        if not agent_name:
            raise invalid_params("agentName is missing")
        billing_mode = _text(params, "billingMode")
        if billing_mode not in BILLING_MODES:
            raise invalid_params(f"billingMode is none of {', '.join(BILLING_MODES)}")
        return cls(
            agent_name=agent_name,
            billing_mode=billing_mode,
            parts=_parts(params.get("requestParts"), limits),
            owner_id=_owner(params),
            idempotency_key=_text(params, "idempotencyKey") or None,
            upload_session_id=_text(params, "uploadSessionId") or None,
            stream=_flag(blocks, "stream"),
            task_kind=kind,
            duration=_duration(blocks, kind),
            consumer_public_key=_text(blocks, "consumerPublicKey", "extensions.blocks.", PUBLIC_KEY_CHARS) or None,
            policy=_policy(params),
            reader=_text(blocks, "reader", "extensions.blocks.", READER_CHARS) or None,
            anon_fingerprint=_fingerprint(blocks),
            push=_object(params, "pushNotificationConfig") or None,
        )


def check_against_card(wanted: Wanted, provider: Provider) -> bool:
    """Refuses what the agent does not take and notes what it may not expect; True when the task may have streams."""
    if wanted.billing_mode != provider.billing_mode:
        raise TaskRefusal(
            "BillingModeMismatch",
            f"agent {provider.agent_name} bills in mode {provider.billing_mode!r}, the call says "
            f"{wanted.billing_mode!r}",
            details={"expected": provider.billing_mode, "got": wanted.billing_mode},
        )
    if wanted.anon_fingerprint is not None and (provider.listing, provider.billing_mode) != ("public", "free"):
        raise TaskRefusal(
            "AnonymousReadNotAllowed",
            f"agent {provider.agent_name} is not public and free: nobody reads its tasks without an identity; leave "
            "out extensions.blocks.anonFingerprint",
        )
    kinds = provider.task_kinds
    if wanted.task_kind not in kinds:
        raise TaskRefusal(
            "TaskKindNotSupported",
            f"agent {provider.agent_name} takes no {wanted.task_kind} tasks, only {' and '.join(kinds)}",
            details={"taskKind": wanted.task_kind, "taskKinds": kinds},
        )
    if provider.consumer_key_required and wanted.consumer_public_key is None:
        raise TaskRefusal(
            "ConsumerKeyRequired",
            f"agent {provider.agent_name} encrypts for its callers: send extensions.blocks.consumerPublicKey",
        )
    _check_inputs(wanted, provider)
    if wanted.stream and not provider.is_streaming:
        wanted.warnings.append("stream was asked for, and the agent's card declares none")
    return provider.is_streaming and (wanted.stream or wanted.task_kind == "pipe")


def _check_inputs(wanted: Wanted, provider: Provider) -> None:
    """Unknown ids and missing inputs: refused where the card is strict, else a warning; schemas are never binding."""
    declared = provider.inputs
    if not declared:
        return
    sole = next(iter(declared)) if len(declared) == 1 else None
    faults, given = [], set()
    for index, part in enumerate(wanted.parts):
        part_id = part.get("partId") or sole
        if part_id is None:
            faults.append(f"requestParts[{index}] has no partId, and the agent has inputs {', '.join(declared)}")
        elif part_id not in declared:
            faults.append(f"requestParts[{index}]: the agent has no input {part_id!r}, only {', '.join(declared)}")
        else:
            given.add(part_id)
            misfit = _misfit(part, declared[part_id])
            if misfit is not None:
                wanted.warnings.append(f"requestParts[{index}] ({part_id}): {misfit}")
    faults += [
        f"input {name!r} is required and missing"
        for name, item in declared.items()
        if item.get("required") is True and name not in given
    ]
    if faults and cards.strict_inputs(provider.card):
        raise TaskRefusal(
            "InvalidInput",
            f"agent {provider.agent_name} does not take this request: {'; '.join(faults)}",
            details={"faults": faults},
        )
    wanted.warnings.extend(faults)


def _misfit(part: Mapping[str, Any], declared: Mapping[str, Any]) -> str | None:
    """What a text part that should be JSON has against its schema, as far as that shows at its surface."""
    text = part.get("text")
    if not isinstance(text, str) or declared.get("contentType") != "application/json":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "the card declares application/json, and the text is not JSON"
    schema = declared.get("schema")
    if not isinstance(schema, Mapping):
        return None
    if schema.get("type") == "object" and not isinstance(value, dict):
        return "the card's schema wants an object"
    if schema.get("type") == "array" and not isinstance(value, list):
        return "the card's schema wants a list"
    required = schema.get("required")
    if isinstance(value, dict) and isinstance(required, list):
        missing = [str(name) for name in required if name not in value]
        if missing:
            return f"the card's schema wants {', '.join(missing)}"
    return None


def _parts(parts: object, limits: Limits) -> list[dict[str, Any]]:
    if parts is None:
        return []
    if not isinstance(parts, list):
        raise invalid_params("requestParts is not a list")
    if len(parts) > limits.request_parts:
        raise invalid_params(f"requestParts has {len(parts)} entries, at most {limits.request_parts} are taken")
    parts = [{"text": part, "contentType": "text/plain"} if isinstance(part, str) else part for part in parts]
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise invalid_params(f"requestParts[{index}] is neither an object nor a text")
        at = f"requestParts[{index}]."
        _text(part, "partId", at)
        _text(part, "contentType", at)
        text, ref = part.get("text"), part.get("artifactRef")
        if text is not None and not isinstance(text, str):
            raise invalid_params(f"{at}text is not a text")
        if ref is not None and not isinstance(ref, dict):
            raise invalid_params(f"{at}artifactRef is not an object")
        if text is not None and ref is not None:
            raise invalid_params(f"requestParts[{index}] has a text and a file; send two parts")
        if ref is not None and not part.get("partId"):
            raise invalid_params(f"requestParts[{index}] is a file and has no partId")
    return parts


def _owner(params: Mapping[str, Any]) -> str:
    owner_id = _text(params, "ownerId")
    if owner_id:
        try:
            validate_owner_id(owner_id)
        except ConfigurationError as fault:
            raise invalid_params(f"ownerId: {fault}") from None
    return owner_id


def _duration(blocks: Mapping[str, Any], kind: str) -> int | None:
    duration = blocks.get("duration")
    if kind != "pipe":
        if duration is not None:
            raise invalid_params("extensions.blocks.duration is for pipe tasks only")
        return None
    name = "extensions.blocks.duration"
    if duration is None:
        raise invalid_params(f"{name} is missing: a pipe task needs one, in minutes")
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise invalid_params(f"{name} is not a number")
    if not 1 <= duration <= PIPE_MAX_MINUTES or duration != int(duration):
        raise invalid_params(f"{name} is not a whole number of minutes in 1..{PIPE_MAX_MINUTES}")
    return int(duration)


def _policy(params: Mapping[str, Any]) -> RetryPolicy | None:
    wire = params.get("retryPolicy")
    if wire is None:
        return None
    try:
        return RetryPolicy.from_wire(wire)
    except ValueError as fault:
        raise invalid_params(str(fault)) from None


def _fingerprint(blocks: Mapping[str, Any]) -> str | None:
    fingerprint = _text(blocks, "anonFingerprint", "extensions.blocks.") or None
    if fingerprint is not None and len(fingerprint) < FINGERPRINT_MIN_CHARS:
        raise invalid_params(
            f"extensions.blocks.anonFingerprint has less than {FINGERPRINT_MIN_CHARS} characters: who guesses it reads "
            "the task"
        )
    return fingerprint


def _object(parent: Mapping[str, Any], key: str, at: str = "") -> Mapping[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_params(f"{at}{key} is not an object")
    return value


def _text(parent: Mapping[str, Any], key: str, at: str = "", limit: int = KEY_CHARS) -> str:
    """The text, "" where it is absent or null."""
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid_params(f"{at}{key} is not a text")
    if len(value) > limit:
        raise invalid_params(f"{at}{key} has {len(value)} characters, at most {limit} are taken")
    return check_storable(f"{at}{key}", value)


def _flag(blocks: Mapping[str, Any], key: str) -> bool:
    value = blocks.get(key)
    if value is not None and not isinstance(value, bool):
        raise invalid_params(f"extensions.blocks.{key} is neither true nor false")
    return value is True
