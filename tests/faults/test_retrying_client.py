"""A client that repeats every call, and an agent that does, since answers get lost on the way: once is once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from audit import Audit, numbers_of, read_channels
from forgetful_proxy import ForgetfulProxy
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S

from blocks_network.api.tasks import ListTasksParams
from blocks_network.consumer.parts import text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError

T = TypeVar("T")

TASKS, CALLERS = 16, 8
NUMBERS = 5
TRIES = 30


def insist(call: Callable[[], T]) -> T:
    """Repeats a call until it is answered, and then once more, as a client does that cannot be sure."""
    answers: list[T] = []
    for _ in range(TRIES):
        with contextlib.suppress(BlocksError):
            answers.append(call())
        if len(answers) == 2:
            return answers[1]
    raise AssertionError(f"no answer in {TRIES} calls")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("killed", [False, True], ids=["the network stays", "the network is killed meanwhile"])
def test_every_call_may_be_repeated(
    network: NetworkMaker,
    agents: AgentMaker,
    client: ClientMaker,
    request: pytest.FixtureRequest,
    killed: bool,
) -> None:
    """A fifth of all answers is lost and some requests arrive twice, of client and agent alike. Each key is
    one task that runs once and ends once, and each event stands on its channel once, in order."""
    running = network()
    proxy = ForgetfulProxy(running.port, lose=0.2, twice=0.3, seed=21)
    request.addfinalizer(proxy.close)
    agents(running, "counter=counting", cdm_url=proxy.cdm_url)
    sender = client(running, cdm_url=proxy.cdm_url)

    def send(number: int) -> TaskSession:
        return insist(
            lambda: sender.send_message(
                agent_name="counter", request_parts=[text_part(str(NUMBERS))], idempotency_key=f"key {number}"
            )
        )

    with ThreadPoolExecutor(CALLERS) as pool:
        pending = [pool.submit(send, number) for number in range(TASKS)]
        pending[TASKS // 2].result()
        if killed:
            running.restart()
        sessions = [one.result() for one in pending]
    ends = [session.wait_for_terminal(DEADLINE_S) for session in sessions]
    states = [insist(lambda session=session: sender.get_task(session.task_id)).state for session in sessions]
    for session in sessions[:5]:
        insist(lambda session=session: sender.cancel_task(session.task_id))  # too late, and no harm

    assert {end.state for end in ends} == set(states) == {"completed"}
    assert insist(lambda: sender.list_tasks(ListTasksParams(limit=1))).total_count == TASKS
    seen = [numbers_of(session.list_events()) for session in sessions]
    assert [numbers for numbers in seen if numbers != list(range(NUMBERS))] == []
    print(dict(proxy.counts))
    assert min(proxy.counts["lost"], proxy.counts["doubled"]) > TASKS
    assert running.end() == 0
    channels = read_channels(running.data)
    audit = Audit.of(channels, dict.fromkeys((session.task_id for session in sessions), NUMBERS))
    assert audit.tasks == TASKS == len(channels)
    assert audit.clean, audit
    assert {sum(event.get("state") == "running" for event in channel.events) for channel in channels.values()} == {1}
