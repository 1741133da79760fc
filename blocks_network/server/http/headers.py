"""A request's headers, as they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["header_of"]


def header_of(scope: Mapping[str, Any], name: bytes) -> bytes:
    """The first header of that name, which is in lower case; empty without one."""
    for header, value in scope.get("headers", ()):
        if header == name:
            return bytes(value)
    return b""
