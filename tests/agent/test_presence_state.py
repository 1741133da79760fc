"""What the network sees of an instance's load, and what a task costs it in requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from control_desk import WAIT_S, Desk

from blocks_network import AgentHandle, TaskContext
from blocks_network.testing.network import Network
from blocks_network.transport import presence
from blocks_network.transport.http import POOL, ConnectionPool
from blocks_network.transport.presence import PresenceKeeper
from blocks_network.transport.pubnub import keys_of, make_client


class Wire:
    """Every request of this process to a network, in the order of their beginnings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[str, str, dict[str, list[str]]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        original, streamed = ConnectionPool.request, ConnectionPool.stream

        def stream(pool: ConnectionPool, method: str, url: str, **options: Any) -> Any:
            path, _, query = url.partition("?")
            self.requests.append((method, path, parse_qs(query)))
            return streamed(pool, method, url, **options)

        def request(pool: ConnectionPool, method: str, url: str, **options: Any) -> Any:
            path, _, query = url.partition("?")
            self.requests.append((method, path, parse_qs(query)))
            if self.kind(path) == "state" and not self.gate.is_set():
                self.held.set()
                assert self.gate.wait(WAIT_S)
            return original(pool, method, url, **options)

        monkeypatch.setattr(ConnectionPool, "request", request)
        monkeypatch.setattr(ConnectionPool, "stream", stream)

    @staticmethod
    def kind(path: str) -> str:
        for part, name in (
            *(("/publish", "publish"), ("/v1/publish-batch", "publish"), ("/v2/stream", "poll")),
            *(("/heartbeat", "heartbeat"), ("/data", "state"), ("/leave", "leave")),
        ):
            if part in path:
                return name
        return "platform"

    def of(self, instance_id: str, kind: str) -> list[dict[str, list[str]]]:
        return [
            query for _, path, query in self.requests if query.get("uuid") == [instance_id] and self.kind(path) == kind
        ]


def load_of(query: dict[str, list[str]]) -> int:
    return int(json.loads(query["state"][0])["activeTasks"])


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire(monkeypatch)
    yield wire
    wire.gate.set()


def state_of(desk: Desk, handle: AgentHandle) -> dict[str, Any]:
    client = make_client(keys_of(handle.pubnub), user_id="looker", token=handle.pubnub._get_token())
    found = client.get_state().channels([desk.channel]).uuid(handle.instance_id).sync().result.channels
    return dict(found.get(desk.channel) or found)


def wait_state(desk: Desk, handle: AgentHandle, **expected: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while (state := state_of(desk, handle)).items() & expected.items() != expected.items():
        assert time.monotonic() < deadline, state
        threading.Event().wait(0.02)


def test_the_load_is_told_as_it_rises_and_falls(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "STATE_INTERVAL_S", 0.01)
    leave = threading.Semaphore(0)
    handle = blocks.agent(lambda task: leave.acquire(timeout=WAIT_S) and None, name="loaded", concurrency=2)
    desk = Desk(blocks, handle)
    wait_state(desk, handle, activeTasks=0, concurrency=2, activeStreams=0, instanceId=handle.instance_id)
    tasks = []
    for number in (1, 2):
        tasks.append(desk.task().start())
        wait_state(desk, handle, activeTasks=number)
    leave.release(2)
    for task in tasks:
        assert task.terminal() == {"state": "completed"}
    wait_state(desk, handle, activeTasks=0)
    desk.close()


def test_a_slow_network_delays_no_task_and_the_newest_state_is_the_last(
    blocks: Network, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "STATE_INTERVAL_S", 0.0)
    go_on = threading.Event()
    handle = blocks.agent(lambda task: go_on.wait(WAIT_S) and None, name="unheld", concurrency=0)
    desk = Desk(blocks, handle)
    wire.gate.clear()
    first = desk.task().start()
    assert wire.held.wait(WAIT_S)  # a state of one task is under way, and stays so
    sent = len(wire.of(handle.instance_id, "state"))
    tasks = [desk.task().start() for _ in range(5)]
    for task in (first, *tasks):
        assert task.next()["state"] == "running"
    go_on.set()
    for task in (first, *tasks):
        assert task.terminal() == {"state": "completed"}
    wire.gate.set()
    deadline = time.monotonic() + WAIT_S
    while not (told := wire.of(handle.instance_id, "state")[sent:]) or load_of(told[-1]) != 0:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert len(told) <= 2  # twelve changes, gathered: the last slot may be free only after its terminal was heard
    desk.close()


def test_an_older_state_never_follows_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked at the moment of sending, on one thread: whoever changes the load cannot bring it out of order."""
    monkeypatch.setattr(presence, "STATE_INTERVAL_S", 0.0)
    sent, load, done = list[int](), [0], threading.Event()

    def send(keeper: PresenceKeeper) -> None:
        sent.append(keeper._state()["load"])
        if sent[-1] == 400:
            done.set()

    monkeypatch.setattr(PresenceKeeper, "_send_state", send)
    monkeypatch.setattr(PresenceKeeper, "_beat", lambda keeper: None)
    lock = threading.Lock()
    keeper = PresenceKeeper(
        None, "c", lambda: {"load": load[0]}, every_s=100, whose="test", recovered=lambda: None  # type: ignore[arg-type]
    )  # fmt: skip
    keeper.start()

    def change() -> None:
        for _ in range(100):
            with lock:
                load[0] += 1
            keeper.changed()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert done.wait(WAIT_S)
    keeper.stop()
    assert keeper.join(WAIT_S)
    assert sent == sorted(sent)


def test_an_empty_task_costs_its_events_and_no_poll(blocks: Network, wire: Wire) -> None:
    handle = blocks.agent(lambda task: None, name="frugal")
    desk = Desk(blocks, handle)
    polls = wire.of(handle.instance_id, "poll")
    assert [poll["tt"] for poll in polls].count(["0"]) == 1  # asked twice, what comes between is lost
    assert all("auth" in poll for poll in polls)  # no poll before there is a token for it
    filters = {poll["filter-expr"][0] for poll in polls}
    assert filters == {f"meta.instance == '{handle.instance_id}' || meta.broadcast == \"true\""}
    before = len(wire.requests)
    assert desk.task().start().terminal() == {"state": "completed"}
    mine = [path for _, path, query in wire.requests[before:] if query.get("uuid") == [handle.instance_id]]
    kinds = [wire.kind(path) for path in mine]
    assert kinds.count("publish") <= 2
    assert kinds.count("poll") == 0
    assert kinds.count("state") <= 2
    assert kinds.count("heartbeat") == 0
    assert not any("obs." in path for _, path, _ in wire.requests)
    desk.close()


def test_a_heartbeat_is_sent_at_the_start_and_a_leave_at_the_end(blocks: Network, wire: Wire) -> None:
    handle = blocks.agent(lambda task: None, name="beating")
    (beat,) = wire.of(handle.instance_id, "heartbeat")
    assert beat["heartbeat"] == ["20"]
    assert handle.pubnub.config.heartbeat_interval == 9
    handle.stop(0)
    assert len(wire.of(handle.instance_id, "leave")) == 1


def test_a_tasks_token_goes_with_its_events_alone(blocks: Network) -> None:
    tokens = list[str]()
    entered = threading.Barrier(2)

    def work(task: Any, ctx: TaskContext) -> None:
        entered.wait(WAIT_S)

    handle = blocks.agent(work, name="separate", concurrency=2)
    before = handle.pubnub._get_token()
    desk = Desk(blocks, handle)
    one, two = desk.task(), desk.task()
    assert one.message["writeToken"] != two.message["writeToken"]
    original = handle._instance._client_for
    handle._instance._dispatcher._instance.client_for = lambda token: (tokens.append(str(token)), original(token))[1]
    for task in (one.start(), two.start()):
        assert task.terminal() == {"state": "completed"}  # each channel takes its own token alone
    assert tokens == [one.message["writeToken"], two.message["writeToken"]]
    assert handle.pubnub._get_token() == before
    desk.close()


def test_create_stream_waits_for_nobody_to_subscribe(blocks: Network) -> None:
    took_s = list[float]()

    def work(task: Any, ctx: TaskContext) -> None:
        began = time.monotonic()
        ctx.create_stream(subscribe_grace_ms=5000).write("first")
        took_s.append(time.monotonic() - began)

    blocks.agent(work, name="graceless")
    with blocks.client() as client:
        session = client.send_message(agent_name="graceless", request_parts=[], stream=True)
        stream = session.wait_for_stream(timeout=WAIT_S).open()
        assert list(stream.bytes()) == [b"first"]
    assert took_s[0] < 1


def test_the_pool_is_one_for_the_process() -> None:
    from blocks_network.api import caller
    from blocks_network.transport import pubnub, sending

    assert caller.POOL is pubnub.POOL is sending.POOL is POOL
