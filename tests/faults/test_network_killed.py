"""kill -9 of the network at random points under load: what was acknowledged is kept, in order, each once."""

from __future__ import annotations

import os
import random
import threading

import pytest
from audit import Audit, numbers_of, read_channels
from load import NUMBERS, Load
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S, NetworkProcess

from blocks_network import TaskClient, TaskEvent, TaskSession
from blocks_network.errors import WaitTimeoutError

ROUNDS = int(os.environ.get("BLOCKS_KILL_ROUNDS") or (50 if os.environ.get("BLOCKS_CI") else 6))
SEED = 20


def kill_at_random_points(network: NetworkProcess, load: Load, rounds: int) -> None:
    chance, moment = random.Random(SEED), threading.Event()
    for _ in range(rounds):
        load.up.set()
        moment.wait(chance.uniform(0.05, 0.6))  # nobody sets it: the point of the kill is a point in time
        load.up.clear()
        network.restart()


def ended(client: TaskClient, session: TaskSession) -> TaskEvent:
    """The session's terminal. Where it does not come: what the network knows, and what the session saw."""
    try:
        return session.wait_for_terminal(DEADLINE_S)
    except WaitTimeoutError:
        pytest.fail(f"{client.get_task(session.task_id)} was seen as {session.list_events()}")


@pytest.mark.timeout(60 + 6 * ROUNDS)
def test_what_was_acknowledged_survives_every_kill(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker
) -> None:
    """Every acknowledged task ends as completed, once; no event is lost, doubled or out of order: on the disk, and
    for the sessions that followed through all kills."""
    running = network()
    agents(running, "counter=counting")
    sender = client(running)
    load = Load(sender, "counter")

    kill_at_random_points(running, load, ROUNDS)
    load.end()
    ends = [ended(sender, session) for session in load.sessions]

    seen_wrong = sum(numbers_of(session.list_events()) != list(range(NUMBERS)) for session in load.sessions)
    assert running.end() == 0
    audit = Audit.of(read_channels(running.data), dict.fromkeys((s.task_id for s in load.sessions), NUMBERS))
    print(
        f"{ROUNDS} kills, {load.unanswered} calls without an answer, {seen_wrong} sessions with wrong events, {audit}"
    )
    assert audit.tasks >= 3 * ROUNDS, "too little was under way to show anything"
    assert {end.state for end in ends} == {"completed"}
    assert audit.clean, audit
    assert seen_wrong == 0
