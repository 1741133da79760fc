"""Tasks through real sockets, with agents and clients as users write them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from blocks_network.errors import RpcError
from blocks_network.server.config import NodeConfig
from blocks_network.server.limits import Limits
from blocks_network.server.node import Node
from blocks_network.testing.network import Network
from blocks_network.types import StartTaskMessage, TaskContext

DEADLINE_S = 20


class Gated:
    """A handler that notes what it is given and waits to be let go, or to be asked to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = threading.Semaphore(0)
        self._changed = threading.Condition()

    def __call__(self, task: StartTaskMessage, ctx: TaskContext) -> str:
        with self._changed:
            self.begun.append(task.task_id)
            self._changed.notify_all()
        while not self.go.acquire(timeout=0.02):
            if ctx.cancel_event.is_set():
                return "asked to end"
            ctx.checkpoint()
        return "done"

    def wait_begun(self, number: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= number, DEADLINE_S), self.begun
            return list(self.begun)


def test_fifty_equal_calls_of_fifty_threads_are_one_run(blocks: Network) -> None:
    runs: list[str] = []
    blocks.agent(lambda task: runs.append(task.task_id) or "done", name="sock_once")  # type: ignore[func-returns-value]
    client, barrier = blocks.client(), threading.Barrier(50)

    def call(_: int) -> tuple[str, bool, str | None]:
        barrier.wait(DEADLINE_S)
        with client.send_message(agent_name="sock_once", idempotency_key="one") as session:
            return session.task_id, bool(session.idempotent), session.wait_for_terminal(DEADLINE_S).state

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(call, range(50)))
    assert {task for task, _, _ in answers} == set(runs)
    assert len(runs) == 1
    assert [idempotent for _, idempotent, _ in answers].count(False) == 1
    assert {state for _, _, state in answers} == {"completed"}


def test_a_queue_is_worked_off_in_order_and_a_full_one_refuses(blocks: Network) -> None:
    handler = Gated()
    blocks.agent(handler, name="sock_queue", concurrency=1, max_pending_backlog=3)
    client = blocks.client()
    sessions = [client.send_message(agent_name="sock_queue") for _ in range(4)]
    assert [bool(session.queued) for session in sessions] == [False, True, True, True]
    with pytest.raises(RpcError, match="3 tasks waiting"):
        client.send_message(agent_name="sock_queue")
    for _ in sessions:
        handler.go.release()
    assert {session.wait_for_terminal(DEADLINE_S).state for session in sessions} == {"completed"}
    assert handler.begun == [session.task_id for session in sessions]


def test_two_instances_share_the_work(blocks: Network) -> None:
    handlers = [Gated(), Gated()]
    for number, handler in enumerate(handlers):
        blocks.agent(handler, name="sock_shared", concurrency=2, instance_id=f"sock_shared-{number}")
    client = blocks.client()
    sessions = [client.send_message(agent_name="sock_shared") for _ in range(4)]
    for handler in handlers:
        handler.wait_begun(2)
    for handler in handlers:
        handler.go.release(2)
    for session in sessions:
        assert session.wait_for_terminal(DEADLINE_S).state == "completed"


def test_a_task_that_the_instance_has_no_room_for_is_queued_again_and_not_failed(blocks: Network) -> None:
    handler = Gated()
    blocks.agent(handler, name="sock_full", concurrency=1, instance_id="sock_full-1")
    # the network believes that the instance has more places than it has
    said = {"agentName": "sock_full", "instanceId": "sock_full-1", "billingMode": "free", "concurrency": 3}
    headers = {"Authorization": f"Bearer {blocks.api_key}"}
    answer = httpx.post(f"{blocks.base_url}/api/v1/auth/agent/connect", json=said, headers=headers)
    assert answer.status_code == 200
    client = blocks.client()
    sessions = [client.send_message(agent_name="sock_full") for _ in range(3)]
    handler.wait_begun(1)
    handler.go.release(3)
    for session in sessions:
        assert session.wait_for_terminal(DEADLINE_S).state == "completed"
        assert [event.type for event in session.list_events()].count("terminal") == 1
    assert sorted(handler.begun) == sorted(session.task_id for session in sessions)


