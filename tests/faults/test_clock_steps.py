"""The network's wall clock steps, forward and back, while it works and between two starts."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from audit import Audit, numbers_of, read_channels
from load import NUMBERS, Load
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S, HERE, NetworkProcess

from blocks_network.consumer.parts import text_part

HOUR = 3600
CLOCKED = HERE / "clocked_network.py"
BETWEEN_S = 1.5
"""Of load between two steps. A client renews its token at most once a second, and a step ends tokens."""
SOON_S = 10.0
"""For what the network does after a second or two of its own accord."""


def step(network: NetworkProcess, offset_s: int) -> None:
    network.process.tell(clock_s=offset_s)
    assert network.process.next() == {"clock_s": offset_s}


def restart(network: NetworkProcess, offset_s: int) -> None:
    network.kill()
    network.options = (*network.options[:-2], "--clock", str(offset_s))
    network.start()


def newest(data: Path) -> int:
    """The highest timetoken on the disk. Another process may have it open."""
    with sqlite3.connect(data / "bus.db") as connection:
        (highest,) = connection.execute("SELECT max(timetoken) FROM message").fetchone()
    connection.close()
    return int(highest)


@pytest.mark.timeout(120)
def test_under_load_everything_goes_on_in_order(network: NetworkMaker, agents: AgentMaker, client: ClientMaker) -> None:
    """Steps of hours in both directions, two of them between a kill and the next start: all tasks end, no event is
    lost, doubled or out of order, and timetokens only rise, so that readers miss nothing."""
    running = network("--clock", "0", script=CLOCKED)
    agents(running, "counter=counting")
    load = Load(client(running), "counter")
    highest = 0
    for offset_s, started_anew in (
        (-HOUR, False),
        (2 * HOUR, False),
        (0, False),
        (-2 * HOUR, True),
        (3 * HOUR, False),
        (-3 * HOUR, True),
    ):
        load.up.set()
        began = time.monotonic()
        while time.monotonic() - began < BETWEEN_S:
            load.wait_until_it_moves()
        load.up.clear()
        before, highest = highest, newest(running.data)
        assert highest > before
        if started_anew:
            restart(running, offset_s)
        else:
            step(running, offset_s)
    load.up.set()
    load.wait_until_it_moves()
    load.end()
    ends = [session.wait_for_terminal(DEADLINE_S) for session in load.sessions]

    assert {end.state for end in ends} == {"completed"}
    assert all(numbers_of(session.list_events()) == list(range(NUMBERS)) for session in load.sessions)
    assert running.end() == 0
    assert newest(running.data) > highest
    audit = Audit.of(read_channels(running.data), dict.fromkeys((s.task_id for s in load.sessions), NUMBERS))
    print(audit)
    assert audit.clean, audit


@pytest.mark.timeout(120)
@pytest.mark.parametrize("anew", [False, True], ids=["while it runs", "between two starts"])
def test_what_was_to_come_in_a_second_does_not_wait_for_an_hour(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker, anew: bool
) -> None:
    """A pause before a retry, and the grace of a cancel, when the clock goes back by an hour meanwhile."""
    running = network("--limit", "cancel_grace_s=1", "--clock", "0", script=CLOCKED)
    agent = agents(running, "flaky=flaky", "stubborn=stubborn")
    sender = client(running)
    retry = {"maxAttempts": 2, "backoffSec": 1, "on": ["failed"]}
    again = sender.send_message(agent_name="flaky", request_parts=[text_part("again")], retry_policy=retry)
    endless = sender.send_message(agent_name="stubborn", request_parts=[text_part("endless")])
    assert {agent.next()["said"] for _ in range(2)} == {"ran", "began"}
    sender.cancel_task(endless.task_id)
    while sender.get_task(again.task_id).extra["attempt"] < 2:  # its failure is on the way here: a few ms
        time.sleep(0.01)

    if anew:
        restart(running, -HOUR)
    else:
        step(running, -HOUR)

    assert endless.wait_for_terminal(SOON_S).state == "canceled"
    assert again.wait_for_terminal(SOON_S).state == "completed"
    assert agent.next()["text"] == "again"
