"""The condition of a session, for those who wait on it and for those who must not: event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Changed"]


class Changed(threading.Condition):
    """Whoever waits is woken as ever; whoever watches is called, with the lock held, so it must return at once."""

    def __init__(self) -> None:
        super().__init__()  # over an RLock: over a Lock, making one takes twice as long
        self._watchers: list[Callable[[], None]] = []

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake()` at each change from now on. The answer ends that."""
        with self:
            self.add_watcher(wake)

        def unwatch() -> None:
            with self:
                self.remove_watcher(wake)

        return unwatch

    def add_watcher(self, wake: Callable[[], None]) -> None:
        """With the lock held: `watch` for good."""
        self._watchers.append(wake)

    def remove_watcher(self, wake: Callable[[], None]) -> None:
        """With the lock held, also from within `wake`."""
        self._watchers.remove(wake)

    def notify_all(self) -> None:
        """With the lock held."""
        super().notify_all()
        for wake in tuple(self._watchers):
            wake()
