"""What a command waits on until a signal, or something else, ends it."""

from __future__ import annotations

import os

__all__ = ["Latch"]


class Latch:
    """Set once, from any thread and from a signal handler.

    A pipe, and not an Event: a signal handler runs between two steps of the main thread, and an Event that the main
    thread is about to wait on may hold its lock just then, which would be waited for without end.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def set(self) -> None:
        """May be repeated."""
        os.write(self._write, b"!")

    def wait(self) -> None:
        """Returns when it is set. Signals are handled meanwhile."""
        os.read(self._read, 1)
