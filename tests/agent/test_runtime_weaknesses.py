"""What went wrong with runtimes elsewhere, and is to stay right here. What has a subject of its own is in its file."""

from __future__ import annotations

import logging
import ssl
import threading
from typing import Any

import certifi
import pytest
from control_desk import WAIT_S, Desk

from blocks_network import TaskContext, fetch_cdm_config
from blocks_network.testing.network import Network
from blocks_network.transport.http import ConnectionPool
from blocks_network.transport.subscription import Received


def nothing(task: Any) -> None:
    return None


def test_a_task_that_cannot_be_started_fails_and_gives_its_slot_back(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = blocks.agent(nothing, name="startless")
    desk, pool = Desk(blocks, handle), handle._instance._pool
    original, faults = pool.submit, [RuntimeError("can't start new thread")]

    def submit(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return original(*args)

    monkeypatch.setattr(pool, "submit", submit)
    refused = desk.task().start()
    assert refused.terminal() == {"state": "failed", "error": "can't start new thread"}
    refused.control("CancelTask")  # it has no credentials left to publish a second end with
    next_one = desk.task().start()
    assert next_one.next()["state"] == "running"
    refused.nothing_more(next_one)
    desk.close()


def test_what_raises_over_one_message_hears_the_next(blocks: Network, caplog: pytest.LogCaptureFixture) -> None:
    handle = blocks.agent(nothing, name="robust")
    desk, dispatcher = Desk(blocks, handle), handle._instance._dispatcher
    original, faults = dispatcher.received, [ZeroDivisionError("in the dispatcher")]

    def received(message: Received) -> None:
        if faults:
            raise faults.pop()
        original(message)

    dispatcher.received = received  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "blocks_network"):
        desk.task().start()
        assert desk.task().start().terminal() == {"state": "completed"}
    assert any("was not digested" in line for line in caplog.messages)
    desk.close()


def test_what_is_said_while_an_instance_reconnects_is_heard(blocks: Network) -> None:
    handle = blocks.agent(nothing, name="reconnecting", concurrency=0)
    desk, subscription = Desk(blocks, handle), handle._instance.connection.link._subscription
    tasks = []
    for _ in range(20):
        subscription.reconnect()
        tasks.append(desk.task().start())
    for task in tasks:
        assert task.terminal() == {"state": "completed"}
    desk.close()


@pytest.mark.parametrize("kind", ["CancelTask", "TerminateTask"])
def test_an_end_that_comes_right_behind_the_start_is_seen(blocks: Network, kind: str) -> None:
    def work(task: Any, ctx: TaskContext) -> None:
        assert ctx.cancel_event.wait(WAIT_S)

    handle = blocks.agent(work, name="hasty", concurrency=0)
    desk = Desk(blocks, handle)
    tasks = [desk.task() for _ in range(10)]
    for task in tasks:
        task.start()
        task.control(kind)
    assert {task.terminal()["state"] for task in tasks} == {"canceled"}
    desk.close()


def test_a_generator_that_sets_its_own_cancel_event_ends_there(blocks: Network) -> None:
    def steps(task: Any, ctx: TaskContext) -> Any:
        yield "a"
        ctx.cancel_event.set()
        yield "b"
        yield "c"

    blocks.agent(steps, name="stepping")
    assert blocks.client().run("stepping", "go").text == "ab"


def test_a_network_that_takes_no_events_holds_up_no_control_message(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals, running events, terminals: all of it waits in the background."""
    ended, gate = threading.Semaphore(0), threading.Event()
    original = ConnectionPool.request

    def request(pool: ConnectionPool, method: str, url: str, **options: Any) -> Any:
        if threading.current_thread().name.startswith("blocks-publisher-AG-gagged"):
            assert gate.wait(WAIT_S)
        return original(pool, method, url, **options)

    monkeypatch.setattr(ConnectionPool, "request", request)

    def work(task: Any, ctx: TaskContext) -> None:
        assert ctx.cancel_event.wait(WAIT_S)
        ended.release()

    handle = blocks.agent(work, name="gagged", concurrency=2)
    desk = Desk(blocks, handle)
    running = [desk.task().start() for _ in range(2)]
    refused = [desk.task().start() for _ in range(3)]
    for task in running:
        task.control("CancelTask")
    for _ in running:
        assert ended.acquire(timeout=WAIT_S)
    gate.set()
    assert [task.terminal() for task in running] == [{"state": "canceled"}] * 2
    assert [task.terminal()["error"] for task in refused] == ["agent_at_capacity"] * 3
    desk.close()


def test_held_back_messages_and_pipes_cost_no_threads(blocks: Network) -> None:
    ready, go_on = threading.Semaphore(0), threading.Event()

    def work(task: Any, ctx: TaskContext) -> None:
        for number in range(5):
            ctx.report_status(number)
        ready.release()
        assert go_on.wait(WAIT_S)

    handle = blocks.agent(work, name="many_waits", concurrency=0)
    desk = Desk(blocks, handle)
    tasks = [desk.task(taskKind="pipe", duration=1, durationExpiresAtMs=4e12).start() for _ in range(40)]
    for _ in tasks:
        assert ready.acquire(timeout=WAIT_S)  # all forty run, however few processors there are
    names = [thread.name for thread in threading.enumerate() if handle.instance_id in thread.name]
    assert len([name for name in names if name.startswith("blocks-timers-")]) == 1
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    go_on.set()
    assert handle.stop(5).abandoned == ()
    desk.close()
    assert not [thread for thread in threading.enumerate() if handle.instance_id in thread.name]


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/config.json", "config.json"])
def test_a_configuration_is_fetched_from_the_web_alone(address: str) -> None:
    with pytest.raises(ValueError, match="not http or https"):
        fetch_cdm_config(address)


def test_certificates_are_checked_against_certifis_store(monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[Any] = []
    original = ssl.create_default_context
    monkeypatch.setattr(
        ssl, "create_default_context", lambda *, cafile: (stores.append(cafile), original(cafile=cafile))[1]
    )
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    pool = ConnectionPool()
    context = pool.tls_context()
    assert context is pool.tls_context()  # made once
    assert stores == [certifi.where()]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
