"""A request's body and query: bounded, parsed, and its fields checked one by one with their names in the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from blocks_network.server.api.errors import ApiRefusal, bad_request

__all__ = ["choice_field", "item_of", "number_field", "query_field", "read_object", "read_objects", "text_field"]

MAX_DEPTH = 64
"""Nesting of JSON. Nothing of the protocol comes near; readers and writers of JSON recurse."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. ApiRefusal 413 as soon as it is known to be larger."""
    refusal = ApiRefusal(413, "BODY_TOO_LARGE", f"a body of at most {max_bytes} bytes is taken here")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise refusal
    chunks, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise bad_request("the body did not arrive")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise refusal
        if not message.get("more_body"):
            return b"".join(chunks)


async def read_object(request: Request, max_bytes: int, *, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; `optional` takes an empty body as {}. ApiRefusal 400 or 413."""
    body = await read_body(request, max_bytes)
    return _object(_parsed(body) if body.strip() or not optional else {})


async def read_objects(request: Request, max_bytes: int) -> dict[str, Any] | list[bytes]:
    """The body as a JSON object, or, of a list, the JSON of each item, for `item_of`. ApiRefusal 400 or 413."""
    body = await read_body(request, max_bytes)
    if not body.lstrip().startswith(b"["):
        return _object(_parsed(body))
    return [bytes(item) for item in _decoded(_items, body)]


def item_of(body: bytes) -> Any:
    """One item of `read_objects`. ApiRefusal 400."""
    return _parsed(body, MAX_DEPTH - 1)


_anything, _items = msgspec.json.Decoder(), msgspec.json.Decoder(list[msgspec.Raw])


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise bad_request(f"the body is not JSON: {fault}", "INVALID_JSON") from fault
    except RecursionError:
        raise _too_deep() from None


def _parsed(body: bytes, depth: int = MAX_DEPTH) -> Any:
    value = _decoded(_anything, body)
    if body.count(b"{") + body.count(b"[") > depth and _is_deeper(value, depth):
        raise _too_deep()
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object", "INVALID_JSON")
    return value


def _too_deep() -> ApiRefusal:
    return bad_request(f"the body is nested more than {MAX_DEPTH} levels deep", "INVALID_JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    floor = [value]
    while floor and levels:
        levels -= 1
        floor = [
            item
            for holder in floor
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, (dict, list))
        ]
    return bool(floor)


def text_field(body: Mapping[str, Any], name: str, *, max_bytes: int, required: bool = False) -> str | None:
    """A text without control characters. None when it is absent, null or empty; ApiRefusal 400 names the field."""
    value = body.get(name)
    if value is None or value == "":
        if required:
            raise bad_request(f"{name} is required")
        return None
    if not isinstance(value, str):
        raise bad_request(f"{name} must be a text")
    if len(value.encode()) > max_bytes:
        raise bad_request(f"{name} is longer than {max_bytes} bytes")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise bad_request(f"{name} holds control characters")
    return value


def query_field(query: Mapping[str, str], name: str) -> str | None:
    """A text of the address, None when it is absent. ApiRefusal 400 for one that no database could look for."""
    value = query.get(name)
    if value is not None and "\x00" in value:
        raise bad_request(f"{name} holds a NUL character")
    return value


def choice_field(body: Mapping[str, Any], name: str, among: tuple[str, ...]) -> str:
    """A required text that is one of `among`."""
    value = body.get(name)
    if not isinstance(value, str) or value not in among:
        raise bad_request(f"{name} must be one of {', '.join(among)}")
    return value


def number_field(body: Mapping[str, Any], name: str, *, low: int, high: int) -> int | None:
    """A whole number from `low` to `high`, None when it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_request(f"{name} must be a whole number from {low} to {high}")
    return value
