"""A fixed bearer: for programs that manage their own tokens."""

from __future__ import annotations

__all__ = ["StaticAuthProvider"]


class StaticAuthProvider:
    """Always the same token; a 401 is never worth a retry."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def get_auth_header(self) -> str | None:
        return self._header

    def on_auth_failure(self) -> bool:
        return False
