"""Calls a user's handler, whatever its form: plain, one argument, generator, `async def`."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from blocks_network.agent.context import TaskContext
from blocks_network.agent.results import Artifact, artifact_bytes, artifacts_of
from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import ConfigurationError, HandlerResultError

__all__ = ["AsyncHandlers", "HandlerCancelled", "Invocation"]

Write = Callable[[Any], None]


class AsyncHandlers:
    """One event loop on one thread, for all `async def` handlers of an instance. Started by the first of them."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Any) -> Future[Any]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name=f"blocks-async-{self._whose}", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self, timeout_s: float) -> bool:
        """Ends the loop; coroutines that still run are cancelled. True when the thread has ended."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return True
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout_s)
        if thread.is_alive():
            return False
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        return True


class HandlerCancelled(Exception):
    """A coroutine handler let itself be cancelled, after its task was asked to end."""


class Invocation:
    """A handler whose form was looked at once, at the start of the instance."""

    def __init__(self, handler: Callable[..., Any], loops: AsyncHandlers) -> None:
        self._handler, self._loops = handler, loops
        self._with_context = _takes_context(handler)

    def __call__(self, run: TaskRun, ctx: TaskContext, write: Write | None) -> list[Artifact]:
        """Runs the handler to its end and returns its artifacts. Raises what it raised.

        What a generator yields goes to `write` (the task's stream) where there is one, else it is collected. A
        generator is closed at its next yield once the task is to end; a coroutine is cancelled (HandlerCancelled).
        """
        result = self._handler(run.task, ctx) if self._with_context else self._handler(run.task)
        gathered: list[Any] = []
        if inspect.isasyncgen(result):
            gathered, result = self._await(_drained(result, run, write), run), None
        elif inspect.isawaitable(result):
            result = self._await(result, run)
        elif inspect.isgenerator(result):
            gathered, result = _run_generator(result, run, write)
        return _collected(gathered) + artifacts_of(result)

    def _await(self, awaitable: Any, run: TaskRun) -> Any:
        async def await_it() -> Any:
            return await awaitable

        future = self._loops.submit(await_it())
        run.when_ending(lambda: _cancel(future))
        try:
            return future.result()
        except CancelledError as fault:
            raise HandlerCancelled("the handler was cancelled") from fault


def _cancel(future: Future[Any]) -> None:
    future.cancel()


def _takes_context(handler: Callable[..., Any]) -> bool:
    """False for `handler(task)`. ConfigurationError when it can be called neither way."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some callables of C extensions show none; the full form is the protocol's
        return True
    for arguments, with_context in (((None, None), True), ((None,), False)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return with_context
    name = getattr(handler, "__qualname__", repr(handler))
    raise ConfigurationError(
        f"the handler {name}{signature} cannot be called with a task", hint="write handler(task, ctx) or handler(task)"
    )


def _run_generator(steps: Any, run: TaskRun, write: Write | None) -> tuple[list[Any], Any]:
    gathered: list[Any] = []
    try:
        while not run.is_ending:
            try:
                value = next(steps)
            except StopIteration as end:
                return gathered, end.value
            _take(value, gathered, write)
    finally:
        steps.close()
    return gathered, None


async def _drained(steps: Any, run: TaskRun, write: Write | None) -> list[Any]:
    gathered: list[Any] = []
    try:
        async for value in steps:
            if run.is_ending:
                break
            if write is None:
                _take(value, gathered, None)
            else:  # a full stream blocks, and must not block the other coroutines
                await asyncio.to_thread(_take, value, gathered, write)
    finally:
        await steps.aclose()
    return gathered


def _take(value: Any, gathered: list[Any], write: Write | None) -> None:
    if value is None:
        return
    if write is None:
        gathered.append(value)
    else:
        write(value)


def _collected(values: list[Any]) -> list[Artifact]:
    """What a generator yielded, as one artifact: texts joined, bytes joined, anything else a JSON list."""
    if not values:
        return []
    if all(isinstance(value, str) for value in values):
        return artifacts_of("".join(values))
    if all(isinstance(value, (bytes, bytearray, memoryview)) for value in values):
        return artifacts_of(b"".join(artifact_bytes(value, "a yielded value") for value in values))
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as fault:
        raise HandlerResultError(
            f"the handler yielded what is no JSON: {fault}", hint="yield str, bytes or JSON objects, of one kind"
        ) from fault
    return [Artifact(text.encode("utf-8", "surrogatepass"), "application/json")]
