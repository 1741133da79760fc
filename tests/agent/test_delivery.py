"""Events on their way to the network: through outages, in order, the terminal last, and nothing swallowed."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_desk import WAIT_S, Desk

sys.path.append(str(Path(__file__).parents[1] / "protocol"))  # where the gateway's harness lives

from gateway_harness import GatewayNode

from blocks_network import BlocksError, TaskContext, start_agent_instance, text_part
from blocks_network.agent.events import TaskEvents
from blocks_network.agent.loading import derive_card
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import TransportError
from blocks_network.server.bus import Answered, Draft
from blocks_network.testing.network import Network
from blocks_network.transport.publisher import Publisher
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.transport.sending import BatchSender, SingleSender
from blocks_network.transport.timers import Timers
from blocks_network.wire.control import StartTaskMessage


class Post:
    """A gateway that takes events, or answers what the test says; and a publisher before it."""

    def __init__(self, node: GatewayNode, sender: Any) -> None:
        self.node, self.taken, self.lost = node, list[dict[str, Any]](), list[tuple[str, TransportError]]()
        self.answers: list[Answered | None] = []
        node.gateway.intercept("u.", self._intercept)
        self.publisher = Publisher("test", sender=sender)
        self.publisher.start()
        keyset = node.open_keyset
        self._client = make_client(
            PubNubKeys(keyset.subscribe_key, keyset.publish_key, node.origin, False), user_id="agent"
        )

    async def _intercept(self, draft: Draft) -> Answered | None:
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            self.taken.append(json.loads(draft.payload))
        return answer

    def events(self, task_id: str = "t1") -> TaskEvents:
        task = StartTaskMessage(task_id=task_id)
        run = TaskRun(task=task, org_id="org", channel=f"u.org.{task_id}", client=self._client)
        return TaskEvents(run, self.publisher, "acme", on_lost=lambda *fault: self.lost.append(fault))

    def close(self) -> None:
        self.publisher.stop(0)
        assert self.publisher.join(WAIT_S)


@pytest.fixture(params=[SingleSender, BatchSender])
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    node = GatewayNode().start()
    post = Post(node, request.param())
    yield post
    post.close()
    node.stop()


BUSY = Answered(503, b'{"status":503,"error":true,"message":"busy"}')
NEVER = Answered(400, b'{"status":400,"error":true,"message":"no"}')


def test_an_outage_delays_events_and_changes_neither_their_order_nor_the_last_word(post: Post) -> None:
    post.answers = [BUSY, BUSY, BUSY]
    events = post.events()
    events.running()
    for number in range(5):
        events.status(f"{number}")
    events.terminal({"state": "completed"})
    assert post.publisher.flush(WAIT_S)
    assert [event.get("message", event["type"]) for event in post.taken] == [
        "progress", "0", "1", "2", "3", "4", "terminal",
    ]  # fmt: skip
    assert post.lost == []


def test_what_the_network_will_never_take_is_told_and_holds_up_nothing(post: Post) -> None:
    post.answers = [NEVER] * 2  # a batch is tried once more, one by one
    events = post.events()
    events.running()
    assert post.publisher.flush(WAIT_S)
    post.answers = []
    events.terminal({"state": "completed"})
    assert post.publisher.flush(WAIT_S)
    assert [task_id for task_id, _ in post.lost] == ["t1"]
    assert [event["type"] for event in post.taken] == ["terminal"]


def test_nothing_comes_after_the_terminal_and_there_is_one(post: Post) -> None:
    events = post.events()
    assert events.terminal({"state": "failed", "error": "x" * 100_000})
    assert not events.terminal({"state": "completed"})
    with pytest.raises(RuntimeError, match="has ended"):
        events.status("late")
    assert post.publisher.flush(WAIT_S)
    (event,) = post.taken
    assert event["state"] == "failed"
    assert 4000 < len(event["error"]) <= 4096
    assert event["error"].endswith("(cut)")


def test_what_is_left_at_the_end_of_an_outage_is_counted_and_told(post: Post) -> None:
    post.answers = [BUSY] * 1000
    events = post.events()
    events.running()
    events.terminal({"state": "completed"})
    assert post.publisher.stop(0.05) == 2
    assert [task_id for task_id, _ in post.lost] == ["t1", "t1"]


def blocks_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("blocks-")}


def test_a_start_without_a_network_raises_in_time_and_leaves_nothing_behind(blocks: Network) -> None:
    """A network that gives the configuration and then takes no connection on its PubNub origin."""
    card = derive_card("unheard", None, None, None)
    blocks.agent(lambda task: None, name="unheard").stop(0)
    before = blocks_threads()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        keyset = next(iter(blocks.node.keysets))
        keys = PubNubKeys(keyset.subscribe_key, keyset.publish_key, f"127.0.0.1:{silent.getsockname()[1]}", False)
        began = time.monotonic()
        with pytest.raises(TransportError, match="does not answer on its control channel"):
            start_agent_instance(
                AgentInstanceOptions(
                    card=card,
                    agent_name="unheard",
                    handler=lambda task: None,
                    pubnub=make_client(keys, user_id="AG-unheard-1"),
                    base_url=blocks.base_url,
                    api_key=blocks.api_key,
                    instance_id="AG-unheard-1",
                    startup_timeout_s=0.3,
                )
            )
        assert time.monotonic() - began < 8
    assert blocks_threads() - before == set()


def test_tasks_cost_no_thread_and_no_client_of_their_own(blocks: Network) -> None:
    def work(task: Any, ctx: TaskContext) -> str:
        ctx.report_status("at it")
        return "done"

    blocks.agent(work, name="thrifty")
    client = blocks.client()

    def run(number: int) -> None:
        for _ in range(number):
            session = client.send_message(agent_name="thrifty", request_parts=[text_part("go")])
            assert session.result(WAIT_S).text == "done"
            session.close()

    def agents_threads() -> int:
        return sum("thrifty" in thread.name for thread in threading.enumerate())

    run(5)
    before = agents_threads()
    run(50)
    assert agents_threads() == before


def test_a_slow_program_holds_up_no_control_message(blocks: Network) -> None:
    """on_cancel_task and on_error are the program's own time."""
    release, started = threading.Event(), threading.Semaphore(0)

    def work(task: Any, ctx: TaskContext) -> None:
        started.release()
        ctx.cancel_event.wait(WAIT_S)

    handle = blocks.agent(
        work, name="unhurried", concurrency=2, on_cancel_task=lambda task_id, pubnub: release.wait(WAIT_S)
    )
    desk = Desk(blocks, handle)
    one = desk.task().start()
    assert started.acquire(timeout=WAIT_S)
    one.control("CancelTask")
    assert one.terminal() == {"state": "canceled"}
    two = desk.task().start()
    assert started.acquire(timeout=WAIT_S)
    two.control("CancelTask")
    assert two.terminal() == {"state": "canceled"}
    release.set()
    desk.close()


