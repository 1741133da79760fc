"""Stream frames: what travels on a stream's channel, how large ones are cut into parts, and how both are read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = [
    "BINARY_KEY",
    "ENVELOPE_RESERVE_BYTES",
    "FIRST_SEQ",
    "AliveFrame",
    "DataFrame",
    "Encoding",
    "EndFrame",
    "Frame",
    "alive_text",
    "PartFrame",
    "RawFrame",
    "StreamFormat",
    "binary_restored",
    "chunk_text",
    "data_text",
    "end_text",
    "event_text",
    "events_text",
    "frame_meta",
    "part_texts",
    "read_frame",
]

StreamFormat = Literal["bytes", "events"]
Encoding = Literal["utf8", "base64"]

FIRST_SEQ: Mapping[str, int] = {"bytes": 0, "events": 1}
"""The sequence number of a writer's first frame, by the stream's format."""
ENVELOPE_RESERVE_BYTES = 512
"""Kept free in a part for the fields around its data."""
BINARY_KEY = "$binary"
"""How binary data stands inside an event: {"$binary": base64}."""


# --- writing: frames are built as JSON texts, so that each value is serialised once ---


def frame_meta(sender: str) -> dict[str, str]:
    """The publish meta of a frame. `sender` is the writer's uuid: sequence numbers count for each sender."""
    return {"sender": sender, "protocolVersion": PROTOCOL_VERSION}


def chunk_text(data: object) -> tuple[str, Encoding, int]:
    """One write to a bytes stream as (JSON text, encoding, size in bytes as encoded).

    str is text; bytes, bytearray and memoryview are binary; anything else is a TypeError.
    """
    if isinstance(data, str):
        text = _json(data)
        return text, "utf8", len(data) if data.isascii() else len(data.encode("utf-8", "surrogatepass"))
    if isinstance(data, (bytes, bytearray, memoryview)):
        coded = base64.b64encode(data).decode("ascii")
        return f'"{coded}"', "base64", len(coded)
    raise TypeError(f"a bytes stream takes str, bytes, bytearray or memoryview, not {type(data).__name__}")


def event_text(event: object) -> tuple[str, int]:
    """One write to an events stream as (JSON text, its size in bytes).

    Bytes become {"$binary": base64}, at any depth. RuntimeError for a bare string, which the protocol does not allow
    here; TypeError for what JSON cannot hold (also NaN and infinities).
    """
    if isinstance(event, str):
        raise RuntimeError("an events stream takes JSON objects, lists and numbers, not a bare string")
    text = _json(event)
    return text, len(text) if text.isascii() else len(text.encode("utf-8"))


def data_text(stream_id: str, seq: int, ts_ms: int, encoding: Encoding, chunks: Sequence[str]) -> str:
    """A stream_data frame around chunks that `chunk_text` made, all of one encoding."""
    head = _head("stream_data", stream_id, seq, ts_ms)
    return f'{head},"encoding":"{encoding}","chunks":[{",".join(chunks)}]}}'


def events_text(stream_id: str, seq: int, ts_ms: int, events: Sequence[str]) -> str:
    """A stream_events frame around events that `event_text` made."""
    return f'{_head("stream_events", stream_id, seq, ts_ms)},"encoding":"utf8","events":[{",".join(events)}]}}'


def end_text(stream_id: str, seq: int, ts_ms: int, error: str | None = None) -> str:
    """A stream_end frame. `error` says that the writer had to give up: frames before `seq` are missing."""
    tail = "" if error is None else f',"error":{_json(error)}'
    return f"{_head('stream_end', stream_id, seq, ts_ms)}{tail}}}"


def alive_text(stream_id: str, ts_ms: int, *, gone: bool) -> str:
    """Ours: an idle writer says that it is there, or (`gone`) that it goes. Without a number, so that it counts for
    nothing with readers that do not know it."""
    head = f'{{"type":"stream_alive","protocolVersion":"{PROTOCOL_VERSION}","streamId":{_json(stream_id)},"ts":{ts_ms}'
    return head + (',"gone":true}' if gone else "}")


