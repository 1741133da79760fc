"""One poll for all sessions of a client: what it spares, and that nothing is lost or mixed up on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from blocks_network import TaskClient, TaskSession, text_part
from blocks_network.api.caller import Caller
from blocks_network.api.keys import create_key
from blocks_network.api.tasks import ListTasksParams
from blocks_network.api.tokens import consumer_token, reader_token
from blocks_network.auth.static import StaticAuthProvider
from blocks_network.consumer import hub as hub_module
from blocks_network.consumer.hub import Hub
from blocks_network.errors import AccessDeniedError, ApiError, TransportError
from blocks_network.server.config import NodeConfig
from blocks_network.server.features import FEATURES
from blocks_network.server.node import Node
from blocks_network.testing.network import Network
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import PubNubKeys, call, make_client

WAIT_S = 20


def hub_of(client: TaskClient) -> Hub:
    found = client._link.hub
    assert found is not None
    return found


def counted(task: Any, ctx: Any) -> str:
    for number in range(20):
        ctx.publish_artifact(f"{task.request_parts[0].text}-{number}", mime_type="text/plain")
    return str(task.request_parts[0].text)


def given(session: TaskSession) -> list[str]:
    return [session.download_artifact(ref).data.decode() for ref in session.list_artifacts()]


FEATURE_SETS = [FEATURES, *(FEATURES - {one} for one in sorted(FEATURES)), frozenset()]


@pytest.mark.parametrize("features", FEATURE_SETS, ids=["all", *(f"no {one}" for one in sorted(FEATURES)), "none"])
def test_sessions_see_the_same_with_each_feature_and_without(features: frozenset[str]) -> None:
    with Node(NodeConfig(features=features)) as node, Network(node) as network:
        network.agent(counted, name="counted", concurrency=8, max_pending_backlog=100)
        client = network.client()
        sessions = [
            client.send_message(agent_name="counted", request_parts=[text_part(str(number))]) for number in range(20)
        ]
        for number, session in enumerate(sessions):
            assert session.wait_for_terminal(WAIT_S).state == "completed"
            assert given(session) == [*(f"{number}-{index}" for index in range(20)), str(number)]


def test_many_open_sessions_are_one_poll_and_no_thread_each(blocks: Network) -> None:
    started = threading.Semaphore(0)

    def waits(task: Any, ctx: Any) -> None:
        started.release()
        ctx.cancel_event.wait(WAIT_S)

    agent = blocks.agent(waits, name="waits", concurrency=1, max_pending_backlog=1_000)
    assert agent.running
    client = blocks.client()
    first = client.send_message(agent_name="waits", request_parts=[text_part("x")])
    assert started.acquire(timeout=WAIT_S)
    threads = threading.active_count()
    others = [client.send_message(agent_name="waits", request_parts=[text_part("x")]) for _ in range(100)]
    assert threading.active_count() <= threads + 1
    assert len(hub_of(client)._places) == 101
    for session in [*others, first]:  # the waiting ones first, so that none of them begins
        session.terminate()
    for session in [*others, first]:
        assert session.wait_for_terminal(WAIT_S).state == "canceled"
    assert not hub_of(client)._places


def test_events_that_are_quicker_than_the_answer_to_the_call_are_kept(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is made only after the whole task has arrived at the hub."""
    blocks.agent(counted, name="quick")
    client = blocks.client()
    client.run("quick", "warm")
    arrived = threading.Event()
    received, join = Hub.received, Hub.join

    def watched(hub: Hub, message: Any) -> None:
        received(hub, message)
        if message.payload.get("type") == "terminal":
            arrived.set()

    def late(hub: Hub, *arguments: Any) -> Any:
        assert arrived.wait(WAIT_S)
        return join(hub, *arguments)

    monkeypatch.setattr(Hub, "received", watched)
    monkeypatch.setattr(Hub, "join", late)
    session = client.send_message(agent_name="quick", request_parts=[text_part("early")])
    assert session.wait_for_terminal(WAIT_S).state == "completed"
    assert [event.type for event in session.list_events()] == ["progress", *["artifact"] * 21, "terminal"]
    assert given(session) == [*(f"early-{index}" for index in range(20)), "early"]


