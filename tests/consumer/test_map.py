"""Many inputs to one agent: what `map` costs, and what it makes of faults of any kind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from blocks_network import BlocksError, TaskClient, file_part, text_part
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.sender import Sender
from blocks_network.errors import SessionClosedError, WaitTimeoutError
from blocks_network.server.config import NodeConfig
from blocks_network.server.features import FEATURES
from blocks_network.server.node import Node
from blocks_network.testing.network import Network

WAIT_S = 20
LARGE = 200_000
"""Bytes of a file that is uploaded before its message."""
SETS = [FEATURES, FEATURES - {"batch-calls"}, frozenset[str]()]


@pytest.fixture(params=SETS, ids=["together", "each alone", "no extension"])
def somewhere(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network that takes several messages in one request, and ones that do not."""
    with Node(NodeConfig(features=request.param)) as node, Network(node) as network:
        yield network


def echo(task: Any, ctx: Any) -> str:
    part = task.request_parts[0]
    return part.text if part.text is not None else str(len(ctx.download_input_artifact(part)))


def told(outcome: TaskResult | BlocksError) -> str:
    return outcome.text if isinstance(outcome, TaskResult) else type(outcome).__name__


def test_every_input_has_its_outcome_in_its_place(somewhere: Network) -> None:
    somewhere.agent(echo, name="echoes", concurrency=8, max_pending_backlog=1_000)
    outcomes = somewhere.client().map("echoes", map(str, range(300)), concurrency=40)
    assert [told(outcome) for outcome in outcomes] == [str(number) for number in range(300)]


def test_files_are_uploaded_beside_messages_that_need_no_upload(somewhere: Network) -> None:
    somewhere.agent(echo, name="sizes", concurrency=8, max_pending_backlog=1_000)
    inputs = [
        file_part(bytes(LARGE + number), part_id="request") if number % 3 == 0 else str(number) for number in range(30)
    ]
    outcomes = somewhere.client().map("sizes", inputs, concurrency=10)
    expected = [str(LARGE + number) if number % 3 == 0 else str(number) for number in range(30)]
    assert [told(outcome) for outcome in outcomes] == expected


def test_two_hundred_at_a_time_are_no_two_hundred_threads(blocks: Network) -> None:
    all_run, go_on = threading.Barrier(201), threading.Event()

    def waits(task: Any) -> str:
        all_run.wait(WAIT_S)
        assert go_on.wait(WAIT_S)
        return "done"

    blocks.agent(waits, name="crowd", concurrency=200)
    before = set(threading.enumerate())
    outcomes = iter(blocks.client().map("crowd", ["x"] * 200, concurrency=200))
    first: list[Any] = []
    reader = threading.Thread(target=lambda: first.append(next(outcomes)))
    reader.start()
    all_run.wait(WAIT_S)
    new = {thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("blocks-task-")}
    assert len(new) <= 6, new
    go_on.set()
    reader.join(WAIT_S)
    assert [told(outcome) for outcome in [*first, *outcomes]] == ["done"] * 200


def test_who_takes_too_long_is_said_to_and_holds_up_nobody(blocks: Network) -> None:
    def slow(task: Any, ctx: Any) -> str:
        if task.request_parts[0].text == "slow":
            ctx.cancel_event.wait(WAIT_S)
        return "done"

    blocks.agent(slow, name="slow_one", concurrency=4)
    client = blocks.client()
    outcomes = list(client.map("slow_one", ["a", "slow", "b", "c"], concurrency=2, timeout=0.5))
    assert [told(outcome) for outcome in outcomes] == ["done", "WaitTimeoutError", "done", "done"]
    late = outcomes[1]
    assert isinstance(late, WaitTimeoutError)
    assert "within 0.5 s" in str(late)
    assert late.task_id is not None
    client.cancel_task(late.task_id)


def test_what_is_no_request_is_raised_in_its_turn(blocks: Network) -> None:
    blocks.agent(echo, name="picky_map")
    outcomes = blocks.client().map("picky_map", ["a", 5, "b"])
    assert told(next(outcomes)) == "a"
    with pytest.raises(TypeError, match="int"):
        next(outcomes)
    wrong_file = {"partId": "request", "file": 5}
    outcomes = blocks.client().map("picky_map", ["a", wrong_file, "b"])
    assert told(next(outcomes)) == "a"
    with pytest.raises(TypeError, match="request"):
        next(outcomes)


