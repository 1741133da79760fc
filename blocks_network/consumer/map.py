"""Many inputs to one agent: a bounded number of tasks at a time, results in the order of the inputs."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from blocks_network.backoff import Backoff
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError, ConfigurationError, RpcError, TaskEndingError, TaskFailed, TransportError

__all__ = ["AHEAD", "Mapped", "Patience", "check_mapping"]

AGAIN = Backoff(first_s=0.2, factor=2, cap_s=10)
ROOM = Backoff(first_s=0.05, factor=1.5, cap_s=1)
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
        patience = Patience(self._retries, self._timeout_s)
        while True:
            try:
                return self._attempt(item)
            except TaskEndingError:  # whose inputs these are is to end, and with it the iteration
                raise
            except BlocksError as fault:
                pause_s = patience.pause_after(fault)
                if pause_s is None or self._ended.wait(pause_s):
                    return fault

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


class Patience:
    """Of one input: how often, and how long, it is tried again.

    A task that failed, or a call that did not get through, is an attempt; of these there are `retries` more. Being told
    that there is no room is none: the input waits for room, for `timeout_s` at the most (None: as long as it takes).
    """

    def __init__(self, retries: int, timeout_s: float | None) -> None:
        self._left = retries
        self._retries = self._waits = 0
        self._room_until = math.inf if timeout_s is None else time.monotonic() + timeout_s

    def pause_after(self, fault: BlocksError) -> float | None:
        """Seconds until it is tried again; None when that fault is what became of it.

        Not tried again is a task that may still be running, or was canceled.
        """
        if isinstance(fault, RpcError) and (fault.data or {}).get("code") in _NO_ROOM:
            left_s = self._room_until - time.monotonic()
            self._waits += 1
            return min(ROOM.delay(self._waits), left_s) if left_s > 0 else None
        busy = isinstance(fault, RpcError) and fault.code in _HTTP_LATER
        if not self._left or not (busy or isinstance(fault, (TaskFailed, TransportError))):
            return None
        self._left -= 1
        self._retries += 1
        return AGAIN.delay(self._retries)
