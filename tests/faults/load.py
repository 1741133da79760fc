"""Clients that send tasks for as long as the network is up, and follow them through whatever comes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from processes import DEADLINE_S

from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.parts import text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError

__all__ = ["NUMBERS", "Load"]

SENDERS = 4
IN_FLIGHT = 48
NUMBERS = 5
"""That the handler `counting` gives for each task."""


@dataclass
class Load:
    """Sends tasks from several threads for as long as the network is said to be up; counts what became of the calls."""

    client: TaskClient
    agent_name: str
    up: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    sessions: list[TaskSession] = field(default_factory=list)
    unanswered: int = 0
    last_fault: BlocksError | None = None

    def __post_init__(self) -> None:
        self._places = threading.BoundedSemaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._threads = [threading.Thread(target=self._send, name=f"sender-{n}", daemon=True) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while self.up.wait() and not self.over:
            self._places.acquire()
            try:
                session = self.client.send_message(agent_name=self.agent_name, request_parts=[text_part(str(NUMBERS))])
            except BlocksError as fault:
                self._places.release()
                with self._lock:
                    self.unanswered += 1
                    self.last_fault = fault
                continue
            session.on_terminal(lambda _event: self._places.release())
            with self._taken:
                self.sessions.append(session)
                self._taken.notify_all()

    def wait_until_it_moves(self) -> None:
        """For a task that the network takes from now on."""
        with self._taken:
            before = len(self.sessions)
            assert self._taken.wait_for(lambda: len(self.sessions) > before, DEADLINE_S), repr(self.last_fault)

    def end(self) -> None:
        self.over = True
        self.up.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
