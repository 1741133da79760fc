"""Calls that several threads make at the same time, in one request, where the network offers `batch-calls`.

The first call leaves at once, on its own thread; what gathers while it is under way leaves together with the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from blocks_network.api.caller import Answer, Caller
from blocks_network.errors import BlocksError, TransportError
from blocks_network.wire.rpc import BUSY_CODES, error_code

__all__ = ["FEATURE", "Gathering"]

FEATURE = "batch-calls"
PATIENCE_S = 0.01
"""How long a call waits for the one under way: where the network is far, it leaves then by itself."""
UNDER_WAY_MAX = 8
CALLS_MAX, TEXT_MAX_CHARS = 50, 256 * 1024
"""In one request. Networks take 100 calls and bodies of 1 MiB."""


class _Call:
    __slots__ = ("answer", "envelope", "fault", "leads", "size", "turn")

    def __init__(self, envelope: Mapping[str, Any]) -> None:
        self.envelope, self.size = envelope, _size_of(envelope)
        self.answer: Answer | None = None
        self.fault: BlocksError | None = None
        self.leads = False
        """It is to be sent by its own thread, with others."""
        self.turn = threading.Lock()
        self.turn.acquire()


class Gathering:
    """One for a client: all calls go as the same identity. Safe for threads.

    For calls that may be made twice: whatever is strange about an answer to several, each is made once more alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._under_way = 0

    def call(self, caller: Caller, path: str, envelope: Mapping[str, Any]) -> Answer:
        """The answer to a call that is POSTed as JSON, with the errors of `Caller.call`."""
        mine = _Call(envelope)
        with self._lock:
            if self._under_way:
                self._waiting.append(mine)
            else:
                self._under_way = 1
                mine.leads = True
        if not mine.leads:
            self._wait(mine)
        if mine.leads:
            self._lead(mine, caller, path)
        if mine.fault is not None:
            raise mine.fault
        return mine.answer or caller.call("POST", path, envelope, repeatable=True)

    @staticmethod
    def together(caller: Caller, path: str, envelopes: Sequence[Mapping[str, Any]]) -> list[Answer | None]:
        """The answers to calls of one thread, in as few requests as they fit into; None for one to be made alone.

        That the network has no time now is an answer: whoever has so many calls makes them again together.
        """
        calls = deque(map(_Call, envelopes))
        answers: list[Answer | None] = []
        while calls:
            batch = _packed(calls.popleft(), calls)
            _exchange(caller, path, batch, any_answer=True)
            answers += [call.answer for call in batch]
        return answers

    def _wait(self, mine: _Call) -> None:
        """Returns when it leads, or was answered."""
        try:
            if mine.turn.acquire(timeout=PATIENCE_S):
                return
            with self._lock:
                if mine in self._waiting and self._under_way < UNDER_WAY_MAX:
                    self._waiting.remove(mine)
                    self._under_way += 1
                    mine.leads = True
                    return
            mine.turn.acquire()
        except BaseException:  # Ctrl+C: others must not wait for somebody who has gone
            with self._lock:
                if mine.leads:
                    self._pass_on()
                elif mine in self._waiting:
                    self._waiting.remove(mine)
            raise

    def _lead(self, mine: _Call, caller: Caller, path: str) -> None:
        """Sends one's own call with what has gathered."""
        with self._lock:
            batch = _packed(mine, self._waiting)
        others = batch[1:]
        try:
            _exchange(caller, path, batch)
        except BlocksError as fault:
            for call in batch:
                call.fault = fault
        except BaseException:
            for call in others:
                call.fault = TransportError("the thread that sent this call was interrupted")
            raise
        finally:
            with self._lock:
                self._pass_on()
            for call in others:
                call.turn.release()

    def _pass_on(self) -> None:
        """With the lock held. The next one in line leads; without one there is a request less."""
        if self._waiting:
            call = self._waiting.popleft()
            call.leads = True
            call.turn.release()
        else:
            self._under_way -= 1


def _packed(first: _Call, waiting: deque[_Call]) -> list[_Call]:
    """The first, and those that fit into a request with it, taken from what waits."""
    batch, size = [first], first.size
    while waiting and len(batch) < CALLS_MAX and size + waiting[0].size <= TEXT_MAX_CHARS:
        batch.append(waiting.popleft())
        size += batch[-1].size
    return batch


def _exchange(caller: Caller, path: str, batch: list[_Call], *, any_answer: bool = False) -> None:
    if len(batch) == 1:
        batch[0].answer = caller.call("POST", path, batch[0].envelope, repeatable=True)
        return
    answer = caller.call("POST", path, [call.envelope for call in batch], repeatable=True)
    if not (answer.ok and isinstance(answer.body, list)):
        return  # each is made alone, and learns for itself what is wrong
    by_id = {said.get("id"): said for said in answer.body if isinstance(said, dict) and (any_answer or _is_final(said))}
    for call in batch:
        said = by_id.get(call.envelope["id"])
        if said is not None:
            call.answer = Answer(answer.status, said)


def _is_final(said: Mapping[str, Any]) -> bool:
    """A result, or a refusal that would be the same if the call were made again."""
    error = said.get("error")
    return "result" in said or (error is not None and error_code(error) not in BUSY_CODES)


def _size_of(envelope: Mapping[str, Any]) -> int:
    """About how long it is as text: what makes a call large are the texts of its parts."""
    parts = envelope["params"].get("requestParts") or ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return 1_000 + sum(len(text) for text in texts if isinstance(text, str))
