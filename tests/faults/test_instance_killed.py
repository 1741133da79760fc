"""kill -9 of an instance before, during and after its handler, with a retry policy and without one."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from audit import read_channels
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S, AgentProcess

from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.parts import text_part
from blocks_network.consumer.session import TaskSession

RETRY = {"maxAttempts": 2, "backoffSec": 0.1, "on": ["instance_lost"]}
MOMENTS = ("before", "during", "after")
LOST_S = 40.0
"""An instance is thought lost 20 s after its last heartbeat."""


def send(client: TaskClient, agent: str, text: str, retry: dict[str, Any] | None) -> TaskSession:
    return client.send_message(agent_name=agent, request_parts=[text_part(text)], retry_policy=retry)


def states(session: TaskSession) -> list[str]:
    """What a reader saw of the task's runs and its end."""
    return [str(event.state) for event in session.list_events() if event.state is not None]


@pytest.mark.timeout(120)
def test_what_becomes_of_a_task_whose_instance_dies(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker
) -> None:
    """Not begun: placed elsewhere, always. Begun: run again only as the policy says, else failed as lost. Ended: over.
    Each task ends once."""
    running = network()
    deaf = agents(running, "before=quick")
    busy = agents(running, "during=waiting", "after=quick")
    sender = client(running)
    sessions: dict[tuple[str, bool], TaskSession] = {}

    deaf.signal(signal.SIGSTOP)  # it is given tasks and does not come to read them
    for retry in (None, RETRY):
        for moment in MOMENTS:
            sessions[moment, retry is not None] = send(sender, moment, f"{moment} {retry is not None}", retry)
    began = [busy.next() for _ in range(4)]
    assert sorted(one["said"] for one in began) == ["began", "began", "ran", "ran"]
    for retried in (False, True):
        assert sessions["after", retried].wait_for_terminal(DEADLINE_S).state == "completed"
    deaf.kill()
    busy.kill()
    rescue = agents(running, "before=quick", "during=quick", "after=quick")
    ends = {key: session.wait_for_terminal(LOST_S) for key, session in sessions.items()}

    assert {key: end.state for key, end in ends.items()} == {
        ("before", False): "completed",
        ("before", True): "completed",
        ("during", False): "failed",
        ("during", True): "completed",
        ("after", False): "completed",
        ("after", True): "completed",
    }
    assert ends["during", False].get("reason") == "instance_lost"
    assert states(sessions["before", False]) == ["running", "completed"]
    assert states(sessions["during", True]) == ["running", "running", "completed"]
    assert states(sessions["after", True]) == ["running", "completed"]
    ran_again = {rescue.next()["text"] for _ in range(3)}
    assert ran_again == {"before False", "before True", "during True"}
    assert sender.get_task(sessions["during", True].task_id).extra["attempt"] == 2
    assert running.end() == 0
    channels = read_channels(running.data)
    assert all(channels[s.task_id].terminals == [len(channels[s.task_id].events) - 1] for s in sessions.values())


@pytest.mark.timeout(120)
def test_an_instance_that_dies_while_its_terminal_is_on_the_way(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker
) -> None:
    """Somewhere between the handler's return and the network's answer. The task ends once all the same: as completed
    when the terminal was taken; else as the policy says, as lost or, run again, as completed."""
    running = network()
    sender = client(running)
    delays_ms = (0, 1, 2, 4, 8, 16)
    sessions: list[TaskSession] = []
    dying: list[AgentProcess] = []
    for delay_ms in delays_ms:
        name = f"dying_{delay_ms}"
        dying.append(agents(running, f"{name}=dying"))
        sessions += [send(sender, name, str(delay_ms / 1000), retry) for retry in (None, RETRY)]
    for process in dying:
        process.wait()

    agents(running, *(f"dying_{delay_ms}=quick" for delay_ms in delays_ms))
    ends = [session.wait_for_terminal(LOST_S) for session in sessions]

    assert {end.state for end in ends[1::2]} == {"completed"}
    assert {(end.state, end.get("reason")) for end in ends[::2]} <= {("completed", None), ("failed", "instance_lost")}
    assert running.end() == 0
    channels = read_channels(running.data)
    print("states without a policy:", [end.state for end in ends[::2]])
    assert all(channels[s.task_id].terminals == [len(channels[s.task_id].events) - 1] for s in sessions)
