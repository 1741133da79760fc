"""Tasks that are sent at the same time go in one request: each gets its own answer, and nobody waits in vain."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from blocks_network.api import gathering as gathering_module
from blocks_network.api.caller import Answer, Caller
from blocks_network.api.gathering import Gathering
from blocks_network.errors import RpcError, TransportError
from blocks_network.server.config import NodeConfig
from blocks_network.server.features import FEATURES
from blocks_network.server.node import Node
from blocks_network.testing.network import Network
from blocks_network.transport.http import POOL
from blocks_network.wire.rpc import request_envelope

WAIT_S = 20
TASKS = 200


def echoed(task: Any, ctx: Any) -> str:
    return str(task.request_parts[0].text)


def requests_by_operation(node: Node) -> dict[str, int]:
    """Answered calls of JSON-RPC."""
    lines = POOL.request("GET", f"{node.base_url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('blocks_requests_total{door="platform",operation="rpc/')]
    return {line.split('"')[3]: int(float(line.rpartition(" ")[2])) for line in found}


@pytest.mark.parametrize("features", [FEATURES, FEATURES - {"batch-calls"}], ids=["together", "each alone"])
def test_tasks_of_many_threads_are_each_what_was_sent(features: frozenset[str]) -> None:
    with Node(NodeConfig(features=features)) as node, Network(node) as network:
        network.agent(echoed, name="echoed", concurrency=8, max_pending_backlog=TASKS)
        client = network.client()
        with ThreadPoolExecutor(32) as pool:
            texts = list(pool.map(lambda number: client.run("echoed", str(number), timeout=WAIT_S).text, range(TASKS)))
        assert texts == [str(number) for number in range(TASKS)]
        counted = requests_by_operation(node)
        assert client.list_tasks().total_count == TASKS
    if "batch-calls" in features:
        assert counted["rpc/batch"] > 0
        assert sum(counted.values()) < TASKS / 2
    else:
        assert counted == {"rpc/SendMessage": TASKS}


def test_a_refused_task_refuses_no_other(blocks: Network) -> None:
    blocks.agent(echoed, name="one_of_two", concurrency=8, max_pending_backlog=TASKS)
    client = blocks.client()

    def send(number: int) -> str:
        name = "one_of_two" if number % 2 else "nobody_of_this_name"
        try:
            return client.run(name, str(number), timeout=WAIT_S).text
        except RpcError as refusal:
            return str((refusal.data or {}).get("code"))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(100)))
    assert answers == [str(number) if number % 2 else "AgentNotFound" for number in range(100)]


class Noted:
    """Counts what happens on other threads."""

    def __init__(self) -> None:
        self._changed, self._number = threading.Condition(), 0

    def add(self) -> None:
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def wait(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._number >= number, WAIT_S)


class NotedQueue(deque[Any]):
    """Tells how many have ever come to wait."""

    def __init__(self, noted: Noted) -> None:
        super().__init__()
        self._noted = noted

    def append(self, item: Any) -> None:
        super().append(item)
        self._noted.add()


class Held(Caller):
    """Answers when it is let, with the ids that it was asked for; `said` may say something else."""

    def __init__(self) -> None:
        super().__init__("http://nowhere.invalid")
        self.go = threading.Semaphore(0)
        self.asked: list[Any] = []
        self._noted = Noted()
        self.faults: list[BaseException] = []
        self.said: dict[str, dict[str, Any]] = {}

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        self.asked.append(body)
        self._noted.add()
        assert self.go.acquire(timeout=WAIT_S)
        if self.faults:
            raise self.faults.pop(0)
        if isinstance(body, list):
            return Answer(200, [self._one(call["id"]) for call in reversed(body)])
        return Answer(200, {"id": body["id"], "result": {"of": body["id"], "alone": True}})

    def _one(self, call_id: str) -> dict[str, Any]:
        return self.said.get(call_id) or {"id": call_id, "result": {"of": call_id}}

    def wait_asked(self, number: int) -> None:
        self._noted.wait(number)


class Crowd:
    """Threads that call at the same time: the first is under way, the others have gathered behind it."""

    def __init__(self, caller: Held, number: int, size: int = 1) -> None:
        self.caller, self.gathering, waiting = caller, Gathering(), Noted()
        self.gathering._waiting = NotedQueue(waiting)
        self.outcomes: dict[str, Any] = {}
        self._threads = [threading.Thread(target=self._run, args=(f"c{index}", size)) for index in range(number)]
        self._threads[0].start()
        caller.wait_asked(1)
        for thread in self._threads[1:]:
            thread.start()
        waiting.wait(number - 1)

    def _run(self, call_id: str, size: int) -> None:
        envelope = request_envelope(call_id, "SendMessage", {"requestParts": [{"text": "x" * size}]})
        try:
            self.outcomes[call_id] = self.gathering.call(self.caller, "/rpc", envelope).body["result"]
        except (TransportError, KeyboardInterrupt) as fault:
            self.outcomes[call_id] = fault

    def end(self, requests: int) -> dict[str, Any]:
        """The outcomes, after so many more requests were answered."""
        for _ in range(requests):
            self.caller.go.release()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert self.gathering._under_way == 0
        return self.outcomes


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes ahead by himself."""
    monkeypatch.setattr(gathering_module, "PATIENCE_S", float(WAIT_S))