def test_a_task_that_ended_before_the_poll_began_with_a_later_one_has_all_its_events(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads send; the one whose task came first makes its session last."""
    blocks.agent(counted, name="overtaken")
    client = blocks.client()
    overtaken, over = threading.Event(), threading.Event()
    join = Hub.join

    def late(hub: Hub, *arguments: Any) -> Any:
        if threading.current_thread() is first:
            overtaken.set()
            assert over.wait(WAIT_S)
        return join(hub, *arguments)

    monkeypatch.setattr(Hub, "join", late)
    sessions: list[TaskSession] = []
    first = threading.Thread(
        target=lambda: sessions.append(client.send_message(agent_name="overtaken", request_parts=[text_part("first")]))
    )
    first.start()
    assert overtaken.wait(WAIT_S)
    (task,) = client.list_tasks(ListTasksParams(agent_name="overtaken")).tasks
    with client.connect(task.task_id) as watcher:
        watcher.wait_for_terminal(WAIT_S)
    client.run("overtaken", "second")
    over.set()
    first.join(WAIT_S)
    assert sessions[0].wait_for_terminal(WAIT_S).state == "completed"
    assert given(sessions[0]) == [*(f"first-{index}" for index in range(20)), "first"]


def test_what_waited_for_too_long_is_read_from_the_tasks_own_channel(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "EARLY_CHANNELS", 0)
    blocks.agent(counted, name="lost_early")
    client = blocks.client()
    for number in range(5):
        session = client.send_message(agent_name="lost_early", request_parts=[text_part(str(number))])
        assert session.wait_for_terminal(WAIT_S).state == "completed"
        assert given(session) == [*(f"{number}-{index}" for index in range(20)), str(number)]


def test_the_poll_ends_when_nobody_needs_it_and_begins_again(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "IDLE_S", 0.0)
    blocks.agent(counted, name="now_and_then")
    client = blocks.client()
    for number in range(3):
        session = client.send_message(agent_name="now_and_then", request_parts=[text_part(str(number))])
        assert session.wait_for_terminal(WAIT_S).state == "completed"
        assert given(session)[-1] == str(number)
        session.close()
        poll = next((t for t in threading.enumerate() if f"sessions-{hub_of(client).name[:6]}" in t.name), None)
        if poll is not None:
            poll.join(WAIT_S)
            assert not poll.is_alive()


@pytest.fixture
def colleague_key(blocks: Network) -> str:
    """Another user of the same organisation."""
    made = create_key(Caller(blocks.base_url), blocks.api_key, scopes=["consumer"], user_id="somebody_else")
    return made.api_key


def test_a_name_is_worth_nothing_to_anybody_else(blocks: Network, colleague_key: str) -> None:
    def asked(key: str) -> Any:
        identity = consumer_token(Caller(blocks.base_url), key)
        return reader_token(Caller(blocks.base_url, StaticAuthProvider(identity.access_token)), "a name", "free")

    mine, theirs = asked(blocks.api_key), asked(colleague_key)
    assert mine.channel != theirs.channel
    keyset = blocks.node.keysets.for_billing("free")
    keys = PubNubKeys(keyset.subscribe_key, keyset.publish_key, blocks.node.origin, ssl=False)
    colleague = make_client(keys, user_id="somebody", token=theirs.token)
    refused: list[Callable[[], Any]] = [
        lambda: call(colleague.list_channels_in_channel_group().channel_group(mine.channel)),
        lambda: call(colleague.fetch_messages().channels([mine.channel])),
        lambda: call(colleague.publish().channel(mine.channel).message("x")),
    ]
    for attempt in refused:
        with pytest.raises(TransportError):
            attempt()
    answer = POOL.request(
        "GET",
        f"http://{blocks.node.origin}/v2/subscribe/{keyset.subscribe_key}/,/0"
        f"?tt=0&uuid=x&auth={theirs.token}&channel-group={mine.channel}",
    )
    assert answer.status_code == 403


def test_a_client_that_was_cut_off_follows_its_next_task_again(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's token is refused for good; what is sent later begins with a poll of its own."""
    blocks.agent(counted, name="after_all")
    client = blocks.client()
    client.run("after_all", "1")
    hub = hub_of(client)
    refusal = ApiError("no", status=403)

    def refused() -> Any:
        raise refusal

    session = client.send_message(agent_name="after_all", request_parts=[text_part("2")])
    session.wait_for_terminal(WAIT_S)
    with monkeypatch.context() as patched:
        patched.setattr(hub, "_token", refused)
        assert hub.denied(AccessDeniedError("the token has ended")) is False
    session = client.send_message(agent_name="after_all", request_parts=[text_part("3")])
    assert session.wait_for_terminal(WAIT_S).state == "completed"
    assert given(session)[-1] == "3"


def test_a_bearer_that_ends_at_that_moment_is_no_reason_to_give_up(blocks: Network) -> None:
    hub = Hub(blocks.client()._link.ready_token_caller, PubNubKeys("sub-c-x"), "free", blocks.client()._link.callbacks)
    late = ApiError("expired", status=401)
    assert [hub._is_final(late) for _ in range(6)] == [False] * 5 + [True]