@pytest.mark.parametrize(("method", "reason"), [("cancel", None), ("terminate", "terminated")])
def test_a_running_task_is_asked_to_end_and_does(blocks: Network, method: str, reason: str | None) -> None:
    handler = Gated()
    blocks.agent(handler, name=f"sock_{method}", concurrency=1)
    client = blocks.client()
    running, waiting = (client.send_message(agent_name=f"sock_{method}") for _ in range(2))
    handler.wait_begun(1)
    getattr(client, f"{method}_task")(waiting.task_id)
    assert waiting.wait_for_terminal(DEADLINE_S).state == "canceled"
    assert client.get_task(waiting.task_id).extra.get("reason") == reason
    getattr(client, f"{method}_task")(running.task_id)
    assert running.wait_for_terminal(DEADLINE_S).state == "canceled"
    assert handler.begun == [running.task_id]


def test_a_task_is_paused_and_resumed(blocks: Network) -> None:
    handler = Gated()
    blocks.agent(handler, name="sock_pause", concurrency=1)
    client = blocks.client()
    session = client.send_message(agent_name="sock_pause")
    events = iter(session)
    handler.wait_begun(1)
    for method, status, state in (
        (client.pause_task, "paused", "paused"),
        (client.resume_task, "resumed", "running"),
    ):
        method(session.task_id)
        assert next(event for event in events if event.type == "system")["status"] == status
        assert client.get_task(session.task_id).state == state
    handler.go.release()
    assert session.wait_for_terminal(DEADLINE_S).state == "completed"
    with pytest.raises(RpcError, match="has ended"):
        client.pause_task(session.task_id)


def test_a_handler_that_raises_runs_again_as_the_policy_says(blocks: Network) -> None:
    attempts: list[int] = []

    def stumbles(task: StartTaskMessage) -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) < 3:
            raise RuntimeError("not yet")
        return "third"

    blocks.agent(stumbles, name="sock_retry")
    policy = {"maxAttempts": 3, "on": ["failed"]}
    session = blocks.client().send_message(agent_name="sock_retry", retry_policy=policy)
    assert session.wait_for_terminal(DEADLINE_S).state == "completed"
    assert attempts == [1, 2, 3]
    assert [event.type for event in session.list_events()].count("terminal") == 1


def test_a_run_that_takes_too_long_is_ended(blocks: Network) -> None:
    handler = Gated()
    blocks.agent(handler, name="sock_slow", max_running_time_sec=1)
    session = blocks.client().send_message(agent_name="sock_slow")
    terminal = session.wait_for_terminal(DEADLINE_S)
    assert terminal.state == "failed"
    assert len([event for event in session.list_events() if event.type == "terminal"]) == 1


def test_an_instance_that_ends_in_order_gives_back_what_it_has_not_begun(blocks: Network) -> None:
    first, second = Gated(), Gated()
    leaving = blocks.agent(first, name="sock_leave", concurrency=1)
    client = blocks.client()
    sessions = [client.send_message(agent_name="sock_leave") for _ in range(3)]
    first.wait_begun(1)
    blocks.agent(second, name="sock_leave", concurrency=2)
    second.wait_begun(2)
    first.go.release()
    leaving.stop()
    second.go.release(3)
    assert [session.wait_for_terminal(DEADLINE_S).state for session in sessions] == ["completed"] * 3
    assert sorted(first.begun + second.begun) == sorted(session.task_id for session in sessions)


# --- a node that is restarted under its agent and its client ---


def test_a_node_is_restarted_under_a_running_a_waiting_and_a_canceled_task(tmp_path: Path) -> None:
    limits, handler = Limits(cancel_grace_s=1), Gated()
    stubborn = threading.Event()

    def holds_on(task: StartTaskMessage, ctx: TaskContext) -> Any:
        begun.set()
        stubborn.wait(DEADLINE_S)

    begun = threading.Event()
    node = Node(NodeConfig(data_dir=tmp_path / "network", limits=limits)).start()
    port = node.port
    with Network(node) as network:
        network.agent(handler, name="sock_again", concurrency=1)
        network.agent(holds_on, name="sock_stubborn")
        client = network.client()
        running, waiting = (client.send_message(agent_name="sock_again") for _ in range(2))
        canceled = client.send_message(agent_name="sock_stubborn")
        handler.wait_begun(1)
        assert begun.wait(DEADLINE_S)
        client.cancel_task(canceled.task_id)
        assert node.stop()
        with Node(NodeConfig(data_dir=tmp_path / "network", limits=limits, port=port)):
            assert canceled.wait_for_terminal(DEADLINE_S).state == "canceled"
            handler.go.release(2)
            for session in (running, waiting):
                assert session.wait_for_terminal(DEADLINE_S).state == "completed"
            assert handler.begun == [running.task_id, waiting.task_id]
            stubborn.set()
            network.close()