@pytest.mark.usefixtures("patient")
def test_what_gathers_behind_a_call_leaves_with_the_next_one() -> None:
    crowd = Crowd(caller := Held(), 10)
    outcomes = crowd.end(2)
    assert [len(body) if isinstance(body, list) else 1 for body in caller.asked] == [1, 9]
    assert {call_id: result["of"] for call_id, result in outcomes.items()} == {f"c{n}": f"c{n}" for n in range(10)}


@pytest.mark.usefixtures("patient")
def test_large_calls_do_not_go_together() -> None:
    crowd = Crowd(caller := Held(), 4, size=gathering_module.TEXT_MAX_CHARS)
    crowd.end(4)
    assert all(isinstance(body, dict) for body in caller.asked)


@pytest.mark.usefixtures("patient")
def test_a_fault_of_the_request_is_everybodys_who_was_in_it() -> None:
    crowd = Crowd(caller := Held(), 5)
    caller.go.release()
    caller.wait_asked(2)
    caller.faults.append(TransportError("gone"))
    outcomes = crowd.end(1)
    assert "of" in outcomes["c0"]
    assert [str(outcomes[f"c{number}"]) for number in range(1, 5)] == ["gone"] * 4


@pytest.mark.usefixtures("patient")
def test_whose_thread_is_interrupted_leaves_nobody_behind() -> None:
    crowd = Crowd(caller := Held(), 5)
    caller.faults.append(KeyboardInterrupt())
    outcomes = crowd.end(2)
    assert isinstance(outcomes["c0"], KeyboardInterrupt)
    assert all("of" in outcomes[f"c{number}"] for number in range(1, 5))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "said",
    [
        {"id": "c2"},
        {"id": "other", "result": {"of": "other"}},
        {"id": "c2", "error": {"code": -32000, "data": {"code": "NetworkBusy"}}},
    ],
    ids=["nothing", "another call's", "no time now"],
)
def test_a_call_that_has_no_answer_among_several_is_made_alone(said: dict[str, Any]) -> None:
    caller = Held()
    crowd = Crowd(caller, 4)
    caller.said["c2"] = said
    outcomes = crowd.end(3)
    assert outcomes["c2"] == {"of": "c2", "alone": True}
    assert outcomes["c1"] == {"of": "c1"}


def test_where_the_network_is_far_nobody_waits_for_anothers_answer() -> None:
    crowd = Crowd(caller := Held(), 3)
    caller.wait_asked(2)  # the first has no answer yet
    crowd.end(3)
