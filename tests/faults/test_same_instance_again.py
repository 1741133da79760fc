"""A retry that goes to the instance that failed: it is a run of its own there, and a repeated StartTask is none."""

from __future__ import annotations

from typing import Any

from blocks_network.consumer.parts import text_part
from blocks_network.testing.network import Network

DEADLINE_S = 20


def test_a_retry_runs_at_the_only_instance(blocks: Network) -> None:
    runs: list[str] = []

    def at_the_third_time(task: Any, ctx: Any) -> str:
        runs.append(task.task_id)
        ctx.report_status(f"run {len(runs)}")
        if len(runs) < 3:
            raise RuntimeError("not yet")
        return "done"

    blocks.agent(at_the_third_time)
    retry = {"maxAttempts": 3, "backoffSec": 0, "on": ["failed"]}
    with blocks.client() as client:
        session = client.send_message(
            agent_name="at_the_third_time", request_parts=[text_part("go")], retry_policy=retry
        )
        end = session.wait_for_terminal(DEADLINE_S)
        told = [event.message for event in session.list_events() if event.message is not None]
    assert end.state == "completed"
    assert runs == [session.task_id] * 3
    assert told == ["run 1", "run 2", "run 3"]
