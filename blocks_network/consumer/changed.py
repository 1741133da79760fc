"""The condition of a session, for those who wait on it and for those who must not: event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Changed"]


class Changed(threading.Condition):
    """Whoever waits is woken as ever; whoever watches is called, with the lock held, so it must return at once."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self._watchers: list[Callable[[], None]] = []

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake()` at each change from now on. The answer ends that."""
        with self:
            self._watchers.append(wake)

        def unwatch() -> None:
            with self:
                self._watchers.remove(wake)

        return unwatch

    def notify_all(self) -> None:
        """With the lock held."""
        super().notify_all()
        for wake in self._watchers:
            wake()
