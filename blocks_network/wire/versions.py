"""The protocol's version and how it is announced."""

from __future__ import annotations

__all__ = ["PROTOCOL_VERSION", "SUPPORTED_PROTOCOL_VERSIONS", "PROTOCOL_VERSION_HEADER", "is_supported"]

PROTOCOL_VERSION = "2026-05-01"
SUPPORTED_PROTOCOL_VERSIONS: tuple[str, ...] = (PROTOCOL_VERSION,)
PROTOCOL_VERSION_HEADER = "Blocks-Protocol-Version"


def is_supported(version: object) -> bool:
    """True for a supported version; an absent one (None) counts as the current one."""
    return version is None or version in SUPPORTED_PROTOCOL_VERSIONS