def test_a_destroyed_client_ends_what_it_maps(blocks: Network) -> None:
    started = threading.Semaphore(0)

    def waits(task: Any, ctx: Any) -> None:
        started.release()
        ctx.cancel_event.wait(WAIT_S)

    handle = blocks.agent(waits, name="left_waiting", concurrency=4)
    client = blocks.client()
    outcomes: list[Any] = []
    reader = threading.Thread(target=lambda: outcomes.extend(client.map("left_waiting", ["x"] * 4, concurrency=4)))
    reader.start()
    for _ in range(4):
        assert started.acquire(timeout=WAIT_S)
    client.destroy()
    reader.join(WAIT_S)
    assert [type(outcome) for outcome in outcomes] == [SessionClosedError] * 4
    handle.stop(0)


def test_the_threads_end_with_the_iteration(blocks: Network) -> None:
    blocks.agent(echo, name="brief")
    before = set(threading.enumerate())
    outcomes: Any = blocks.client().map("brief", iter(lambda: "x", None), concurrency=3)
    assert told(next(outcomes)) == "x"
    outcomes.close()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("blocks-map"):
            thread.join(WAIT_S)
            assert not thread.is_alive()


def test_a_session_is_freed_when_nobody_holds_it(blocks: Network) -> None:
    """By its count of references: the garbage collector would take a third of a busy client's time."""
    blocks.agent(echo, name="freed")
    client: TaskClient = blocks.client()
    client.run("freed", "warm")
    kept: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            with client.send_message(agent_name="freed", request_parts=[text_part(str(number))]) as session:
                assert session.wait_for_terminal(WAIT_S).state == "completed"
                kept.append(weakref.ref(session.inside))
        del session
        alive = threading.Event()
        for _ in range(100):  # the sessions' thread lets the last one go in a moment of its own
            if kept[-1]() is None or alive.wait(0.02):
                break
        assert [reference() for reference in kept] == [None] * 3
    finally:
        gc.enable()


def test_an_input_that_cannot_be_sent_spoils_none_that_go_with_it(somewhere: Network) -> None:
    somewhere.agent(echo, name="neighbours", concurrency=4)
    client = somewhere.client()
    no_text: dict[str, Any] = {"partId": "request", "text": 5}
    outcomes = list(client.map("neighbours", ["a", "b", no_text, "c"], concurrency=4))
    assert [told(outcome) for outcome in outcomes] == ["a", "b", "RpcError", "c"]
    no_json: dict[str, Any] = {"partId": "request", "text": "x", "metadata": {1, 2}}
    for concurrency in (1, 4):
        mapped = client.map("neighbours", ["a", "b", no_json, "c"], concurrency=concurrency)
        assert [told(next(mapped)), told(next(mapped))] == ["a", "b"]
        with pytest.raises(TypeError, match="JSON"):
            next(mapped)


def test_what_is_sent_when_the_iteration_is_given_up_is_not_followed(
    somewhere: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages are on their way at that moment, and their sessions come later."""
    somewhere.agent(echo, name="given_up", concurrency=4)
    client = somewhere.client()
    client.run("given_up", "warm")
    sending, go_on, sent = threading.Event(), threading.Event(), threading.Event()
    send_all = Sender.send_all

    def late(sender: Sender, messages: Any) -> Any:
        if not messages or messages[0][0].request_parts[0].text == "first":
            return send_all(sender, messages)
        sending.set()
        assert go_on.wait(WAIT_S)
        sessions = send_all(sender, messages)
        followed.extend(sessions)
        sent.set()
        return sessions

    followed: list[Any] = []
    monkeypatch.setattr(Sender, "send_all", late)
    outcomes: Any = client.map("given_up", ["first", "x", "y"], concurrency=1)
    assert told(next(outcomes)) == "first"
    assert sending.wait(WAIT_S)
    outcomes.close()
    go_on.set()
    assert sent.wait(WAIT_S)
    for thread in threading.enumerate():
        if thread.name.startswith("blocks-map"):
            thread.join(WAIT_S)
    assert [session.inside.closed for session in followed] == [True]


def test_a_destroyed_client_sends_no_more_inputs(blocks: Network) -> None:
    ran: list[str] = []

    def note(task: Any) -> None:
        ran.append(str(task.request_parts[0].text))

    blocks.agent(note, name="no_more")
    client = blocks.client()

    def inputs() -> Iterator[str]:
        yield "first"
        client.destroy()
        for number in range(50):
            yield str(number)

    outcomes = [told(outcome) for outcome in client.map("no_more", inputs(), concurrency=1)]
    assert set(outcomes[1:]) == {"SessionClosedError"}
    assert set(ran) <= {"first"}
