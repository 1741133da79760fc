"""The set-up of an instance's streams against a gateway whose answers a test decides."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import GatewayNode
from stream_ends import DEADLINE_S

from blocks_network import StartTaskMessage
from blocks_network.agent.streams import AgentStreams, TaskStreams
from blocks_network.agent.tasks import TaskRun
from blocks_network.errors import TaskEndedError
from blocks_network.server.access.permissions import Bits
from blocks_network.server.bus import Answered, Draft
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.wire.channels import setup_channel, task_channel
from blocks_network.wire.setup import SetupAnswer, StreamSetup, refusal_body, success_body

CARD = {"streams": {"ticks": {"direction": "outbound", "format": "events", "affinity": "shared"}}}


class Desk:
    """Answers set-ups as the network does, unless `answer` says otherwise. `close` holds them until `open`."""

    def __init__(self, node: GatewayNode) -> None:
        self._node = node
        self._changed = threading.Condition()
        self.setups: list[StreamSetup] = []
        self._open = asyncio.Event()
        self._open.set()
        self.answer: Callable[[StreamSetup], Answered | None] = self.grant
        node.gateway.intercept("setup.", self)

    async def __call__(self, draft: Draft) -> Answered | None:
        setup = StreamSetup.from_wire(json.loads(draft.payload))
        with self._changed:
            self.setups.append(setup)
            self._changed.notify_all()
        await self._open.wait()
        return self.answer(setup)

    def grant(self, setup: StreamSetup, *, token: str | None = None) -> Answered:
        granted = token or self._node.mint(channels={setup.channel: Bits.READ | Bits.WRITE})
        answer = SetupAnswer(
            setup.task_id,
            setup.stream_id,
            setup.channel,
            setup.direction,
            setup.phase,
            5,
            None if setup.phase == "activate" else granted,
        )
        return Answered(403, success_body(answer))

    def close(self) -> None:
        self._node.call(self._open.clear)

    def open(self) -> None:
        self._node.call(self._open.set)

    def wait_setups(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.setups) >= number, DEADLINE_S)

    @property
    def phases(self) -> list[tuple[str, str]]:
        return [(setup.task_id, setup.phase) for setup in self.setups]


class Agency:
    """An instance's streams, with what they tell their instance."""

    def __init__(self, node: GatewayNode) -> None:
        self._node = node
        self._made: list[AgentStreams] = []
        self.failed: list[tuple[str, str]] = []
        self.streams = self.make(CARD)

    def make(self, card: dict[str, Any], running_time_s: int | None = None) -> AgentStreams:
        streams = AgentStreams(
            "acme",
            card,
            whose="test",
            running_time_s=running_time_s,
            fail_task=lambda task_id, reason, cause: self.failed.append((task_id, reason)),
            undelivered=lambda task_id, fault: None,
            changed=lambda: None,
        )
        self._made.append(streams)
        return streams

    def run(self, task_id: str = "t1", *, kind: str = "pipe", duration: float | None = 7) -> TaskRun:
        keyset = self._node.keyset
        keys = PubNubKeys(keyset.subscribe_key, keyset.publish_key, self._node.origin, False)
        token = self._node.mint(channels={setup_channel(task_id, "org"): Bits.WRITE})
        task = StartTaskMessage(task_id=task_id, task_kind=kind, duration=duration, has_stream=True)
        client = make_client(keys, user_id="agent", token=token)
        return TaskRun(task=task, org_id="org", channel=task_channel(task_id, "org"), client=client)

    def task(self, task_id: str = "t1", **options: Any) -> TaskStreams:
        return self.streams.of(self.run(task_id, **options))

    def close(self) -> None:
        for streams in self._made:
            streams.stop(1)


@pytest.fixture
def desk(node: GatewayNode) -> Iterator[Desk]:
    desk = Desk(node)
    yield desk
    desk.open()


@pytest.fixture
def agency(node: GatewayNode) -> Iterator[Agency]:
    agency = Agency(node)
    yield agency
    agency.close()


def test_a_refusal_says_why_in_the_networks_words(desk: Desk, agency: Agency) -> None:
    desk.answer = lambda setup: Answered(403, refusal_body("InvalidArgument", "no such affinity"))
    with pytest.raises(RuntimeError, match="InvalidArgument: no such affinity"):
        agency.task().create_stream()
    assert len(desk.setups) == 1, "a refusal is not tried again"
    assert agency.streams.active_count == 0


def test_a_network_that_delivers_the_set_up_has_no_streams(agency: Agency) -> None:
    with pytest.raises(RuntimeError, match="does not offer streams"):
        agency.task().create_stream()


def test_a_real_denial_and_a_grant_without_token_are_no_streams(desk: Desk, agency: Agency) -> None:
    desk.answer = lambda setup: Answered(403, b'{"status":403,"message":"Forbidden"}')
    with pytest.raises(RuntimeError, match="Forbidden"):
        agency.task().create_stream()
    desk.answer = lambda setup: Answered(
        403, success_body(SetupAnswer(setup.task_id, setup.stream_id, setup.channel, "outbound", setup.phase, 5))
    )
    with pytest.raises(RuntimeError, match="without a token"):
        agency.task().create_stream()


def test_a_transport_fault_is_tried_again(desk: Desk, agency: Agency) -> None:
    faults = iter([Answered(503, b"{}")])
    desk.answer = lambda setup: next(faults, None) or desk.grant(setup)
    stream = agency.task().create_stream()
    assert len(desk.setups) == 2
    assert stream.is_active


