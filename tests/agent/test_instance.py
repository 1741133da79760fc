"""An instance on a real network: what a task brings about, end to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from blocks_network import AgentInstanceOptions, BlocksError, TaskContext, start_agent_instance, text_part
from blocks_network.errors import AgentAuthFatalError, ConfigurationError
from blocks_network.testing.network import Network

CARD = {"identity": {"agentName": "anybody"}}


def ended(blocks: Network, agent_name: str, *texts: str, timeout: float = 10.0, **params: Any) -> Any:
    """Sends a task and returns (its terminal, its session)."""
    client = blocks.client()
    session = client.send_message(agent_name=agent_name, request_parts=[text_part(t) for t in texts], **params)
    return session.wait_for_terminal(timeout=timeout), session


def data_of(session: Any) -> list[bytes]:
    return [session.download_artifact(ref).data for ref in session.list_artifacts()]


def test_a_function_answers(blocks: Network) -> None:
    handle = blocks.agent(lambda task: f"hello {task.request_parts[0].text}", name="greeter")
    terminal, session = ended(blocks, "greeter", "Ada")
    assert terminal.state == "completed"
    assert data_of(session) == [b"hello Ada"]
    assert handle.instance_id.startswith("AG-greeter-")


def test_events_come_in_their_order(blocks: Network) -> None:
    def work(task: Any, ctx: TaskContext) -> dict[str, Any]:
        ctx.report_status("one")
        ctx.publish_artifact("early", mime_type="text/plain", output_id="first")
        ctx.report_status("two")
        ctx.report_status("three")
        return {"artifacts": [{"data": "late"}]}

    blocks.agent(work, name="worker")
    _, session = ended(blocks, "worker", "go")
    seen = [(e.type, e.message or e.state or e.get("outputId")) for e in session.list_events()]
    assert seen == [
        ("progress", "running"),
        ("progress", "one"),
        ("artifact", "first"),
        ("progress", "three"),
        ("artifact", None),
        ("terminal", "completed"),
    ]
    assert data_of(session) == [b"early", b"late"]


def test_a_handler_that_raises_fails_its_task_with_the_reason(blocks: Network) -> None:
    heard: list[tuple[str, BaseException]] = []
    told = threading.Event()

    def torn(task: Any, ctx: TaskContext) -> None:
        raise ValueError("page 3 is torn")

    def on_error(task_id: str, fault: BaseException) -> None:
        heard.append((task_id, fault))
        told.set()

    blocks.agent(torn, name="reader", on_error=on_error)
    terminal, session = ended(blocks, "reader", "scan")
    assert (terminal.state, terminal["error"]) == ("failed", "page 3 is torn")
    assert told.wait(5)
    assert heard[0][0] == session.task_id
    assert isinstance(heard[0][1], ValueError)


def test_even_system_exit_is_a_failed_task(blocks: Network) -> None:
    def leave(task: Any) -> None:
        raise SystemExit("I leave")

    blocks.agent(leave, name="leaver")
    terminal, _ = ended(blocks, "leaver", "go")
    assert (terminal.state, terminal["error"]) == ("failed", "I leave")


def test_nonsense_is_a_failed_task_that_names_it(blocks: Network) -> None:
    blocks.agent(lambda task: 42, name="nonsense")
    terminal, _ = ended(blocks, "nonsense", "go")
    assert terminal.state == "failed"
    assert "returned int" in terminal["error"]


def test_generators_and_coroutines(blocks: Network) -> None:
    def counting(task: Any) -> Iterator[str]:
        yield "one "
        yield "two"

    async def awaiting(task: Any) -> dict[str, int]:
        return {"answer": 42}

    blocks.agent(counting, name="counting")
    blocks.agent(awaiting, name="awaiting")
    assert data_of(ended(blocks, "counting", "go")[1]) == [b"one two"]
    assert data_of(ended(blocks, "awaiting", "go")[1]) == [b'{"answer": 42}']


def test_a_cancelled_task_ends_canceled(blocks: Network) -> None:
    started = threading.Event()

    def patient(task: Any, ctx: TaskContext) -> str:
        started.set()
        assert ctx.cancel_event.wait(10)
        return "so far"

    blocks.agent(patient, name="patient")
    session = blocks.client().send_message(agent_name="patient", request_parts=[text_part("go")])
    assert started.wait(10)
    session.cancel()
    assert session.wait_for_terminal(timeout=10).state == "canceled"
    assert data_of(session) == [b"so far"]


def test_an_async_handler_is_cancelled(blocks: Network) -> None:
    started = threading.Event()

    async def sleeps(task: Any) -> None:
        import asyncio

        started.set()
        await asyncio.sleep(60)

    blocks.agent(sleeps, name="sleeps")
    session = blocks.client().send_message(agent_name="sleeps", request_parts=[text_part("go")])
    assert started.wait(10)
    session.cancel()
    terminal = session.wait_for_terminal(timeout=10)
    assert terminal.state == "canceled"
    assert "error" not in terminal


def test_as_many_at_one_time_as_asked_for(blocks: Network) -> None:
    together = threading.Barrier(3, timeout=10)

    def meets(task: Any) -> str:
        together.wait()
        return "met"

    blocks.agent(meets, name="meets", concurrency=3)
    client = blocks.client()
    sessions = [client.send_message(agent_name="meets", request_parts=[text_part(str(n))]) for n in range(6)]
    assert {session.wait_for_terminal(timeout=10).state for session in sessions} == {"completed"}


def test_without_limit_all_run_at_once(blocks: Network) -> None:
    together = threading.Barrier(12, timeout=10)

    def meets(task: Any) -> str:
        together.wait()
        return "met"

    blocks.agent(meets, name="crowd", concurrency=0)
    client = blocks.client()
    sessions = [client.send_message(agent_name="crowd", request_parts=[text_part(str(n))]) for n in range(12)]
    assert {session.wait_for_terminal(timeout=10).state for session in sessions} == {"completed"}


def test_nothing_is_published_after_the_end(blocks: Network) -> None:
    kept: list[TaskContext] = []

    def keeps(task: Any, ctx: TaskContext) -> None:
        kept.append(ctx)

    blocks.agent(keeps, name="keeps")
    _, session = ended(blocks, "keeps", "go")
    kept[0].report_status("too late")
    with pytest.raises(RuntimeError, match="has ended"):
        kept[0].publish_artifact("too late")
    assert [event.type for event in session.list_events()] == ["progress", "terminal"]


def test_an_agent_gives_work_to_another(blocks: Network) -> None:
    blocks.agent(lambda task: task.request_parts[0].text.upper(), name="shouter")

    def asks(task: Any, ctx: TaskContext) -> bytes:
        assert ctx.task_client is not None
        with ctx.task_client.send_message(
            agent_name="shouter", request_parts=[text_part(task.request_parts[0].text)]
        ) as session:
            session.wait_for_terminal(timeout=10)
            return session.download_artifact(session.list_artifacts()[0]).data

    blocks.agent(asks, name="asks")
    assert data_of(ended(blocks, "asks", "quiet")[1]) == [b"QUIET"]


def test_stop_lets_running_work_finish_and_leaves_no_thread(blocks: Network) -> None:
    before = set(threading.enumerate())
    started, go_on = threading.Event(), threading.Event()

    def slow(task: Any) -> str:
        started.set()
        assert go_on.wait(10)
        return "done"

    handle = blocks.agent(slow, name="slow")
    session = blocks.client().send_message(agent_name="slow", request_parts=[text_part("go")])
    assert started.wait(10)
    threading.Timer(0.05, go_on.set).start()
    report = handle.stop(drain_s=10)
    assert session.wait_for_terminal(timeout=10).state == "completed"
    assert (report.finished, report.clean) == ((session.task_id,), True)
    left = [
        t.name for t in set(threading.enumerate()) - before if handle.instance_id in t.name or "task-slow" in t.name
    ]
    assert left == []
    assert handle.stop() is report


def test_stop_asks_what_outlasts_the_drain_to_end(blocks: Network) -> None:
    started = threading.Event()

    def patient(task: Any, ctx: TaskContext) -> None:
        started.set()
        ctx.cancel_event.wait(10)

    handle = blocks.agent(patient, name="outlasts")
    session = blocks.client().send_message(agent_name="outlasts", request_parts=[text_part("go")])
    assert started.wait(10)
    report = handle.stop(drain_s=0)
    assert report.cancelled == (session.task_id,)
    terminal = session.wait_for_terminal(timeout=10)
    assert (terminal.state, terminal["reason"]) == ("failed", "instance_lost")


def test_the_handle_is_a_mapping_too(blocks: Network) -> None:
    handle = blocks.agent(lambda task: None, name="mapped")
    assert handle["agent_name"] == handle.agent_name == "mapped"
    assert "stop" in handle
    assert "clients" not in handle
    assert set(handle) >= {"stop", "instance_id", "task_client", "pubnub", "publish_terminal", "fail_stream"}
    assert handle.cdm_config is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"card": {}, "agent_name": "a"}, "card is required"),
        ({"card": "no dict", "agent_name": "a"}, "card is required"),
        ({"card": CARD}, "agent_name is required"),
        ({"card": CARD, "agent_name": "has space"}, "not usable"),
        ({"card": CARD, "agent_name": "a"}, "a handler is required"),
        ({"card": CARD, "agent_name": "a", "handler": 5}, "not callable"),
        ({"card": CARD, "agent_name": "a", "handler": print, "concurrency": -1}, "concurrency"),
    ],
)
def test_faults_in_the_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        start_agent_instance(AgentInstanceOptions(**options))


def test_no_key(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOCKS_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="BLOCKS_API_KEY is required"):
        blocks.agent(print, name="keyless", api_key=None)


def test_an_agent_that_nobody_registered(blocks: Network) -> None:
    with pytest.raises(RuntimeError, match=r"not found in registry.*register"):
        blocks.agent(print, name="nobody_knows_me", register=False)


def test_a_wrong_key(blocks: Network) -> None:
    blocks.agent(print, name="known")
    with pytest.raises((AgentAuthFatalError, BlocksError)):
        blocks.agent(print, name="known", register=False, api_key="bk_wrong")


def test_a_handler_that_cannot_be_called_with_a_task(blocks: Network) -> None:
    with pytest.raises(ConfigurationError, match="cannot be called with a task"):
        blocks.agent(lambda a, b, c: None, name="three")
