"""The protocol's version and how it is announced."""

from __future__ import annotations

__all__ = ["SDK_VERSION", "PROTOCOL_VERSION", "SUPPORTED_PROTOCOL_VERSIONS", "PROTOCOL_VERSION_HEADER", "is_supported"]

SDK_VERSION = "1.1.0.dev0"
"""The distribution's version; a test holds it equal to pyproject.toml (reading metadata at import would cost time)."""
PROTOCOL_VERSION = "2026-05-01"
SUPPORTED_PROTOCOL_VERSIONS: tuple[str, ...] = (PROTOCOL_VERSION,)
PROTOCOL_VERSION_HEADER = "Blocks-Protocol-Version"


def is_supported(version: object) -> bool:
    """True for a supported version; an absent one (None) counts as the current one."""
    return version is None or version in SUPPORTED_PROTOCOL_VERSIONS
