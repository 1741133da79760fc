"""2,000 tasks at once against a backlog limit: each is taken and ends, or is refused; the counts add up."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from audit import read_channels
from makers import ClientMaker, NetworkMaker
from processes import DEADLINE_S

from blocks_network import start_agent_instance
from blocks_network.agent.loading import derive_card
from blocks_network.api.registry import register_agent
from blocks_network.api.tasks import ListTasksParams
from blocks_network.consumer.parts import text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import RpcError
from blocks_network.types import AgentInstanceOptions

TASKS = 2_000
SENDERS = 32
CONCURRENCY = 8
BACKLOG = 200


@pytest.mark.timeout(120)
@pytest.mark.parametrize("held", [True, False], ids=["no place becomes free", "places become free meanwhile"])
def test_each_of_two_thousand_is_taken_or_refused(network: NetworkMaker, client: ClientMaker, held: bool) -> None:
    """While no handler returns, exactly the places and the backlog are taken. Else at least those. What was taken runs
    once and completes; the rest was told BacklogFull; the network remembers exactly what it took."""
    running = network()
    runs: Counter[str] = Counter()
    go_on = threading.Event()
    if not held:
        go_on.set()

    def handler(task: Any) -> str:
        runs[task.task_id] += 1
        go_on.wait(DEADLINE_S)
        return "done"

    card = derive_card("burst", None, None, None)
    register_agent(running.base_url, running.api_key, card)
    agent = start_agent_instance(
        AgentInstanceOptions(
            card=card,
            agent_name="burst",
            handler=handler,
            cdm_url=running.cdm_url,
            api_key=running.api_key,
            concurrency=CONCURRENCY,
            max_pending_backlog=BACKLOG,
        )
    )
    sender = client(running)

    def send(number: int) -> TaskSession | str:
        try:
            return sender.send_message(agent_name="burst", request_parts=[text_part(str(number))])
        except RpcError as refused:
            return str((refused.data or {}).get("code"))

    try:
        with ThreadPoolExecutor(SENDERS) as pool:
            answers = list(pool.map(send, range(TASKS)))
        go_on.set()
        taken = [answer for answer in answers if isinstance(answer, TaskSession)]
        refused = Counter(answer for answer in answers if isinstance(answer, str))
        ends = [session.wait_for_terminal(DEADLINE_S) for session in taken]
    finally:
        go_on.set()
        agent.stop(0)

    print(f"taken {len(taken)}, refused {dict(refused)}")
    assert set(refused) <= {"BacklogFull"}
    assert len(taken) + refused["BacklogFull"] == TASKS
    assert len({session.task_id for session in taken}) == len(taken)
    if held:
        assert len(taken) == CONCURRENCY + BACKLOG
    assert len(taken) >= CONCURRENCY + BACKLOG
    assert {end.state for end in ends} == {"completed"}
    assert runs == Counter(session.task_id for session in taken)
    assert sender.list_tasks(ListTasksParams(limit=1)).total_count == len(taken)
    assert sender.list_tasks(ListTasksParams(limit=1, state="completed")).total_count == len(taken)
    assert running.end() == 0
    channels = read_channels(running.data)
    assert set(channels) == {session.task_id for session in taken}
    assert all(channel.terminals == [len(channel.events) - 1] for channel in channels.values())
