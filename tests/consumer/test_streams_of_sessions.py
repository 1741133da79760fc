"""A session and the streams of its task: opened in time, drained at the end, cut when the window is over."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from blocks_network import StreamUnavailableError, TaskClient, TaskContext
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node
from blocks_network.testing.network import Network

S = 10.0


def card(name: str, direction: str = "outbound", kind: str = "request") -> dict[str, Any]:
    return {
        "identity": {"agentName": name, "displayName": name, "description": "streams", "version": "1.0.0"},
        "capabilities": {"streaming": True, "taskKinds": [kind]},
        "streams": {"words": {"direction": direction, "format": "events"}},
    }


@pytest.fixture
def client(blocks: Network) -> TaskClient:
    return blocks.client()


def five_words(task: Any, ctx: TaskContext) -> str:
    stream = ctx.create_stream(declared_stream="words")
    for number in range(5):
        stream.write({"n": number})
    return "done"


FIVE = [{"n": number} for number in range(5)]


def test_a_stream_of_a_quick_task_is_read_whole_however_late_it_is_opened(blocks: Network, client: TaskClient) -> None:
    blocks.agent(five_words, card=card("quick_words"))
    session = client.send_message(agent_name="quick_words", stream=True)
    over = threading.Event()
    session.on_terminal(lambda event: over.set())
    assert over.wait(S)
    reader = session.wait_for_stream("words", timeout=S).open()
    assert list(reader.events()) == FIVE
    assert session.result(S).text == "done"


def test_a_stream_is_gone_once_the_end_of_its_task_is_known_where_streams_are_not_kept() -> None:
    with Node(NodeConfig(features=frozenset({"cursor"}))) as node, Network(node) as network:
        network.agent(five_words, card=card("gone_words"))
        client = network.client()
        session = client.send_message(agent_name="gone_words", stream=True)
        session.wait_for_terminal(S)
        (ref,) = session.list_streams()
        with pytest.raises(StreamUnavailableError) as caught:
            ref.open()
        assert (caught.value.declared_stream, caught.value.terminal_state) == ("words", "completed")
        connected = client.connect(session.task_id)
        assert [each.descriptor.declared_stream for each in connected.list_streams()] == ["words"]
        assert connected.open_all_streams() == []


def test_a_stream_is_opened_and_read_within_its_callback_thread(blocks: Network, client: TaskClient) -> None:
    blocks.agent(five_words, card=card("callback_words"))
    read: list[Any] = []
    done = threading.Event()

    def follow(ref: Any) -> None:
        reader = ref.open()
        threading.Thread(target=lambda: (read.extend(reader.events()), done.set())).start()

    with client.send_message(agent_name="callback_words", stream=True) as session:
        session.on_stream(follow)
        assert session.wait_for_terminal(S).state == "completed"
        assert done.wait(S)
    assert read == FIVE


def test_a_session_stays_open_until_its_streams_are_drained(blocks: Network, client: TaskClient) -> None:
    opened = threading.Event()

    def handler(task: Any, ctx: TaskContext) -> None:
        stream = ctx.create_stream(declared_stream="words")
        assert opened.wait(S)
        stream.write({"n": 0})

    blocks.agent(handler, card=card("drained_words"))
    session = client.send_message(agent_name="drained_words", stream=True)
    reader = session.wait_for_stream("words", timeout=S).open()
    ended = threading.Event()
    reader.on_end(ended.set)
    opened.set()
    assert list(reader.events()) == [{"n": 0}]
    session.wait_for_terminal(S)
    assert ended.wait(S)  # the session ends a stream whose data is complete


def test_without_drain_the_terminal_cuts_what_is_open(blocks: Network, client: TaskClient) -> None:
    leave = threading.Event()

    def handler(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream(declared_stream="words")
        assert leave.wait(S)

    blocks.agent(handler, card=card("cut_words", direction="bidirectional", kind="pipe"))
    session = client.send_message(agent_name="cut_words", task_kind="pipe", duration=1, auto_drain=False)
    reader = session.wait_for_stream("words", timeout=S).open()
    ended = threading.Event()
    reader.on_end(ended.set)
    session.cancel()
    leave.set()
    session.wait_for_terminal(S)
    assert ended.wait(S)
    assert list(reader.events()) == []


def test_a_stream_that_cannot_end_by_itself_holds_its_session_for_the_window(
    blocks: Network, client: TaskClient
) -> None:
    leave = threading.Event()

    def handler(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream(declared_stream="words")
        assert leave.wait(S)

    blocks.agent(handler, card=card("held_words", direction="bidirectional", kind="pipe"))
    session = client.send_message(agent_name="held_words", task_kind="pipe", duration=1, drain_window_s=0.3)
    reader = session.wait_for_stream("words", timeout=S).open()
    ended = threading.Event()
    reader.on_end(ended.set)
    session.cancel()
    leave.set()
    session.wait_for_terminal(S)
    assert reader.is_active
    assert not session.is_closed
    assert ended.wait(S)
    reader.end()  # once more is fine
    assert session.is_closed