def part_texts(frame: str, kind: str, stream_id: str, seq: int, ts_ms: int, max_message_size: int) -> list[str]:
    """The frame itself when it fits into `max_message_size` bytes, else its parts in order.

    `kind` is the frame's type, which its parts repeat, as they do `seq`. ValueError when nothing would fit.
    """
    room = (max_message_size - ENVELOPE_RESERVE_BYTES) * 3 // 4
    if room <= 0:
        raise ValueError(f"max_message_size must be above {ENVELOPE_RESERVE_BYTES} bytes, not {max_message_size}")
    if len(frame) * 4 <= max_message_size:  # four bytes a character is the most
        return [frame]
    raw = frame.encode("utf-8")
    if len(raw) <= max_message_size:
        return [frame]
    pieces = [raw[at : at + room] for at in range(0, len(raw), room)]
    if len(pieces) == 1:  # over the limit whole, under it without its envelope: a group has at least two parts
        pieces = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]
    head = _head(kind, stream_id, seq, ts_ms)
    return [
        f'{head},"multipart":{{"id":"mp-{ts_ms}-{seq}","part":{number},"total":{len(pieces)}}},'
        f'"data":"{base64.b64encode(piece).decode("ascii")}"}}'
        for number, piece in enumerate(pieces, 1)
    ]


def _head(kind: str, stream_id: str, seq: int, ts_ms: int) -> str:
    return (
        f'{{"type":"{kind}","protocolVersion":"{PROTOCOL_VERSION}",'
        f'"streamId":{_json(stream_id)},"seq":{seq},"ts":{ts_ms}'
    )


def _json(value: object) -> str:
    """UTF-8 JSON without spaces. Lone surrogates, which UTF-8 has no form for, make the whole value ASCII-escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_binary)
    except (ValueError, RecursionError) as fault:
        raise TypeError(f"JSON cannot hold this value: {fault}") from fault
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_binary)
    return text


def _binary(value: object) -> dict[str, str]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BINARY_KEY: base64.b64encode(value).decode("ascii")}
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def binary_restored(event: Any) -> Any:
    """The event with every {"$binary": base64} object as bytes again; what is no base64 stays as it is."""
    if isinstance(event, dict):
        if len(event) == 1 and isinstance(event.get(BINARY_KEY), str):
            try:
                return base64.b64decode(event[BINARY_KEY], validate=True)
            except ValueError:
                return event
        return {key: binary_restored(value) for key, value in event.items()}
    if isinstance(event, list):
        return [binary_restored(item) for item in event]
    return event


# --- reading ---


@dataclass(frozen=True, slots=True)
class DataFrame:
    """Chunks of a bytes stream, or the events of an events stream. `ts_ms` is Unix ms by the writer's clock."""

    seq: int
    ts_ms: int
    format: StreamFormat
    encoding: Encoding
    items: list[Any]


@dataclass(frozen=True, slots=True)
class EndFrame:
    """The writer has ended. `seq` is one above its last frame; None when the writer did not say."""

    seq: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PartFrame:
    """Part `part` of `total` (from 1) of a frame that was too large. `data` is base64."""

    group: str
    part: int
    total: int
    data: str
    kind: object
    seq: object
    stream_id: object


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame of a type that this version does not know, whole."""

    seq: int
    ts_ms: int
    wire: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AliveFrame:
    """The writer has nothing to say but that it is there, or that it goes."""

    gone: bool


Frame = DataFrame | EndFrame | PartFrame | RawFrame | AliveFrame


def read_frame(wire: object) -> Frame | None:
    """The frame, or None for what is none. Unknown fields are ignored."""
    if not isinstance(wire, Mapping):
        return None
    kind = wire.get("type")
    seq = wire.get("seq") if _is_whole(wire.get("seq")) else None
    ts_ms = wire["ts"] if _is_whole(wire.get("ts")) else 0
    if kind == "stream_end":
        error = wire.get("error")
        return EndFrame(seq, error if isinstance(error, str) else None)
    if isinstance(wire.get("multipart"), Mapping):
        return _read_part(wire, wire["multipart"])
    if seq is None:
        return AliveFrame(wire.get("gone") is True) if kind == "stream_alive" else None
    if kind == "stream_data":
        chunks, encoding = wire.get("chunks"), wire.get("encoding", "utf8")
        if not isinstance(chunks, list) or not chunks or encoding not in ("utf8", "base64"):
            return None
        if not all(isinstance(chunk, str) for chunk in chunks):
            return None
        return DataFrame(seq, ts_ms, "bytes", encoding, list(chunks))
    if kind == "stream_events":
        events = wire.get("events")
        return DataFrame(seq, ts_ms, "events", "utf8", list(events)) if isinstance(events, list) and events else None
    return RawFrame(seq, ts_ms, wire)


def _read_part(wire: Mapping[str, Any], about: Mapping[str, Any]) -> PartFrame | None:
    group, part, total, data = about.get("id"), about.get("part"), about.get("total"), wire.get("data")
    if not isinstance(group, str) or not group or not isinstance(data, str):
        return None
    if not _is_whole(total) or not _is_whole(part) or total < 2 or not 1 <= part <= total:
        return None
    return PartFrame(group, part, total, data, wire.get("type"), wire.get("seq"), wire.get("streamId"))


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
