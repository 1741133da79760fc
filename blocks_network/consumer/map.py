"""Many inputs to one agent: a bounded number of tasks at a time, results in the order of the inputs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from blocks_network.backoff import Backoff
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError, ConfigurationError, RpcError, TaskEndingError, TaskFailed, TransportError

__all__ = ["AGAIN", "AHEAD", "Mapped", "check_mapping", "worth_another"]

AGAIN = Backoff(first_s=0.2, factor=2, cap_s=10)
AHEAD = 2
"""Inputs taken for each place: one that runs, one that is ready when its result waits for an earlier one."""
_NO_ROOM = frozenset({"BacklogFull", "NetworkBusy"})
_HTTP_LATER = frozenset({0, 429, 502, 503, 504})


class Mapped:
    """One iteration over `inputs`. It owns `concurrency` threads, from the first result asked for to the end."""

    def __init__(
        self,
        send: Callable[[Any], TaskSession],
        inputs: Iterable[Any],
        *,
        concurrency: int,
        retries: int,
        timeout_s: float | None,
    ) -> None:
        self._send, self._inputs = send, inputs
        self._concurrency, self._retries, self._timeout_s = concurrency, retries, timeout_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[TaskSession] = set()

    def __iter__(self) -> Iterator[TaskResult | BlocksError]:
        """Failures are values; what is no BlocksError (a part of the wrong type, say) is raised."""
        waiting: deque[Future[TaskResult | BlocksError]] = deque()
        inputs = iter(self._inputs)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="blocks-map")
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < self._concurrency * AHEAD:
                    try:
                        item = next(inputs)
                    except StopIteration:
                        more = False
                    else:
                        waiting.append(pool.submit(self._one, item))
                if waiting:
                    yield waiting.popleft().result()
        finally:
            self._end()
            pool.shutdown(wait=False, cancel_futures=True)

    def _end(self) -> None:
        """Lets the threads go: those that wait for a task stop waiting."""
        self._ended.set()
        with self._lock:
            sessions = list(self._open)
        for session in sessions:
            session.close()

    def _one(self, item: Any) -> TaskResult | BlocksError:
        for attempt in range(1, self._retries + 2):
            try:
                return self._attempt(item)
            except TaskEndingError:  # whose inputs these are is to end, and with it the iteration
                raise
            except BlocksError as fault:
                if attempt > self._retries or not worth_another(fault) or self._ended.wait(AGAIN.delay(attempt)):
                    return fault
        raise AssertionError("unreachable")

    def _attempt(self, item: Any) -> TaskResult:
        session = self._send(item)
        with self._lock:
            self._open.add(session)
        if self._ended.is_set():
            session.close()
        try:
            return session.result(self._timeout_s)
        finally:
            session.close()
            with self._lock:
                self._open.discard(session)


def check_mapping(concurrency: int, retries: int, params: Mapping[str, Any]) -> None:
    """ConfigurationError (ValueError) for what cannot be mapped."""
    if concurrency < 1 or retries < 0:
        raise ConfigurationError("map needs a concurrency of at least 1, and retries of at least 0")
    if "idempotency_key" in params:
        raise ConfigurationError("one idempotency_key would make one task of all inputs")


def worth_another(fault: BlocksError) -> bool:
    """A task that failed, and one that was never taken. Not one that may still be running, or was canceled."""
    if isinstance(fault, RpcError):
        return fault.code in _HTTP_LATER or (fault.data or {}).get("code") in _NO_ROOM
    return isinstance(fault, (TaskFailed, TransportError))
