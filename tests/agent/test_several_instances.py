"""Several instances in one process, and processes that fork: whose work is whose, and whose end is whose."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from control_desk import WAIT_S, Desk

from blocks_network import AgentHandle, TaskContext, text_part
from blocks_network.testing.network import Network

PROGRAM = """
import os, sys, threading
from blocks_network import BlocksError
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node
from blocks_network.testing.network import Network

def who(task):
    return str(os.getpid())

def refused(call):
    try:
        call()
    except BlocksError as fault:
        return "belongs to another process" in str(fault)

node = Node(NodeConfig())
node.start()
network = Network(node)
handle = network.agent(who, name="parent_agent")
colleague = handle.task_client
child = os.fork()
if child == 0:
    ok = not handle.running and handle.wait(5) and handle.stop().clean
    ok = ok and refused(lambda: handle.task_client)
    ok = ok and refused(lambda: handle.fail_stream("s", "why"))
    ok = ok and refused(lambda: handle.publish_terminal("t", {"state": "completed"}))
    own = Network(node)  # what it knows of its parent's network: where it is
    started = own.agent(who, name="child_agent")
    with own.client() as client:
        ok = ok and client.run("child_agent", "go", timeout=10).text == str(os.getpid())
        ok = ok and client.run("parent_agent", "go", timeout=10).text == str(os.getppid())
    ok = ok and started.stop(5).clean and not [t for t in threading.enumerate() if "child_agent" in t.name]
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status))
with network.client() as client:
    print("parent", client.run("parent_agent", "go", timeout=10).text == str(os.getpid()), handle.running)
network.close()
node.stop()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_cannot_hurt_its_parents_instance_and_starts_its_own() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.split("\n")[:2] == ["child 0", "parent True True"], found.stderr


def stage(blocks: Network, name: str, **options: Any) -> tuple[AgentHandle, threading.Event, list[str]]:
    go_on, began = threading.Event(), list[str]()

    def work(task: Any, ctx: TaskContext) -> str:
        began.append(task.task_id)
        while not (go_on.wait(0.01) or ctx.cancel_event.is_set()):
            continue
        return name

    return blocks.agent(work, name=name, **options), go_on, began


def test_instances_of_two_agents_know_nothing_of_each_other(blocks: Network) -> None:
    one, one_goes, one_began = stage(blocks, "first_of_two")
    two, two_goes, two_began = stage(blocks, "second_of_two")
    one_desk, two_desk = Desk(blocks, one), Desk(blocks, two)
    first, second = one_desk.task().start(), two_desk.task().start()
    for task in (first, second):
        assert task.next()["type"] == "progress"
    first.control("CancelTask")
    assert first.terminal() == {"state": "canceled"}
    assert one.stop(0).clean
    two_goes.set()
    assert second.terminal() == {"state": "completed"}
    assert (one_began, two_began) == ([first.task_id], [second.task_id])
    assert two.running
    two_desk.close()
    one_desk.close()
    one_goes.set()


def test_two_instances_of_one_agent_share_its_work_and_one_goes_on_alone(blocks: Network) -> None:
    one, one_goes, one_began = stage(blocks, "shared_work")
    two, two_goes, two_began = stage(blocks, "shared_work", register=False)
    assert one.instance_id != two.instance_id
    client = blocks.client()

    def send() -> Any:
        return client.send_message(agent_name="shared_work", request_parts=[text_part("go")])

    sessions = [send(), send()]
    deadline = time.monotonic() + WAIT_S
    while not (one_began and two_began):  # each has one slot
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    for event in (one_goes, two_goes):
        event.set()
    assert [session.wait_for_terminal(WAIT_S).state for session in sessions] == ["completed"] * 2
    assert one.stop(0).clean
    assert send().wait_for_terminal(WAIT_S).state == "completed"
    assert len(two_began) == 2


def test_starting_instances_leaves_the_programs_logging_alone(blocks: Network) -> None:
    names = ("", "pubnub", "httpx", "httpcore", "httpcore.connection", "blocks_network")
    blocks.agent(lambda task: None, name="quiet_once")

    def seen() -> list[Any]:
        loggers = [logging.getLogger(name) for name in names]
        return [(one.level, list(one.handlers), list(one.filters), one.propagate, one.disabled) for one in loggers]

    before = seen()
    for _ in range(3):
        blocks.agent(lambda task: None, name="quiet_once", register=False)
    assert seen() == before
    assert all(level == logging.NOTSET for level, *_ in before[1:])
