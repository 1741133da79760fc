"""Many inputs to one agent: a bounded number of tasks at a time, results in the order of the inputs."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from blocks_network.backoff import Backoff
from blocks_network.consumer.params import SendMessageParams
from blocks_network.consumer.parts import may_be_slow
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.sender import Sender
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import (
    BlocksError,
    ConfigurationError,
    RpcError,
    TaskEndingError,
    TaskFailed,
    TransportError,
    WaitTimeoutError,
)

__all__ = ["AHEAD", "Mapped", "Patience", "check_mapping"]

AGAIN = Backoff(first_s=0.2, factor=2, cap_s=10)
ROOM = Backoff(first_s=0.05, factor=1.5, cap_s=1)
AHEAD = 2
"""Inputs taken for each place: one that runs, one that is ready when its result waits for an earlier one."""
HELPERS = 32
BATCH_MAX = 16
"""Messages in one request: more would make the agent wait for the first of them."""
LOOK_S = 5.0
"""How late it may be noticed that a task has taken too long."""
_NO_ROOM = frozenset({"BacklogFull", "NetworkBusy"})
_HTTP_LATER = frozenset({0, 429, 502, 503, 504})


class _Place:
    """One input on its way to its outcome."""

    __slots__ = ("deadline_s", "message", "outcome", "patience", "session", "slow")

    def __init__(self, message: SendMessageParams, patience: Patience) -> None:
        self.message, self.patience = message, patience
        self.outcome: TaskResult | BaseException | None = None
        self.session: TaskSession | None = None
        """While its task runs, or is not known to have ended."""
        self.deadline_s = math.inf
        self.slow = may_be_slow(message.request_parts)
        """It goes alone, and holds up nobody."""


class Mapped:
    """One iteration over `inputs`, from the first result asked for to the end.

    One thread owns the places, and is told what happens to them: an input is there, a session is over. It sends as many
    as there is room for in one request; where the network takes no more than one, and for messages with files, helpers
    send. Nobody waits for a single task, so `concurrency` costs no threads.
    """

    def __init__(
        self,
        sender: Sender,
        message: Callable[[Any], SendMessageParams],
        later: Callable[[float, Callable[[], None]], object],
        inputs: Iterable[Any],
        *,
        concurrency: int,
        retries: int,
        timeout_s: float | None,
    ) -> None:
        """`message` makes one of an input; `later(delay_s, call)` is a timer."""
        self._sender, self._message, self._later, self._inputs = sender, message, later, inputs
        self._concurrency, self._retries, self._timeout_s = concurrency, retries, timeout_s
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        """What happened, as what the thread has to do about it; None: the iteration is over."""
        self._told = threading.Condition()
        self._awaited: _Place | None = None
        """The one whose outcome the iteration waits for."""
        # the thread's own
        self._ready: deque[_Place] = deque()
        self._running: dict[_Place, None] = {}
        """Being sent, or sent and not settled."""
        self._watching = False

    def __iter__(self) -> Iterator[TaskResult | BlocksError]:
        """Failures are values; what is no BlocksError (a part of the wrong type, say) is raised."""
        waiting: deque[_Place] = deque()
        inputs = iter(self._inputs)
        threading.Thread(target=self._run, name="blocks-map", daemon=True).start()
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < self._concurrency * AHEAD:
                    try:
                        item = next(inputs)
                    except StopIteration:
                        more = False
                    else:
                        waiting.append(self._place_for(item))
                if waiting:
                    yield self._outcome_of(waiting.popleft())
        finally:
            self._events.put(None)

    def _place_for(self, item: Any) -> _Place:
        patience = Patience(self._retries, self._timeout_s)
        try:
            place = _Place(self._message(item), patience)
        except Exception as fault:  # noqa: BLE001 - raised in its turn: the outcomes before it come first
            place = _Place(SendMessageParams(request_parts=()), patience)
            place.outcome = fault
        else:
            self._events.put(partial(self._ready.append, place))
        return place

    def _outcome_of(self, place: _Place) -> TaskResult | BlocksError:
        with self._told:
            self._awaited = place
            self._told.wait_for(lambda: place.outcome is not None)
            self._awaited = None
        outcome = place.outcome
        assert outcome is not None
        # whose inputs these are is to end, and with it the iteration; what is no fault of ours is the caller's
        if isinstance(outcome, TaskEndingError) or not isinstance(outcome, (TaskResult, BlocksError)):
            raise outcome
        return outcome

    # --- the thread

    def _run(self) -> None:
        helpers = ThreadPoolExecutor(min(self._concurrency, HELPERS), thread_name_prefix="blocks-map-helper")
        try:
            while self._digest(wait=not self._has_room()):
                taken = self._take()
                if not taken:
                    continue
                if self._sender.together and not taken[0].slow:
                    self._send(taken)()
                else:
                    helpers.submit(self._send_apart, taken)
        finally:
            helpers.shutdown(wait=False, cancel_futures=True)
            for place in self._running:
                if place.session is not None:  # the tasks themselves go on
                    place.session.close()

    def _digest(self, *, wait: bool) -> bool:
        """Does what is due. False at the end."""
        while True:
            try:
                event = self._events.get(wait)
            except Empty:
                return True
            if event is None:
                return False
            event()
            wait = False

    def _has_room(self) -> bool:
        return bool(self._ready) and len(self._running) < self._concurrency

    def _take(self) -> list[_Place]:
        """What is sent now."""
        taken: list[_Place] = []
        while self._has_room() and len(taken) < (BATCH_MAX if self._sender.together else 1):
            if taken and (taken[0].slow or self._ready[0].slow):
                break
            taken.append(self._ready.popleft())
            self._running[taken[-1]] = None
        return taken

    def _send(self, taken: list[_Place]) -> Callable[[], None]:
        """On a helper, or on the thread. Returns what the thread has to do about it."""
        outcomes: dict[_Place, TaskSession | BaseException] = {}
        messages: dict[_Place, Mapping[str, Any]] = {}
        for place in taken:
            try:
                messages[place] = self._sender.prepare(place.message)
            except Exception as fault:  # noqa: BLE001 - whoever iterates gets it, in its turn
                outcomes[place] = fault
        try:
            sent = self._sender.send_all([(place.message, wire) for place, wire in messages.items()])
            outcomes |= zip(messages, sent, strict=True)
        except Exception as fault:  # noqa: BLE001 - the same
            outcomes |= dict.fromkeys(messages, fault)
        return partial(self._sent, outcomes)

    def _send_apart(self, taken: list[_Place]) -> None:
        self._events.put(self._send(taken))

    def _sent(self, outcomes: Mapping[_Place, TaskSession | BaseException]) -> None:
        for place, outcome in outcomes.items():
            if isinstance(outcome, BaseException):
                self._failed(place, outcome)
            else:
                self._follow(place, outcome)

    def _follow(self, place: _Place, session: TaskSession) -> None:
        place.session = session
        if self._timeout_s is not None:
            place.deadline_s = time.monotonic() + self._timeout_s
            self._watch()
        session.inside.when_over(partial(self._events.put, partial(self._settle, place)))

    def _watch(self) -> None:
        """Looks now and then whether somebody's time is over."""
        if self._timeout_s is not None and self._running and not self._watching:
            self._watching = True
            self._later(min(self._timeout_s, LOOK_S), partial(self._events.put, self._look))

    def _look(self) -> None:
        self._watching = False
        now_s = time.monotonic()
        for place in [place for place in self._running if place.deadline_s <= now_s]:
            self._settle(place)
        self._watch()

    def _settle(self, place: _Place) -> None:
        """Its task has ended, cannot be followed any more, or its time is over."""
        session, place.session = place.session, None
        if session is None:  # both has happened
            return
        try:
            result = _result_of(session, self._timeout_s)
        except Exception as fault:  # noqa: BLE001 - whoever iterates gets it, in its turn
            self._failed(place, fault)
        else:
            self._conclude(place, result)
        finally:
            session.close()

    def _failed(self, place: _Place, fault: BaseException) -> None:
        pause_s = place.patience.pause_after(fault) if isinstance(fault, BlocksError) else None
        if pause_s is None:
            self._conclude(place, fault)
            return
        del self._running[place]
        place.deadline_s = math.inf
        self._later(pause_s, partial(self._events.put, partial(self._ready.append, place)))

    def _conclude(self, place: _Place, outcome: TaskResult | BaseException) -> None:
        del self._running[place]
        with self._told:
            place.outcome = outcome
            if self._awaited is place:
                self._told.notify()


def _result_of(session: TaskSession, timeout_s: float | None) -> TaskResult:
    """Of a session that is over, or that had its time."""
    try:
        return session.result(0)
    except WaitTimeoutError:
        raise session._timed_out("did not end", timeout_s) from None


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
