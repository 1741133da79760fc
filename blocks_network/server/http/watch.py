"""The deadlines of one connection, over one timer that is seldom moved: it looks again when it fires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Watch"]


class Watch:
    """`late()` is called when what was expected has not come, `stuck()` when the client takes nothing of what it is
    sent; `unsent_bytes()` tells how much that is."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        late: Callable[[], None],
        stuck: Callable[[], None],
        unsent_bytes: Callable[[], int],
        take_s: float,
    ) -> None:
        self._loop, self._late, self._stuck, self._unsent_bytes_now = loop, late, stuck, unsent_bytes
        self._due_s: float | None = None
        """Until then something has to come."""
        self._taken_by_s: float | None = None
        """Until then something of these has to be taken."""
        self._unsent_bytes, self._take_s = 0, take_s
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def expect_within(self, seconds: float) -> None:
        """Something has to come from the client until then. In place of what was expected before."""
        self._due_s = self._loop.time() + seconds
        self._look_at(self._due_s)

    def expect_nothing(self) -> None:
        self._due_s = None

    def sending(self) -> None:
        """The client has to take something of what it was sent within each `take_s`, until all is taken or `sent`."""
        self._unsent_bytes, self._taken_by_s = self._unsent_bytes_now(), None
        if self._unsent_bytes:
            self._taken_by_s = self._loop.time() + self._take_s
            self._look_at(self._taken_by_s)

    def sent(self) -> None:
        self._taken_by_s = None

    def end(self) -> None:
        self._due_s = self._taken_by_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, at_s: float) -> None:
        if self._timer is not None and self._timer_s > at_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer_s, self._timer = at_s, self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        """What is due? The timer may be left from a deadline that is over."""
        self._timer = None
        now_s = self._loop.time()
        if self._taken_by_s is not None and now_s >= self._taken_by_s:
            unsent_bytes = self._unsent_bytes
            self.sending()
            if self._unsent_bytes >= unsent_bytes:
                self._stuck()
                return
        if self._due_s is not None and now_s >= self._due_s:
            self._due_s = None
            self._late()
        for at_s in (self._taken_by_s, self._due_s):
            if at_s is not None:
                self._look_at(at_s)
