"""JSON by a faster library where there is one (msgspec: extra `fast`, and with the network), and never another result.

Whatever that library would read or write in another way than Python's own is left to Python's own: what one process
takes and sends does not depend on what else is installed.
"""

from __future__ import annotations

import json
from importlib import import_module
from math import isfinite
from typing import Any

__all__ = ["decode", "encode_plain"]


def _faster() -> Any:
    try:
        library, found = import_module("msgspec"), import_module("msgspec.json")
    except ImportError:
        return None
    # before 0.21 its faults are no ValueErrors; and those versions that read numbers wrongly are older still
    return found if issubclass(library.DecodeError, ValueError) else None


_FASTER = _faster()
"""None where it is not installed, or too old."""


def decode(text: bytes) -> Any:
    """As `json.loads` of UTF-8. ValueError (also its UnicodeDecodeError) or RecursionError for what is no JSON."""
    if _FASTER is not None:
        try:
            return _FASTER.decode(text)
        except (ValueError, RecursionError):
            pass  # it knows neither NaN nor single surrogates, and json has the words for what is wrong
    return json.loads(text)


def encode_plain(value: object) -> bytes | None:
    """The JSON of texts, whole and finite numbers, booleans, None, and lists and dicts of these; compact, in UTF-8.

    None for any other value, and where only Python's own encoder is there: call that.
    """
    if _FASTER is None:
        return None
    try:
        return bytes(_FASTER.encode(value)) if _is_plain(value) else None
    except (ValueError, OverflowError, RecursionError):  # single surrogates, and what is too deep
        return None


_SCALARS = frozenset({str, int, bool, type(None)})


def _is_plain(value: object) -> bool:
    """By exact types: a subclass may have its own idea of its JSON."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                return False
            if not (type(item) in _SCALARS or _is_plain(item)):
                return False
        return True
    if kind is list:
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    if kind is float:
        return isfinite(value)  # type: ignore[arg-type]
    return kind in _SCALARS
