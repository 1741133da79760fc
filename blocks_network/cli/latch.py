"""What a command waits on until a signal, or something else, ends it."""

from __future__ import annotations

import os
import select
import sys

__all__ = ["TURN_S", "Latch"]

TURN_S = 0.5
"""A signal that comes just before the main thread blocks does not wake it, and its handler, being Python, does not run
meanwhile: so nobody blocks for longer than this."""


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
        if sys.platform != "win32":  # where pipes cannot be waited for by select
            while not select.select([self._read], [], [], TURN_S)[0]:
                continue
        os.read(self._read, 1)
