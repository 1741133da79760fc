"""An instance and its network over time: tokens that end, an agent that changes sides, a network that shuts it out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

import pytest
from control_desk import WAIT_S, Desk
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub

from blocks_network import TaskContext, start_agent_instance, text_part
from blocks_network.agent import connection
from blocks_network.agent.control import ControlLink
from blocks_network.agent.loading import derive_card
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.api.admin import set_agent_offline
from blocks_network.api.caller import Caller
from blocks_network.api.registry import register_agent
from blocks_network.errors import AgentAuthFatalError, HandlerOverdueError
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node
from blocks_network.server.tasks.dispatch import CONTROL_MINUTES
from blocks_network.testing.network import Network
from blocks_network.transport.pubnub import keys_of, make_client, token_lifetime_s


@pytest.fixture
def tokens_set(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[str]:
    """The control tokens that instances take up, while they do."""
    heard: queue.Queue[str] = queue.Queue()
    original = ControlLink.set_token

    def set_token(link: ControlLink, token: str) -> None:
        original(link, token)
        heard.put(token)

    monkeypatch.setattr(ControlLink, "set_token", set_token)
    return heard


def answer(blocks: Network, name: str, billing_mode: Any = "free") -> str | None:
    session = blocks.client(billing_mode).send_message(agent_name=name, request_parts=[text_part("go")])
    return str(session.result(WAIT_S).text)


def revoke(blocks: Network, handle: Any) -> None:
    """As an operator does it: with the keyset's secret."""
    keys = keys_of(handle.pubnub)
    keyset = next(each for each in blocks.node.keysets if each.subscribe_key == keys.subscribe_key)
    config = PNConfiguration()
    config.subscribe_key, config.publish_key = keyset.subscribe_key, keyset.publish_key
    config.secret_key, config.user_id = keyset.secret_key, "operator"
    config.origin, config.ssl = keys.origin, False
    PubNub(config).revoke_token(handle.pubnub._get_token()).sync()


def test_a_token_that_ends_is_replaced_and_work_goes_on(blocks: Network, tokens_set: queue.Queue[str]) -> None:
    handle = blocks.agent(lambda task: "heard", name="tokened")
    threading.Event().wait(1.1 - time.time() % 1)  # tokens of one second are the same text, revoked together
    revoke(blocks, handle)
    tokens_set.get(timeout=WAIT_S)
    assert answer(blocks, "tokened") == "heard"
    assert handle.fault is None