@pytest.mark.parametrize(
    ("kind", "duration", "running_time_s", "minutes"),
    [
        ("pipe", 7, None, 7),
        ("pipe", 0.5, None, 1),
        ("pipe", None, 90, 60),
        ("request", None, None, 60),
        ("request", None, 61, 2),
        ("pipe", 10**9, None, 43_200),
    ],
)
def test_tokens_are_asked_for_as_long_as_the_task_lasts(
    desk: Desk, agency: Agency, kind: str, duration: float | None, running_time_s: int | None, minutes: int
) -> None:
    streams = agency.make({}, running_time_s)
    streams.of(agency.run(kind=kind, duration=duration)).create_stream()
    assert desk.setups[0].duration_minutes == minutes


def test_ids_count_for_each_task(desk: Desk, agency: Agency) -> None:
    streams = agency.make({})
    for task_id in ("t1", "t2"):
        task = streams.of(agency.run(task_id))
        assert [task.create_stream().stream_id for _ in range(2)] == [f"{task_id}-1", f"{task_id}-2"]
    assert streams.active_count == 4


def test_whoever_comes_second_waits_for_the_first_and_makes_no_second_writer(desk: Desk, agency: Agency) -> None:
    desk.close()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(agency.task("t1").create_stream)
        desk.wait_setups(1)
        second = pool.submit(agency.task("t2", duration=9).create_stream)
        desk.open()
        one, other = first.result(DEADLINE_S), second.result(DEADLINE_S)
    assert one is not other
    assert one.uuid == other.uuid
    assert desk.phases == [("t1", "embedded"), ("t2", "activate")]
    assert [setup.duration_minutes for setup in desk.setups] == [7, 9], "each task's token has its own life"
    assert agency.streams.active_count == 1


def test_a_first_one_that_fails_bricks_nothing(desk: Desk, agency: Agency) -> None:
    desk.close()
    desk.answer = lambda setup: Answered(403, refusal_body("TaskEnded", "gone"))
    with ThreadPoolExecutor(3) as pool:
        tasks = [agency.task("t1"), agency.task("t2")]
        futures = [pool.submit(tasks[0].create_stream)]
        desk.wait_setups(1)
        futures += [pool.submit(tasks[0].create_stream), pool.submit(tasks[1].create_stream)]
        desk.open()
        for future in futures:
            with pytest.raises(RuntimeError, match="gone"):
                future.result(DEADLINE_S)
    desk.answer = desk.grant
    agency.task("t3").create_stream()
    assert desk.phases[-1] == ("t3", "embedded")


def test_one_that_cannot_join_leaves_the_stream_to_the_others(desk: Desk, agency: Agency) -> None:
    stream = agency.task("t1").create_stream()
    desk.answer = lambda setup: Answered(403, refusal_body("TaskEnded", "gone"))
    with pytest.raises(RuntimeError, match="gone"):
        agency.task("t2").create_stream()
    assert stream.is_active
    stream.end()
    assert agency.streams.active_count == 0


def test_a_shared_streams_token_is_renewed_through_a_task_that_still_lives(
    node: GatewayNode, desk: Desk, agency: Agency
) -> None:
    useless = node.mint(channels={"stream.acme.nothing": Bits.WRITE})
    desk.answer = lambda setup: desk.grant(setup, token=useless if setup.phase == "embedded" else None)
    first, second = agency.task("t1"), agency.task("t2")
    first.create_stream()
    stream = second.create_stream()
    first.end_all()
    stream.write({"tick": 1})
    stream.end()
    assert desk.phases == [("t1", "embedded"), ("t2", "activate"), ("t2", "token_request")]


def test_a_task_that_ends_during_the_set_up_leaves_no_stream(desk: Desk, agency: Agency) -> None:
    desk.close()
    task = agency.task()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(task.create_stream)
        desk.wait_setups(1)
        task.end_all()
        desk.open()
        with pytest.raises(TaskEndedError):
            made.result(DEADLINE_S)
    assert agency.streams.active_count == 0
    with pytest.raises(TaskEndedError):
        task.create_stream()


def test_a_stream_can_be_failed_during_its_set_up(desk: Desk, agency: Agency) -> None:
    desk.close()
    task = agency.task()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(task.create_stream)
        desk.wait_setups(1)
        agency.streams.fail_stream("ticks", "not today")
        desk.open()
        with pytest.raises(RuntimeError, match="not today"):
            made.result(DEADLINE_S)
    assert agency.failed == [("t1", "not today")]
    assert agency.streams.active_count == 0


def test_a_write_waits_while_the_task_is_paused(desk: Desk, agency: Agency) -> None:
    run = agency.run()
    stream = agency.streams.of(run).create_stream()
    run.pause()
    written = threading.Event()

    def write() -> None:
        stream.write({"tick": 1})
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not written.is_set()
    run.resume()
    assert written.wait(DEADLINE_S)
    thread.join()


def test_an_ending_instance_makes_no_new_streams(desk: Desk, agency: Agency) -> None:
    stream = agency.task("t1").create_stream()
    ended = threading.Event()
    stream.on_end(ended.set)
    assert agency.streams.stop(DEADLINE_S)
    assert ended.is_set()
    with pytest.raises(RuntimeError, match="ending"):
        agency.task("t2").create_stream()
