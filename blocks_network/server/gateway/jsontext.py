"""Whether a payload is what every reader will be able to parse."""

from __future__ import annotations

import json
from typing import NoReturn

import msgspec

__all__ = ["is_json", "is_utf8"]

_skim = msgspec.json.Decoder(msgspec.Raw)


def is_utf8(text: bytes) -> bool:
    """Whether it can be read as text: all that is left to ask of a part of what was decoded as JSON."""
    try:
        return text.isascii() or bool(text.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def is_json(text: bytes) -> bool:
    """Whether the text is one JSON value in UTF-8. NaN and infinities are none; half a surrogate pair is tolerated."""
    if not is_utf8(text):
        return False
    try:
        _skim.decode(text)
    except RecursionError:  # deeper than anybody could read
        return False
    except msgspec.DecodeError:
        return b"\\u" in text and _is_odd_json(text)
    return True


def _is_odd_json(text: bytes) -> bool:
    """The quick check refuses what the Python client may write: an escaped surrogate without its other half."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
