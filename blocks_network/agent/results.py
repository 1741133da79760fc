"""A handler's return value as artifacts: the full form, the shorthands, and clear faults for everything else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blocks_network.errors import HandlerResultError
from blocks_network.wire.artifacts import DEFAULT_MIME_TYPE

__all__ = ["Artifact", "artifact_bytes", "artifacts_of"]

TEXT = "text/plain"
JSON = "application/json"
_FORMS = (
    "a handler returns None, str, bytes, a JSON object (dict, dataclass or pydantic object), "
    'or {"artifacts": [{"data": ..., "mimeType": ..., "fileName": ..., "outputId": ...}]}'
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact on its way out."""

    data: bytes
    mime_type: str = DEFAULT_MIME_TYPE
    file_name: str | None = None
    output_id: str | None = None


def artifacts_of(result: Any) -> list[Artifact]:
    """The artifacts of a return value. HandlerResultError names what cannot become one."""
    if result is None:
        return []
    if isinstance(result, str):
        return [Artifact(result.encode("utf-8", "surrogatepass"), TEXT)]
    if isinstance(result, (bytes, bytearray, memoryview)):
        return [Artifact(bytes(result))]
    if isinstance(result, Mapping):
        return _of_mapping(result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [_json_artifact(dataclasses.asdict(result), type(result).__name__)]
    dump = getattr(result, "model_dump_json", None)  # pydantic, which the core does not depend on
    if callable(dump):
        return [Artifact(str(dump()).encode(), JSON)]
    raise HandlerResultError(f"the handler returned {_name(result)}", hint=_FORMS)


def artifact_bytes(data: Any, where: str) -> bytes:
    """str as UTF-8, bytes-like as they are; HandlerResultError for anything else."""
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise HandlerResultError(f"{where} is {_name(data)}", hint="data is str, bytes or bytearray")


def _of_mapping(result: Mapping[Any, Any]) -> list[Artifact]:
    if "artifacts" in result:
        entries = result["artifacts"]
        if entries is None:
            return []
        if not isinstance(entries, (list, tuple)):
            raise HandlerResultError(f'"artifacts" is {_name(entries)}, not a list', hint=_FORMS)
        found = [_of_entry(entry, f"artifacts[{index}]") for index, entry in enumerate(entries)]
        return [artifact for artifact in found if artifact is not None]
    if "artifact" in result:  # the protocol's older form, still in use
        entry = _of_entry({**result, "data": result["artifact"]}, "artifact")
        return [] if entry is None else [entry]
    return [_json_artifact(result, "the dict")] if result else []


def _of_entry(entry: Any, where: str) -> Artifact | None:
    if not isinstance(entry, Mapping):
        raise HandlerResultError(f"{where} is {_name(entry)}, not a dict", hint=_FORMS)
    if "data" not in entry:
        raise HandlerResultError(f'{where} has no "data"', hint=_FORMS)
    if entry["data"] is None:
        return None
    texts = {}
    for key in ("mimeType", "fileName", "outputId"):
        value = entry.get(key)
        if value is not None and not isinstance(value, str):
            raise HandlerResultError(f"{where}.{key} is {_name(value)}, not a text")
        texts[key] = value or None
    return Artifact(
        data=artifact_bytes(entry["data"], f"{where}.data"),
        mime_type=texts["mimeType"] or DEFAULT_MIME_TYPE,
        file_name=texts["fileName"],
        output_id=texts["outputId"],
    )


def _json_artifact(value: Any, what: str) -> Artifact:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as fault:
        raise HandlerResultError(f"{what} that the handler returned is no JSON: {fault}", hint=_FORMS) from fault
    return Artifact(text.encode("utf-8", "surrogatepass"), JSON)


def _name(value: Any) -> str:
    return type(value).__name__
