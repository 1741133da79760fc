"""kill -9 of the network at random points under load: what was acknowledged is kept, in order, each once."""

from __future__ import annotations

import os
import random
import threading
from dataclasses import dataclass, field

import pytest
from audit import Audit, numbers_of, read_channels
from conftest import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S, NetworkProcess

from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.parts import text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError

ROUNDS = int(os.environ.get("BLOCKS_KILL_ROUNDS") or (50 if os.environ.get("BLOCKS_CI") else 6))
SEED = 20
SENDERS = 4
IN_FLIGHT = 48
NUMBERS = 5


@dataclass
class Load:
    """Sends tasks from several threads for as long as the network is said to be up; counts what became of the calls."""

    client: TaskClient
    agent_name: str
    up: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    sessions: list[TaskSession] = field(default_factory=list)
    unanswered: int = 0

    def __post_init__(self) -> None:
        self._places = threading.BoundedSemaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, name=f"sender-{n}", daemon=True) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while self.up.wait() and not self.over:
            self._places.acquire()
            try:
                session = self.client.send_message(agent_name=self.agent_name, request_parts=[text_part(str(NUMBERS))])
            except BlocksError:
                self._places.release()
                with self._lock:
                    self.unanswered += 1
                continue
            session.on_terminal(lambda _event: self._places.release())
            with self._lock:
                self.sessions.append(session)

    def end(self) -> None:
        self.over = True
        self.up.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


def kill_at_random_points(network: NetworkProcess, load: Load, rounds: int) -> None:
    chance, moment = random.Random(SEED), threading.Event()
    for _ in range(rounds):
        load.up.set()
        moment.wait(chance.uniform(0.05, 0.6))  # nobody sets it: the point of the kill is a point in time
        load.up.clear()
        network.restart()


@pytest.mark.timeout(60 + 6 * ROUNDS)
def test_what_was_acknowledged_survives_every_kill(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker
) -> None:
    """Every acknowledged task ends as completed, once; no event is lost, doubled or out of order: on the disk, and
    for the sessions that followed through all kills."""
    running = network()
    agents(running, "counter=counting")
    load = Load(client(running), "counter")

    kill_at_random_points(running, load, ROUNDS)
    load.end()
    ends = [session.wait_for_terminal(DEADLINE_S) for session in load.sessions]

    seen_wrong = sum(numbers_of(session.list_events()) != list(range(NUMBERS)) for session in load.sessions)
    assert running.end() == 0
    audit = Audit.of(read_channels(running.data), dict.fromkeys((s.task_id for s in load.sessions), NUMBERS))
    print(
        f"{ROUNDS} kills, {load.unanswered} calls without an answer, {seen_wrong} sessions with wrong events, {audit}"
    )
    assert audit.tasks >= 10 * ROUNDS, "too little was under way to show anything"
    assert {end.state for end in ends} == {"completed"}
    assert audit.clean, audit
    assert seen_wrong == 0
