"""An answer's head and body in one segment: the HTTP protocol writes them apart, and each write wakes the client."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Corked"]

_HEAD, _INTERIM = b"HTTP/1.1 ", b"HTTP/1.1 1"


class Corked:
    """Stands before a transport. Holds the head of an answer until its body, or until `uncork`.

    Whoever lets an answer have no body, or its body later, has to `uncork` after the head.
    """

    __slots__ = ("_held", "_transport", "_write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._write = transport, transport.write
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_HEAD) and not data.startswith(_INTERIM):
            self._held = data
            return
        self._write(data)

    def write_through(self, data: bytes) -> None:
        """A whole answer."""
        self.uncork()
        self._write(data)

    def uncork(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._write(data)

    def close(self) -> None:
        self.uncork()
        self._transport.close()
