"""An agent that waits for another agent when its own task is asked to end: the wait ends, and nothing else does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from control_desk import WAIT_S, Desk

from blocks_network import TaskClient, TaskContext, TaskSession, text_part
from blocks_network.errors import TaskEndingError
from blocks_network.testing.network import Network


class Helper:
    """Another agent, which takes its time."""

    def __init__(self, blocks: Network) -> None:
        self.asked, self.go_on = queue.Queue[str](), threading.Event()
        self.ended: list[bool] = []
        blocks.agent(self.work, name="helper", concurrency=4)

    def work(self, task: Any, ctx: TaskContext) -> str:
        stream = ctx.create_stream() if task.has_stream else None
        if stream is not None:
            stream.write("first")
        else:
            self.asked.put(task.task_id)
        while not (self.go_on.wait(0.01) or ctx.cancel_event.is_set()):
            continue
        self.ended.append(ctx.is_cancelled)
        return "helped"


@pytest.fixture
def helper(blocks: Network) -> Iterator[Helper]:
    helper = Helper(blocks)
    yield helper
    helper.go_on.set()


def send(client: TaskClient, **params: Any) -> TaskSession:
    return client.send_message(agent_name="helper", request_parts=[text_part("go")], **params)


def read_on(client: TaskClient, helper: Helper) -> None:
    """A reader is let go like that of a stream of the task's own: it finishes."""
    chunks = send(client, stream=True).wait_for_stream(timeout=WAIT_S).open().bytes()
    assert next(chunks) == b"first"
    helper.asked.put("reading")
    assert list(chunks) == []
    raise TaskEndingError("the reader has finished")


WAITS: dict[str, Callable[[TaskClient, Helper], object]] = {
    "run": lambda client, helper: client.run("helper", "go", timeout=None),
    "result": lambda client, helper: send(client).result(None),
    "wait_for_terminal": lambda client, helper: send(client).wait_for_terminal(None),
    "wait_for_stream": lambda client, helper: send(client).wait_for_stream("never", None),
    "iteration": lambda client, helper: list(send(client)),
    "map": lambda client, helper: list(client.map("helper", ["a", "b", "c"], concurrency=2, timeout=None)),
    "stream": read_on,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_for_another_agent_ends_when_the_task_is_to_end(
    blocks: Network, helper: Helper, wait: Callable[[TaskClient, Helper], object]
) -> None:
    raised = queue.Queue[BaseException]()
    told: list[Any] = []

    def ask(task: Any, ctx: TaskContext) -> None:
        assert ctx.task_client is not None
        try:
            wait(ctx.task_client, helper)
        except BaseException as fault:
            raised.put(fault)
            raise

    handle = blocks.agent(ask, name="asker", on_error=lambda *fault: told.append(fault))
    desk = Desk(blocks, handle)
    task = desk.task().start()
    helper.asked.get(timeout=WAIT_S)
    task.control("CancelTask")
    assert task.terminal() == {"state": "canceled"}
    assert type(raised.get(timeout=WAIT_S)) is TaskEndingError
    desk.close()
    assert told == []
    assert helper.ended == []  # what was asked of the other agent is its own matter


def test_who_is_asked_to_end_can_still_withdraw_what_it_asked_for_and_others_wait_on(
    blocks: Network, helper: Helper
) -> None:
    def ask(task: Any, ctx: TaskContext) -> Any:
        assert ctx.task_client is not None
        with send(ctx.task_client) as session:
            try:
                return session.result(None).text
            except TaskEndingError:
                session.cancel()
                ctx.task_client.destroy()  # only what was lent to this task
                raise

    handle = blocks.agent(ask, name="asker", concurrency=2)
    desk = Desk(blocks, handle)
    withdrawn, other = desk.task().start(), desk.task().start()
    for _ in range(2):
        helper.asked.get(timeout=WAIT_S)
    withdrawn.control("CancelTask")
    assert withdrawn.terminal() == {"state": "canceled"}
    while not helper.ended:
        assert not helper.go_on.wait(0.01)
    assert helper.ended == [True]
    helper.go_on.set()
    assert other.terminal() == {"state": "completed"}
    desk.close()
    assert handle.task_client is not None
    assert handle.task_client.run("helper", "again", timeout=WAIT_S).text == "helped"