def test_a_call_in_centuries_leaves_the_timers_alive() -> None:
    timers, rang = Timers("test"), threading.Event()
    timers.after(1e300, rang.clear)
    timers.start()
    timers.after(0.01, rang.set)
    assert rang.wait(WAIT_S)
    timers.stop()
    assert timers.join(WAIT_S)


def test_the_way_of_a_task_to_its_handler_is_timed_on_demand(
    blocks: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BLOCKS_PROFILE", "other, timing")
    handle = blocks.agent(lambda task: None, name="timed")
    desk = Desk(blocks, handle)
    with caplog.at_level(logging.INFO, "blocks_network"):
        task = desk.task().start()
        assert task.terminal() == {"state": "completed"}
    desk.close()
    (line,) = [line for line in caplog.messages if line.startswith("dispatch timing")]
    assert task.task_id in line
    times = [float(found) for found in re.findall(r"_ms=([0-9.]+)", line)]
    assert len(times) == 3
    assert times[0] + times[1] == pytest.approx(times[2], abs=0.01)


def test_an_on_error_that_raises_changes_nothing(blocks: Network) -> None:
    def torn(task: Any) -> None:
        raise ValueError("torn")

    def worse(task_id: str, fault: BaseException) -> None:
        raise BlocksError("worse")

    handle = blocks.agent(torn, name="worse", on_error=worse)
    desk = Desk(blocks, handle)
    for _ in range(2):
        assert desk.task().start().terminal() == {"state": "failed", "error": "torn"}
    desk.close()
