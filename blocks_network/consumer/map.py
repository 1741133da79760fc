"""Many inputs to one agent: a bounded number of tasks at a time, results in the order of the inputs."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from blocks_network.wire.rpc import BUSY_CODES

__all__ = ["AHEAD", "Mapped", "Patience", "check_mapping"]

AGAIN = Backoff(first_s=0.2, factor=2, cap_s=10)
ROOM = Backoff(first_s=0.05, factor=1.5, cap_s=1)
AHEAD = 2
"""Inputs taken for each place: one that runs, one that is ready when its result waits for an earlier one."""
HELPERS = 32
BATCH_MAX = 16
"""Messages in one request: more would make the agent wait for the first of them."""
_NO_ROOM = frozenset({"BacklogFull", *BUSY_CODES})
_HTTP_LATER = frozenset({0, 429, 502, 503, 504})


class _Place:
    """One input on its way to its outcome."""

    __slots__ = ("deadline_s", "message", "outcome", "patience", "session", "slow")

    def __init__(self, message: SendMessageParams) -> None:
        self.message = message
        self.patience: Patience | None = None
        """From its first attempt on."""
        self.outcome: TaskResult | BaseException | None = None
        self.session: TaskSession | None = None
        """While its task runs, or is not known to have ended."""
        self.deadline_s = math.inf
        self.slow = may_be_slow(message.request_parts)
        """It goes alone, and holds up nobody."""


class Mapped:
    """One iteration over `inputs`, from the first result asked for to the end.

    One thread owns the places, and is told what happens to them: an input is there, messages are sent, a session is
    over, it is time. It never waits for anything else. Helpers send, one of them as many as there is room for in one
    request; where the network takes no more than one, and for messages with files, there are more of them. Nobody waits
    for a single task, so `concurrency` costs no threads.
    """

    def __init__(
        self,
        sender: Sender,
        message: Callable[[Any], SendMessageParams],
        inputs: Iterable[Any],
        *,
        concurrency: int,
        retries: int,
        timeout_s: float | None,
    ) -> None:
        """`message` makes one of an input."""
        self._sender, self._message, self._inputs = sender, message, inputs
        self._concurrency, self._retries, self._timeout_s = concurrency, retries, timeout_s
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        """What happened, as what the thread has to do about it; None: the iteration is over."""
        self._outbox: SimpleQueue[list[_Place] | None] = SimpleQueue()
        self._told = threading.Condition()
        self._awaited: _Place | None = None
        """The one whose outcome the iteration waits for."""
        self._broken: BaseException | None = None
        """Why the thread has ended by itself."""
        self._over = False
        # the thread's own
        self._ready: deque[_Place] = deque()
        self._running: dict[_Place, None] = {}
        """Being sent, or sent and not settled."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._helpers = self._sending = 0
        self._gathers = False
        """Several are being sent at once."""
        self._looks = False
        """It will be looked whose time is over."""

    def __iter__(self) -> Iterator[TaskResult | BlocksError]:
        """Failures are values; what is no BlocksError (a part of the wrong type, say) is raised."""
        waiting: deque[_Place] = deque()
        inputs = iter(self._inputs)
        try:
            threading.Thread(target=self._run, name="blocks-map", daemon=True).start()
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
        try:
            place = _Place(self._message(item))
        except Exception as fault:  # noqa: BLE001 - raised in its turn: the outcomes before it come first
            place = _Place(SendMessageParams(request_parts=()))
            place.outcome = fault
        else:
            self._events.put(partial(self._ready.append, place))
        return place

    def _outcome_of(self, place: _Place) -> TaskResult | BlocksError:
        self._sender.check_process()
        with self._told:
            self._awaited = place
            self._told.wait_for(lambda: place.outcome is not None or self._broken is not None)
            self._awaited = None
            outcome = place.outcome if place.outcome is not None else self._broken
        assert outcome is not None
        # whose inputs these are is to end, and with it the iteration; what is no fault of ours is the caller's
        if isinstance(outcome, TaskEndingError) or not isinstance(outcome, (TaskResult, BlocksError)):
            raise outcome
        return outcome

    # --- the thread

    def _run(self) -> None:
        try:
            while self._digest():
                self._give_out()
        except BaseException as fault:  # noqa: BLE001 - the thread's edge: whoever iterates gets it
            with self._told:
                self._broken = fault
                self._told.notify()
        finally:
            with self._told:
                self._over = True  # what is sent from here on its helper lets go
            for _ in range(self._helpers):
                self._outbox.put(None)
            with contextlib.suppress(Empty):
                while True:
                    (self._events.get_nowait() or _nothing)()
            for place in self._running:
                if place.session is not None:  # the tasks themselves go on
                    place.session.close()

    def _digest(self) -> bool:
        """Waits for something to do, and does all there is. False at the end."""
        wait = True
        while True:
            try:
                event = self._events.get(wait, self._pause_s() if wait else None)
            except Empty:
                self._do_what_is_due()
                return True
            if event is None:
                return False
            event()
            wait = False

    def _pause_s(self) -> float | None:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _do_what_is_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), call))

    # --- sending

    def _give_out(self) -> None:
        while taken := self._take():
            self._sending += 1
            if self._sending > self._helpers:
                self._helpers += 1
                # a daemon: an executor's threads are waited for at exit, and take nothing from then on
                threading.Thread(target=self._help, name=f"blocks-map-{self._helpers}", daemon=True).start()
            self._outbox.put(taken)

    def _take(self) -> list[_Place]:
        """What one helper sends now."""
        taken: list[_Place] = []
        most = BATCH_MAX if self._sender.together else 1
        while self._ready and len(self._running) < self._concurrency and len(taken) < most:
            place = self._ready[0]
            if self._sending >= HELPERS or (taken and (taken[0].slow or place.slow)):
                break
            if self._gathers and not place.slow:
                break
            taken.append(self._ready.popleft())
            self._running[place] = None
            place.patience = place.patience or Patience(self._retries, self._timeout_s)
        if taken and self._sender.together and not taken[0].slow:
            self._gathers = True
        return taken

    def _help(self) -> None:
        while (taken := self._outbox.get()) is not None:
            outcomes = self._send(taken)
            with self._told:
                if not self._over:
                    self._events.put(partial(self._sent, taken, outcomes))
                    continue
            for outcome in outcomes.values():
                if not isinstance(outcome, BaseException):
                    outcome.close()

    def _send(self, taken: list[_Place]) -> dict[_Place, TaskSession | BaseException]:
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
        except Exception as fault:  # noqa: BLE001 - one of them cannot be sent: the others can, and are no second task
            for place, wire in messages.items():
                try:
                    outcomes[place] = fault if len(messages) == 1 else self._sender.send_all([(place.message, wire)])[0]
                except Exception as own:  # noqa: BLE001 - the same
                    outcomes[place] = own
        return outcomes

    # --- what became of it

    def _sent(self, taken: list[_Place], outcomes: Mapping[_Place, TaskSession | BaseException]) -> None:
        self._sending -= 1
        if not taken[0].slow:
            self._gathers = False
        for place, outcome in outcomes.items():
            if isinstance(outcome, BaseException):
                self._failed(place, outcome)
            else:
                self._follow(place, outcome)

    def _follow(self, place: _Place, session: TaskSession) -> None:
        place.session = session
        if self._timeout_s is not None:
            place.deadline_s = time.monotonic() + self._timeout_s
            if not self._looks:
                self._looks = True
                self._later(self._timeout_s, self._look)
        session.inside.when_over(partial(self._events.put, partial(self._settle, place, session)))

    def _look(self) -> None:
        """Whose time is over, and when the next one's will be."""
        now_s = time.monotonic()
        self._looks = False
        for place in [place for place in self._running if place.deadline_s <= now_s]:
            if place.session is not None:
                self._settle(place, place.session)
        next_s = min((place.deadline_s for place in self._running), default=math.inf)
        if next_s < math.inf:
            self._looks = True
            self._later(max(0.0, next_s - now_s), self._look)

    def _settle(self, place: _Place, session: TaskSession) -> None:
        """Its task has ended, cannot be followed any more, or its time is over."""
        if place.session is not session:  # both has happened
            return
        place.session = None
        try:
            result = _result_of(session, self._timeout_s)
        except Exception as fault:  # noqa: BLE001 - whoever iterates gets it, in its turn
            self._failed(place, fault)
        else:
            self._conclude(place, result)
        finally:
            session.close()

    def _failed(self, place: _Place, fault: BaseException) -> None:
        pause_s = None
        if isinstance(fault, BlocksError) and place.patience is not None:
            pause_s = place.patience.pause_after(fault)
        if pause_s is None:
            self._conclude(place, fault)
            return
        over = self._sender.over()
        if over is not None:
            self._conclude(place, over)
            return
        del self._running[place]
        place.deadline_s = math.inf
        self._later(pause_s, partial(self._ready.append, place))

    def _conclude(self, place: _Place, outcome: TaskResult | BaseException) -> None:
        del self._running[place]
        with self._told:
            place.outcome = outcome
            if self._awaited is place:
                self._told.notify()


def _nothing() -> None: ...


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