def test_an_idle_instance_renews_its_token_before_it_ends(
    blocks: Network, tokens_set: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RENEW_AT_SHARE", 0.0)
    monkeypatch.setattr(connection, "RENEW_AGAIN_S", 0.05)
    handle = blocks.agent(lambda task: "heard", name="renewing")
    for _ in range(2):
        tokens_set.get(timeout=WAIT_S)
    lifetime_s = token_lifetime_s(handle.pubnub)
    assert lifetime_s is not None
    assert CONTROL_MINUTES * 60 - 60 < lifetime_s <= CONTROL_MINUTES * 60 + 1


def test_the_token_that_comes_with_a_task_lasts_no_shorter_than_the_first(blocks: Network) -> None:
    """Published agents have no other: a shorter one would make them deaf after their last task."""
    handle = blocks.agent(lambda task: "heard", name="lasting")
    first_s = token_lifetime_s(handle.pubnub)
    assert first_s is not None
    assert answer(blocks, "lasting") == "heard"
    assert (token_lifetime_s(handle.pubnub) or 0) > first_s * 0.8


def test_an_agent_that_changes_sides_takes_its_instance_with_it(blocks: Network, tokens_set: queue.Queue[str]) -> None:
    handle = blocks.agent(lambda task, ctx: ctx.task_client.billing_mode, name="mover")
    before = handle.pubnub
    assert answer(blocks, "mover") == "free"
    moved = threading.Event()
    original = handle._instance.connection._moved
    handle._instance.connection._moved = lambda: (original(), moved.set())
    register_agent(
        blocks.base_url, blocks.api_key, derive_card("mover", None, None, None), billing_mode="paid", price_per_task=1.0
    )
    assert moved.wait(WAIT_S)
    assert handle.pubnub is not before
    assert answer(blocks, "mover", "paid") == "paid"
    threading.Event().wait(1.1 - time.time() % 1)
    revoke(blocks, handle)
    tokens_set.get(timeout=WAIT_S)  # it connected again, as what its agent now is
    assert answer(blocks, "mover", "paid") == "paid"


def test_a_switch_that_cannot_be_is_passed_over(blocks: Network, caplog: pytest.LogCaptureFixture) -> None:
    handle = blocks.agent(lambda task: None, name="stays")
    desk, before = Desk(blocks, handle), handle.pubnub
    with caplog.at_level(logging.WARNING, "blocks_network"):
        desk.say({"type": "SwitchEnvironment", "environment": "moon", "pamToken": "x"})
        desk.say({"type": "SwitchEnvironment", "environment": "playground", "pamToken": "x"})
        desk.say({"type": "SwitchEnvironment", "environment": "network", "pamToken": ""})
        assert desk.task().start().terminal() == {"state": "completed"}
    desk.close()
    assert handle.pubnub is before
    assert caplog.text.count("ignored a switch to environment") == 2
    assert "came without a token" in caplog.text


def test_an_agent_taken_offline_ends_its_instance_and_not_the_process(
    blocks: Network, tokens_set: queue.Queue[str]
) -> None:
    heard: queue.Queue[tuple[str, BaseException]] = queue.Queue()
    handle = blocks.agent(lambda task: None, name="banned", on_error=lambda *fault: heard.put(fault))
    set_agent_offline(Caller(blocks.base_url), blocks.api_key, "banned", True)
    revoke(blocks, handle)
    task_id, fault = heard.get(timeout=WAIT_S)
    assert (task_id, type(fault)) == ("", AgentAuthFatalError)
    assert handle.wait(WAIT_S)
    assert handle.fault is fault
    assert not handle.running
    set_agent_offline(Caller(blocks.base_url), blocks.api_key, "banned", False)


def test_a_client_of_the_programs_own_serves_without_configuration(blocks: Network) -> None:
    card = derive_card("own_client", None, None, None)
    register_agent(blocks.base_url, blocks.api_key, card)
    keys = keys_of(blocks.agent(lambda task: None, name="finder").pubnub)
    client = make_client(keys, user_id="AG-own_client-1", presence_timeout_s=20)
    handle = start_agent_instance(
        AgentInstanceOptions(
            card=card,
            agent_name="own_client",
            handler=lambda task: "heard",
            pubnub=client,
            base_url=blocks.base_url,
            api_key=blocks.api_key,
            instance_id="AG-own_client-1",
        )
    )
    try:
        assert handle.pubnub is client
        assert handle.cdm_config is None
        assert answer(blocks, "own_client") == "heard"
    finally:
        handle.stop(0)


def state_of(desk: Desk, handle: Any) -> dict[str, Any]:
    client = make_client(keys_of(handle.pubnub), user_id="looker", token=handle.pubnub._get_token())
    found = client.get_state().channels([desk.channel]).uuid(handle.instance_id).sync().result.channels
    return dict(found.get(desk.channel) or found)


def wait_state(desk: Desk, handle: Any, **expected: Any) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while True:
        state = state_of(desk, handle)
        if all(state.get(name) == value for name, value in expected.items()):
            return state
        assert time.monotonic() < deadline, state
        threading.Event().wait(0.05)


def test_a_handler_that_ignores_its_end_is_reported_and_its_slot_told_as_lost_until_it_returns(
    blocks: Network,
) -> None:
    heard: queue.Queue[tuple[str, BaseException]] = queue.Queue()
    started, leave = threading.Event(), threading.Event()

    def deaf(task: Any, ctx: TaskContext) -> None:
        started.set()
        assert leave.wait(WAIT_S)

    handle = blocks.agent(deaf, name="deaf", cancel_grace_s=0.05, on_error=lambda *fault: heard.put(fault))
    desk = Desk(blocks, handle)
    task = desk.task().start()
    assert started.wait(WAIT_S)
    task.control("CancelTask")
    task_id, fault = heard.get(timeout=WAIT_S)
    assert (task_id, type(fault)) == (task.task_id, HandlerOverdueError)
    wait_state(desk, handle, lostSlots=1, activeTasks=1)
    assert desk.task().start().terminal()["error"] == "agent_at_capacity"
    leave.set()
    assert task.terminal() == {"state": "canceled"}
    assert "lostSlots" not in wait_state(desk, handle, activeTasks=0)
    assert desk.task().start().terminal() == {"state": "completed"}
    desk.close()
    assert heard.empty()


def test_a_handler_that_ends_in_time_is_nobodys_business(blocks: Network) -> None:
    heard: list[Any] = []
    started = threading.Event()

    def polite(task: Any, ctx: TaskContext) -> None:
        started.set()
        assert ctx.cancel_event.wait(WAIT_S)

    handle = blocks.agent(polite, name="polite", cancel_grace_s=0.1, on_error=lambda *fault: heard.append(fault))
    desk = Desk(blocks, handle)
    task = desk.task().start()
    assert started.wait(WAIT_S)
    task.control("CancelTask")
    assert task.terminal() == {"state": "canceled"}
    threading.Event().wait(0.2)
    desk.close()
    assert heard == []


def test_a_stop_is_not_held_up_by_a_network_that_is_gone(blocks: Network) -> None:
    """Open pipes with streams are ended on threads of their own, which must not wait longer than the stop does."""

    def talk(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream().write("first")

    with Node(NodeConfig()) as node, Network(node) as network:
        handle = network.agent(talk, name="talker")
        session = network.client().send_message(agent_name="talker", task_kind="pipe", duration=5, stream=True)
        stream = session.wait_for_stream(timeout=WAIT_S).open()
        assert next(stream.bytes()) == b"first"
        node.stop()
        began = time.monotonic()
        report = handle.stop(0, flush_s=0.2)
        assert time.monotonic() - began < 4
        assert report.abandoned == ()
