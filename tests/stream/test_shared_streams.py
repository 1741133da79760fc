"""One stream for all tasks of an instance, on a real network."""

from __future__ import annotations

import itertools
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from blocks_network import TaskContext, TaskSession, text_part
from blocks_network.stream import StreamClient
from blocks_network.testing.network import Network

WAIT_S = 10.0
CARD = {
    "identity": {"agentName": "whoever"},
    "capabilities": {"taskKinds": ["request", "pipe"]},
    "streams": {
        "ticks": {"direction": "outbound", "format": "events", "affinity": "shared"},
        "orders": {"direction": "inbound", "format": "events", "affinity": "shared"},
    },
}


class Sharer:
    """An agent and its consumer. The agent's name is the test's own: a shared stream's channel outlives a task."""

    _numbers = itertools.count(1)

    def __init__(self, blocks: Network) -> None:
        self.blocks, self.client = blocks, blocks.client()
        self.name = f"sharer_{next(self._numbers)}"

    def agent(self, handler: Any) -> Any:
        card = {**CARD, "identity": {"agentName": self.name}}
        return self.blocks.agent(handler, name=self.name, card=card, concurrency=4)

    def pipe(self) -> TaskSession:
        return self.client.send_message(
            agent_name=self.name, request_parts=[text_part("go")], stream=True, task_kind="pipe", duration=5
        )


@pytest.fixture
def sharer(blocks: Network) -> Sharer:
    return Sharer(blocks)


def opened(session: TaskSession, name: str) -> StreamClient:
    return session.wait_for_stream(name, timeout=WAIT_S).open()


def test_one_writer_serves_all_tasks_and_goes_with_the_last(sharer: Sharer) -> None:
    streams: queue.Queue[Any] = queue.Queue()
    fed, ended = queue.Queue[Any](), threading.Event()

    def feed(stream: Any) -> None:
        stream.on_end(ended.set)
        fed.put(stream)

    def share(task: Any, ctx: TaskContext) -> None:
        streams.put(ctx.create_stream(declared_stream="ticks", on_activate=feed))
        ctx.cancel_event.wait(WAIT_S)

    sharer.agent(share)
    first, second = sharer.pipe(), sharer.pipe()
    mine, theirs = streams.get(timeout=WAIT_S), streams.get(timeout=WAIT_S)
    assert mine is not theirs
    assert mine.uuid == theirs.uuid
    assert mine.stream_id == "ticks"
    source = fed.get(timeout=WAIT_S)
    readers = [opened(session, "ticks") for session in (first, second)]
    events = [reader.events() for reader in readers]
    source.write({"tick": 1})
    assert [next(each) for each in events] == [{"tick": 1}] * 2

    first.cancel()
    assert first.wait_for_terminal(timeout=WAIT_S).state == "canceled"
    source.write({"tick": 2})
    assert next(events[1]) == {"tick": 2}, "the feed goes on for the others when the first task has left"
    assert fed.empty(), "on_activate of those who joined is ignored"

    second.cancel()
    assert second.wait_for_terminal(timeout=WAIT_S).state == "canceled"
    assert ended.wait(WAIT_S)
    with pytest.raises(RuntimeError, match="has ended"):
        source.write({"tick": 3})


def test_a_task_that_asks_again_gets_the_very_same_object_also_from_two_threads(sharer: Sharer) -> None:
    seen: queue.Queue[Any] = queue.Queue()

    def share(task: Any, ctx: TaskContext) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: ctx.create_stream(declared_stream="ticks"), range(8)))
        seen.put(made)

    sharer.agent(share)
    session = sharer.pipe()
    made = seen.get(timeout=WAIT_S)
    assert len({id(stream) for stream in made}) == 1
    announced = [event for event in session.list_events() if event.get("streamEvent")]
    assert len(announced) <= 1
    session.cancel()


def test_end_gives_back_one_tasks_part_and_the_stream_can_be_had_anew(sharer: Sharer) -> None:
    uuids: list[str] = []

    def share(task: Any, ctx: TaskContext) -> None:
        for _ in range(2):
            stream = ctx.create_stream(declared_stream="ticks")
            uuids.append(stream.uuid)
            stream.write({"of": len(uuids)})
            stream.end()
            assert not stream.is_active

    sharer.agent(share)
    session = sharer.pipe()
    events = opened(session, "ticks").events()
    assert [next(events), next(events)] == [{"of": 1}, {"of": 2}], "the second writer is no duplicate of the first"
    assert uuids[0] != uuids[1]
    session.cancel()


def test_fail_stream_reaches_every_task(sharer: Sharer) -> None:
    ready = threading.Barrier(3)

    def share(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream(declared_stream="ticks")
        ready.wait(WAIT_S)
        ctx.cancel_event.wait(WAIT_S)

    handle = sharer.agent(share)
    sessions = [sharer.pipe() for _ in range(2)]
    ready.wait(WAIT_S)
    handle.fail_stream("ticks", "the exchange closed")
    for session in sessions:
        terminal = session.wait_for_terminal(timeout=WAIT_S)
        assert (terminal.state, terminal["error"]) == ("failed", "the exchange closed")


def test_several_consumers_write_and_one_of_them_ends_nothing_for_the_others(sharer: Sharer) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def take(task: Any, ctx: TaskContext) -> None:
        for order in ctx.create_stream(declared_stream="orders").events():
            got.put(order)

    sharer.agent(take)
    sessions = [sharer.pipe() for _ in range(2)]
    writers = [opened(session, "orders") for session in sessions]
    for number, writer in enumerate(writers):
        writer.write({"of": number})
        assert got.get(timeout=WAIT_S) == {"of": number}
    writers[0].end()
    writers[1].write(["again"])
    assert got.get(timeout=WAIT_S) == ["again"]
    for session in sessions:
        session.cancel()
        assert session.wait_for_terminal(timeout=WAIT_S).state == "canceled"
