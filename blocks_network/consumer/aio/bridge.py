"""Between an event loop and the threads of the client under it: blocking calls there, callbacks and news here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from blocks_network.consumer.changed import Changed
from blocks_network.errors import ConfigurationError

__all__ = ["Bridge", "News"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_DELIVERING: ContextVar[object] = ContextVar("delivering", default=None)


class Bridge:
    """One event loop and the threads that do for it what would block: requests and files, never waits for a task."""

    def __init__(self, threads: int) -> None:
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError as fault:
            raise ConfigurationError(
                "an AsyncTaskClient is made where an event loop runs", hint="make it inside of a coroutine"
            ) from fault
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blocks-aio")

    async def call(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        """`work(*args, **named)` on a thread. A cancelled caller does not stop it once it has begun."""
        return await self.loop.run_in_executor(self._pool, partial(work, *args, **named))

    async def open(self, work: Callable[[], T], close: Callable[[T], object]) -> T:
        """As `call`, for what has to be closed when the caller was cancelled and nobody is there to take it."""
        opened = self._pool.submit(work)
        try:
            return await asyncio.wrap_future(opened)
        except asyncio.CancelledError:
            opened.add_done_callback(partial(_close_orphan, close=close))
            raise

    async def call_apart(self, work: Callable[[], T]) -> T:
        """As `call`, on a thread of its own: for work that itself waits for callbacks on the loop, which may need the
        others."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as fault:  # noqa: BLE001 - it is raised where it is awaited
                done.set_exception(fault)

        threading.Thread(target=run, name="blocks-aio-register", daemon=True).start()
        return await asyncio.shield(asyncio.wrap_future(done))

    def blocking(self, callback: Callable[..., Any], whose: object = None) -> Callable[..., Any]:
        """A function for the threads below that has `callback` (plain or async) done on the loop, and waits for it.

        So a session's callbacks keep their order, and what they raise finds its way to on_error.
        """

        async def called(*args: Any) -> Any:
            _DELIVERING.set(whose)
            answer = callback(*args)
            return await answer if inspect.isawaitable(answer) else answer

        def call(*args: Any) -> Any:
            begun = self._begin(called(*args))
            try:
                return None if begun is None else begun.result()
            except concurrent.futures.CancelledError:
                log.debug("the event loop ended during a callback")
                return None

        return call

    def telling(self, callback: Callable[..., Any]) -> Callable[..., None]:
        """The same for who must not wait, since it may be on the loop itself. What the callback raises is logged."""

        async def called(*args: Any) -> None:
            try:
                answer = callback(*args)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                log.debug("an on_error callback raised", exc_info=True)

        return lambda *args: void(self._begin(called(*args)))

    def delivers(self, whose: object) -> bool:
        """True within a callback of `whose`."""
        return _DELIVERING.get() is whose

    def _begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T] | None:
        """None when the loop is closed."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as fault:
            work.close()
            log.debug("a callback came after the end of its event loop: %s", fault)
            return None


class News:
    """Waits on a session's state without blocking. A context manager: it watches within."""

    def __init__(self, bridge: Bridge, changed: Changed) -> None:
        self._loop, self._changed = bridge.loop, changed
        self._some = asyncio.Event()

    def __enter__(self) -> News:
        self._unwatch = self._changed.watch(self._wake)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwatch()

    async def until(self, ready: Callable[[], T], deadline: float | None = None) -> T:
        """The first true answer of `ready`, which is asked with the session's lock held. asyncio.TimeoutError at
        `deadline` (of the monotonic clock)."""
        while True:
            self._some.clear()
            with self._changed:
                answer = ready()
            if answer:
                return answer
            await self._news_or(deadline)

    async def _news_or(self, deadline: float | None) -> None:
        """Not by asyncio.wait_for: before Python 3.12 it loses a cancel that comes together with the news."""
        if deadline is None:
            await self._some.wait()
            return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise asyncio.TimeoutError
        timer = self._loop.call_later(left_s, self._some.set)
        try:
            await self._some.wait()
        finally:
            timer.cancel()

    def _wake(self) -> None:
        """On whatever thread brings the news."""
        try:
            self._loop.call_soon_threadsafe(self._some.set)
        except RuntimeError as fault:
            log.debug("news came after the end of their event loop: %s", fault)


def void(_: object) -> None:
    """Nobody waits for it."""


def _close_orphan(opened: concurrent.futures.Future[T], *, close: Callable[[T], object]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        close(opened.result())
