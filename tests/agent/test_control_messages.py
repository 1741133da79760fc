"""What an instance makes of each control message: run, refuse, ignore, end. Said by the test, over the real network."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from control_desk import WAIT_S, Desk

from blocks_network import TaskContext
from blocks_network.testing.network import Network
from blocks_network.wire.control import start_task_fault

OLD = "2019-01-01"
AHEAD_MS = (time.time() + 600) * 1000


class Stage:
    """An instance whose handler waits for `go_on`, or for its end."""

    def __init__(self, blocks: Network) -> None:
        self.blocks = blocks
        self.began: list[str] = []
        self.started, self.go_on = threading.Semaphore(0), threading.Event()
        self.faults: list[tuple[str, BaseException]] = []

    def agent(self, **options: Any) -> Desk:
        options = {"handler": self.work, "on_error": lambda *fault: self.faults.append(fault), **options}
        self.handle = self.blocks.agent(name="controlled", **options)
        self.desk = Desk(self.blocks, self.handle)
        return self.desk

    def work(self, task: Any, ctx: TaskContext) -> None:
        self.began.append(task.task_id)
        self.started.release()
        while not (self.go_on.wait(0.01) or ctx.cancel_event.is_set()):
            continue

    def wait_started(self) -> None:
        assert self.started.acquire(timeout=WAIT_S)

    def close(self) -> None:
        self.go_on.set()
        self.desk.close()


@pytest.fixture
def stage(blocks: Network) -> Iterator[Stage]:
    stage = Stage(blocks)
    yield stage
    stage.close()


def pipe(**fields: Any) -> dict[str, Any]:
    return {"taskKind": "pipe", "duration": 1, "durationExpiresAtMs": AHEAD_MS, **fields}


def quick(task: Any) -> None:
    return None


def test_a_start_that_comes_again_runs_nothing_twice_during_the_task_and_after_it(stage: Stage) -> None:
    desk = stage.agent(concurrency=2)
    task = desk.task().start()
    stage.wait_started()
    task.start()
    stage.go_on.set()
    assert task.terminal() == {"state": "completed"}
    task.start()
    task.nothing_more(desk.task().start())
    assert stage.began.count(task.task_id) == 1


def test_another_protocol_version_is_refused_when_it_was_meant_for_us(stage: Stage) -> None:
    desk = stage.agent(handler=quick)
    ignored = desk.task(protocolVersion=OLD).start(broadcast=True)
    refused = desk.task(protocolVersion=OLD).start()
    event = refused.next()
    assert (event["state"], event["error"]) == ("failed", "unsupported_protocol_version")
    assert event["protocolVersion"] == OLD
    ignored.nothing_more(desk.task(protocolVersion=...).start())


@pytest.mark.parametrize(
    "fields",
    [
        {"requestParts": None},
        {"requestParts": "text"},
        {"requestParts": [1]},
        {"callerClaims": []},
        {"hasStream": "false"},
        pipe(duration=True),
        pipe(duration=0),
        pipe(duration=1.5),
        pipe(duration=43_201),
        pipe(duration=...),
        pipe(durationExpiresAtMs=True),
        pipe(durationExpiresAtMs=0),
    ],
    ids=lambda fields: "-".join(f"{name}={value}" for name, value in fields.items() if value != AHEAD_MS),
)
def test_a_malformed_start_gets_a_terminal_not_silence(stage: Stage, fields: dict[str, Any]) -> None:
    task = stage.agent().task(**fields).start()
    assert task.terminal() == {"state": "failed", "error": "invalid_start_task"}
    assert stage.began == []


@pytest.mark.parametrize("minutes", [math.nan, math.inf, 0.5, -1, "5", None])
def test_no_life_of_a_pipe_is_guessed(minutes: object) -> None:
    assert start_task_fault({"taskKind": "pipe", "duration": minutes, "durationExpiresAtMs": 1}) is not None
    assert start_task_fault({"taskKind": "pipe", "duration": 1, "durationExpiresAtMs": minutes}) is not None or (
        isinstance(minutes, float) and 0 < minutes < math.inf
    )
    assert start_task_fault({"taskKind": "pipe", "duration": 1.0, "durationExpiresAtMs": 1}) is None


def test_a_start_without_a_usable_id_and_what_is_no_message_are_passed_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    desk = stage.agent(handler=quick)
    with caplog.at_level(logging.DEBUG, "blocks_network"):
        for message in ({"type": "StartTask"}, {"type": "StartTask", "taskId": 7}, {"type": "Unheard"}, [1], "x"):
            desk.say(message)  # type: ignore[arg-type]
        assert desk.task().start().terminal() == {"state": "completed"}
    assert "ignored a StartTask without a usable taskId" in caplog.text
    assert "ignored a control message of unknown type" in caplog.text


def test_a_full_instance_refuses_what_was_meant_for_it_and_leaves_the_rest_to_others(stage: Stage) -> None:
    desk = stage.agent()
    first = desk.task().start()
    stage.wait_started()
    left = desk.task().start(broadcast=True)
    refused = desk.task().start()
    assert refused.terminal() == {"state": "failed", "error": "agent_at_capacity"}
    stage.go_on.set()
    assert first.terminal() == {"state": "completed"}
    left.nothing_more(desk.task().start())


def test_a_cancel_that_overtakes_its_start_is_remembered(stage: Stage) -> None:
    task = stage.agent().task()
    task.control("CancelTask")
    task.start()
    assert task.terminal() == {"state": "canceled"}
    assert stage.began == []


@pytest.mark.parametrize(
    ("ends", "request_ends", "pipe_ends"),
    [
        (["CancelTask"], {"state": "canceled"}, {"state": "canceled"}),
        (
            ["ExpireTask"],
            {"state": "canceled", "completionReason": "duration_expired"},
            {"state": "completed", "completionReason": "duration_expired"},
        ),
        (["TerminateTask"], *[{"state": "canceled", "reason": "terminated"}] * 2),
        (
            ["ExpireTask", "TerminateTask"],
            {"state": "canceled", "reason": "terminated", "completionReason": "duration_expired"},
            {"state": "completed", "reason": "terminated", "completionReason": "duration_expired"},
        ),
        (["CancelTask", "CancelTask", "CancelTask"], {"state": "canceled"}, {"state": "canceled"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_each_way_of_asking_a_task_to_end(
    stage: Stage, ends: list[str], request_ends: dict[str, Any], pipe_ends: dict[str, Any]
) -> None:
    desk = stage.agent(concurrency=2, handler=held(ends, stage))
    for fields, expected in (({}, request_ends), (pipe(), pipe_ends)):
        task = desk.task(**fields).start()
        stage.wait_started()
        for kind in ends:
            task.control(kind)
        assert {**task.terminal()} == expected


def held(ends: list[str], stage: Stage) -> Any:
    """Ends only when the instance has heard of all ends."""

    def work(task: Any, ctx: TaskContext) -> None:
        stage.started.release()
        assert ctx.cancel_event.wait(WAIT_S)
        run = stage.handle._instance._table.find(task.task_id)
        assert run is not None
        deadline = time.monotonic() + WAIT_S
        while len(run.asked_to_end()) < len(set(ends)) and time.monotonic() < deadline:
            threading.Event().wait(0.005)

    return work


def test_ends_of_tasks_that_are_not_here_do_nothing(stage: Stage) -> None:
    desk = stage.agent(handler=quick)
    unknown = desk.task()
    for kind in ("ExpireTask", "TerminateTask", "PauseTask", "ResumeTask", "RetryTask"):
        unknown.control(kind)
    unknown.nothing_more(desk.task().start())


def test_a_pipe_whose_time_was_over_before_it_came_ends_at_once(stage: Stage) -> None:
    task = stage.agent().task(**pipe(durationExpiresAtMs=1_000)).start()
    assert task.terminal() == {"state": "completed", "completionReason": "duration_expired"}


def test_a_pipe_of_centuries_leaves_the_timers_alive(stage: Stage) -> None:
    desk = stage.agent(concurrency=2)
    desk.task(**pipe(durationExpiresAtMs=1e300)).start()
    stage.wait_started()
    ends = desk.task(**pipe(durationExpiresAtMs=(time.time() + 0.2) * 1000)).start()
    assert ends.terminal()["completionReason"] == "duration_expired"


def test_expiry_by_clock_and_by_message_is_one_terminal(stage: Stage) -> None:
    desk = stage.agent(handler=quick, concurrency=2)
    task = desk.task(**pipe(durationExpiresAtMs=(time.time() + 0.3) * 1000)).start()
    assert task.terminal()["completionReason"] == "duration_expired"
    task.control("ExpireTask")
    task.control("TerminateTask")
    task.nothing_more(desk.task().start())


def test_an_open_pipe_is_ended_by_its_program_once(stage: Stage) -> None:
    desk = stage.agent(handler=quick)
    task = desk.task(**pipe()).start()
    assert task.next()["type"] == "progress"
    with pytest.raises(ValueError, match="state must be one of"):
        stage.handle.publish_terminal(task.task_id, {"state": "done"})
    _until_open(stage, task.task_id)
    stage.handle.publish_terminal(task.task_id, {"state": "completed", "note": "mine", "type": "other"})
    assert task.terminal() == {"state": "completed", "note": "mine"}
    with pytest.raises(RuntimeError, match="No cached credentials"):
        stage.handle.publish_terminal(task.task_id, {"state": "completed"})
    task.control("CancelTask")
    task.nothing_more(desk.task().start())


def _until_open(stage: Stage, task_id: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while task_id not in {run.task_id for run in stage.handle._instance._table.open_pipes()}:
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_a_handler_sees_no_token(stage: Stage) -> None:
    seen: list[Any] = []
    task = stage.agent(handler=seen.append).task().start()
    assert task.terminal() == {"state": "completed"}
    (given,) = seen
    for secret in (task.message["writeToken"], "writeToken", "controlToken", "write_token"):
        assert secret not in repr(given)
        assert secret not in str(given.to_dict())


def test_events_carry_the_protocols_meta_and_their_own_task(stage: Stage) -> None:
    task = stage.agent(handler=quick).task().start()
    event = task.next()
    assert event == {
        "type": "progress",
        "progress": 0,
        "state": "running",
        "taskId": task.task_id,
        "protocolVersion": "2026-05-01",
    }


def test_a_task_whose_handler_raised_has_one_terminal(stage: Stage) -> None:
    def torn(task: Any) -> None:
        raise ValueError("torn")

    desk = stage.agent(handler=torn)
    task = desk.task().start()
    assert task.terminal() == {"state": "failed", "error": "torn"}
    task.control("CancelTask")
    task.control("ExpireTask")
    task.nothing_more(desk.task().start())
    assert (stage.faults[0][0], str(stage.faults[0][1])) == (task.task_id, "torn")


def test_on_start_task_has_the_task_to_itself_and_its_program_ends_it(stage: Stage) -> None:
    heard: list[Any] = []
    desk = stage.agent(handler=None, on_start_task=lambda task, pubnub: heard.append((task.task_id, pubnub)))
    task = desk.task().start()
    _until_open(stage, task.task_id)
    stage.handle.publish_terminal(task.task_id, {"state": "completed"})
    assert task.next()["type"] == "terminal"  # no running event of the runtime's
    assert heard == [(task.task_id, stage.handle.pubnub)]


def test_on_start_task_that_raises_fails_the_task_and_frees_the_slot(stage: Stage) -> None:
    def torn(task: Any, pubnub: Any) -> None:
        raise ValueError("torn")

    desk = stage.agent(handler=None, on_start_task=torn)
    for _ in range(2):
        assert desk.task().start().terminal() == {"state": "failed", "error": "torn"}


def test_on_cancel_task_is_told_and_the_handler_ends_all_the_same(stage: Stage) -> None:
    told: list[str] = []
    desk = stage.agent(on_cancel_task=lambda task_id, pubnub: told.append(task_id))
    task = desk.task().start()
    stage.wait_started()
    task.control("CancelTask")
    assert task.terminal() == {"state": "canceled"}
    assert told == [task.task_id]


def test_a_paused_task_waits_at_its_next_checkpoint_until_it_is_resumed(stage: Stage) -> None:
    paused, passed = threading.Event(), threading.Event()

    def work(task: Any, ctx: TaskContext) -> None:
        stage.started.release()
        assert paused.wait(WAIT_S)
        ctx.checkpoint()
        passed.set()
        ctx.report_status("on")

    task = stage.agent(handler=work).task().start()
    stage.wait_started()
    task.control("PauseTask")
    assert task.next()["type"] == "progress"
    assert task.next() | {"taskId": ""} == {
        "type": "system",
        "status": "paused",
        "taskId": "",
        "protocolVersion": "2026-05-01",
    }
    paused.set()
    assert not passed.wait(0.1)
    task.control("ResumeTask")
    assert passed.wait(WAIT_S)
    assert task.next()["status"] == "resumed"
    assert task.next()["message"] == "on"


@pytest.mark.parametrize("kind", ["CancelTask", "ExpireTask", "TerminateTask"])
def test_an_end_wakes_a_paused_task(stage: Stage, kind: str) -> None:
    paused = threading.Event()

    def work(task: Any, ctx: TaskContext) -> None:
        stage.started.release()
        assert paused.wait(WAIT_S)
        ctx.report_status("waits here")

    task = stage.agent(handler=work).task().start()
    stage.wait_started()
    task.control("PauseTask")
    while task.next().get("status") != "paused":
        continue
    paused.set()
    task.control(kind)
    assert task.terminal()["state"] == "canceled"


def test_a_paused_coroutine_holds_up_no_other(stage: Stage) -> None:
    paused = threading.Event()

    async def work(task: Any, ctx: TaskContext) -> str:
        if task.request_parts[0].text == "other":
            return "done"
        stage.started.release()
        while not paused.is_set():
            await asyncio.sleep(0.005)
        ctx.report_status("does not wait on the loop")
        ctx.checkpoint()
        await ctx.acheckpoint()
        return "resumed"

    desk = stage.agent(handler=work, concurrency=2)
    task = desk.task().start()
    stage.wait_started()
    task.control("PauseTask")
    while task.next().get("status") != "paused":
        continue
    paused.set()
    assert desk.task(requestParts=[{"text": "other"}]).start().terminal() == {"state": "completed"}
    assert task.next()["message"] == "does not wait on the loop"
    assert task.events.empty()
    task.control("ResumeTask")
    assert task.terminal() == {"state": "completed"}
