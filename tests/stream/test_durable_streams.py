"""Streams that outlive their tasks, on a network that keeps them; and the protocol's own rule on one that does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gateway_harness import GatewayNode
from stream_ends import Ends

from blocks_network import StreamUnavailableError, TaskContext, TaskSession, text_part
from blocks_network.errors import AccessDeniedError
from blocks_network.server.config import NodeConfig
from blocks_network.server.features import FEATURES
from blocks_network.server.limits import Limits
from blocks_network.server.node import Node
from blocks_network.stream import StreamClient
from blocks_network.stream import client as client_module
from blocks_network.stream import reader as reader_module
from blocks_network.stream.kept import Replay, find_kept
from blocks_network.testing.network import Network
from blocks_network.transport.pubnub import call, make_client

WAIT_S = 10.0
TAIL = 10
"""Messages of a channel in memory, so that a hundred frames are more than a network without the feature still has."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Callable[[frozenset[str]], Network]]:
    """A network for each set of features, made when it is first asked for."""
    made: dict[frozenset[str], tuple[Node, Network]] = {}

    def get(features: frozenset[str]) -> Network:
        if features not in made:
            node = Node(NodeConfig(features=features, limits=Limits(tail_messages=TAIL)))
            node.start()
            made[features] = node, Network(node)
        return made[features][1]

    yield get
    for node, network in made.values():
        network.close()
        node.stop()


@pytest.fixture
def keeping(nodes: Callable[[frozenset[str]], Network]) -> Network:
    return nodes(FEATURES)


@pytest.fixture
def plain(nodes: Callable[[frozenset[str]], Network]) -> Network:
    """A network that offers nothing beyond the protocol."""
    return nodes(frozenset())


def streamer(network: Network, handler: Any, name: str, **stream: Any) -> None:
    card = {"identity": {"agentName": name}, "capabilities": {"taskKinds": ["request", "pipe"], "streaming": True}}
    network.agent(handler, name=name, card={**card, "streams": {"words": stream}} if stream else card)


def send(network: Network, name: str, **params: Any) -> TaskSession:
    return network.client().send_message(agent_name=name, request_parts=[text_part("go")], **{"stream": True, **params})


def hundred(task: Any, ctx: TaskContext) -> str:
    out = ctx.create_stream(bundle_size_bytes=1)
    for number in range(100):
        out.write(f"{number};")
    return "done"


HUNDRED = [f"{number};".encode() for number in range(100)]


def test_a_stream_is_read_whole_after_its_task_has_ended_by_whoever_may_read_the_task(keeping: Network) -> None:
    streamer(keeping, hundred, "kept")
    session = send(keeping, "kept")
    assert session.wait_for_terminal(WAIT_S).state == "completed"
    (ref,) = session.list_streams()
    assert list(ref.open().bytes()) == HUNDRED
    later = keeping.client().connect(session.task_id)
    (again,) = later.list_streams()
    heard: list[Any] = []
    reader = again.open()
    reader.on_error(heard.append)
    ended = threading.Event()
    reader.on_end(ended.set)
    assert list(reader.bytes()) == HUNDRED
    assert ended.wait(WAIT_S)
    assert heard == []


def test_a_live_reader_that_comes_late_gets_more_than_the_networks_memory(keeping: Network) -> None:
    written, leave = threading.Event(), threading.Event()

    def work(task: Any, ctx: TaskContext) -> None:
        hundred(task, ctx)
        written.set()
        assert leave.wait(WAIT_S)

    streamer(keeping, work, "late")
    session = send(keeping, "late")
    assert written.wait(WAIT_S)
    reader = session.wait_for_stream(timeout=WAIT_S).open()
    first = reader.bytes()
    assert [next(first) for _ in range(100)] == HUNDRED
    leave.set()
    assert list(first) == []


def test_a_conversation_is_read_again_without_the_readers_own_words(keeping: Network) -> None:
    def talk(task: Any, ctx: TaskContext) -> None:
        stream = ctx.create_stream(declared_stream="words")
        for word in stream.events():
            if word == {"say": "bye"}:
                break
            stream.write({"heard": word})

    streamer(keeping, talk, "talker", direction="bidirectional", format="events")
    session = send(keeping, "talker", task_kind="pipe", duration=1)
    live = session.wait_for_stream("words", timeout=WAIT_S).open()
    answers = live.events()
    for number in range(3):
        live.write({"say": number})
        assert next(answers) == {"heard": {"say": number}}
    live.write({"say": "bye"})
    session.terminate()
    session.wait_for_terminal(WAIT_S)
    (again,) = keeping.client().connect(session.task_id).list_streams()
    reader = again.open()
    assert list(reader.events()) == [{"heard": {"say": number}} for number in range(3)]
    with pytest.raises(RuntimeError, match="inbound only"):
        reader.write({"say": "more"})


def test_what_only_the_consumer_wrote_is_over_with_its_task(keeping: Network) -> None:
    def listen(task: Any, ctx: TaskContext) -> None:
        for _ in ctx.create_stream(declared_stream="words").bytes():
            return

    streamer(keeping, listen, "listener", direction="inbound", format="bytes")
    session = send(keeping, "listener", task_kind="pipe", duration=1)
    session.wait_for_stream("words", timeout=WAIT_S)
    session.terminate()
    session.wait_for_terminal(WAIT_S)
    (ref,) = session.list_streams()
    with pytest.raises(StreamUnavailableError):
        ref.open()


def test_a_token_that_has_ended_is_replaced_by_the_right_to_read_the_task(keeping: Network) -> None:
    streamer(keeping, hundred, "expired")
    session = send(keeping, "expired")
    session.wait_for_terminal(WAIT_S)
    (ref,) = keeping.client().connect(session.task_id).list_streams()
    object.__setattr__(ref.descriptor, "token", "p0F2AkF0GgAA")  # as good as one that is over: it opens nothing
    assert list(ref.open().bytes()) == HUNDRED


def test_the_right_to_read_a_task_opens_no_other_tasks_streams(keeping: Network) -> None:
    streamer(keeping, hundred, "private")
    one, other = send(keeping, "private"), send(keeping, "private")
    for session in (one, other):
        session.wait_for_terminal(WAIT_S)
    (ref,) = one.list_streams()
    object.__setattr__(ref.descriptor, "channel", other.list_streams()[0].descriptor.channel)
    with pytest.raises(AccessDeniedError):
        ref.open()


def test_without_the_feature_a_stream_is_gone_with_its_task(plain: Network) -> None:
    streamer(plain, hundred, "gone")
    session = send(plain, "gone")
    assert session.wait_for_terminal(WAIT_S).state == "completed"
    (ref,) = session.list_streams()
    with pytest.raises(StreamUnavailableError, match="live only") as caught:
        ref.open()
    assert caught.value.terminal_state == "completed"
    assert ref.descriptor.stream_id == f"{session.task_id}-1"


@pytest.mark.parametrize(
    "features",
    [FEATURES, frozenset(), *(FEATURES - {one} for one in sorted(FEATURES))],
    ids=lambda of: "+".join(sorted(of)) or "none",
)
def test_tasks_and_live_streams_are_the_same_whatever_the_network_offers(
    nodes: Callable[[frozenset[str]], Network], features: frozenset[str]
) -> None:
    network = nodes(features)

    def work(task: Any, ctx: TaskContext) -> str:
        out = ctx.create_stream()
        assert opened.wait(WAIT_S)
        ctx.report_status("half")
        for number in range(5):
            out.write(f"{number};")
        return "done"

    opened = threading.Event()
    streamer(network, work, "same")
    session = send(network, "same")
    reader = session.wait_for_stream(timeout=WAIT_S).open()
    opened.set()
    assert b"".join(reader.bytes()) == b"0;1;2;3;4;"
    assert session.wait_for_terminal(WAIT_S).state == "completed"
    assert [event.type for event in session.list_events()] == [
        "progress", "progress", "progress", "artifact", "terminal",
    ]  # fmt: skip


def kept_reader(ends: Ends, **options: Any) -> StreamClient:
    return ends.reader(durable=True, replay=Replay(has_end=True), **options)


def test_what_is_missing_of_a_kept_stream_is_said(node: GatewayNode, ends: Ends) -> None:
    with ends.writer(durable=True) as writer:
        writer.write("whole")
    ended = kept_reader(ends)
    assert list(ended.bytes()) == [b"whole"]
    ends.stream_id = "never-written"
    heard: list[Any] = []
    reader = kept_reader(ends)
    reader.on_error(heard.append)
    assert list(reader.bytes()) == []
    assert [error.category for error in heard] == ["frames_lost"]


def test_a_writer_keeps_nothing_unless_it_is_told_that_the_network_does(ends: Ends) -> None:
    with ends.writer() as writer:
        writer.write("live only")
    assert list(kept_reader(ends).bytes()) == []


def test_the_document_of_the_network_tells_a_stream_that_stands_alone(
    keeping: Network, plain: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for network, expected in ((keeping, [b"word"]), (plain, [])):
        node = network.node
        keyset = next(iter(node.keysets))
        monkeypatch.setenv("BLOCKS_CDM_URL", network.cdm_url)
        made: dict[str, Any] = {
            "subscribe_key": keyset.subscribe_key,
            "publish_key": keyset.publish_key,
            "token": None,
            "agent_name": "alone",
            "stream_id": "s-1",
        }
        made["token"] = _any_token(network, "stream.alone.s-1")
        with StreamClient(**made) as writer:
            writer.write("word")
        assert list(StreamClient(direction="inbound", replay=Replay(has_end=False), **made).bytes()) == expected


def _any_token(network: Network, channel: str) -> str:
    from blocks_network.server.access.tokens import CapabilityTokens

    keyset = next(iter(network.node.keysets))
    return CapabilityTokens().mint(keyset, ttl_minutes=5, channels={channel: 3})


@pytest.mark.parametrize("left", [2, 0])
def test_a_replay_ends_also_when_its_last_frames_are_deleted_while_it_is_read(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """As a network does it with what is too old, or too much."""
    monkeypatch.setattr(client_module, "REPLAY_POLL_S", 1)
    frames = [f"{number};" for number in range(4)]
    with ends.writer(durable=True) as writer:
        for frame in frames:
            writer.write(frame)
            assert writer.flush()
    janitor = make_client(ends.keys, user_id="janitor")
    asked: list[Any] = []

    def find_and_delete(client: Any, channel: str, *, shared: bool) -> Any:
        asked.append(find_kept(client, channel, shared=shared))
        if len(asked) == 1:
            messages = call(janitor.fetch_messages().channels([channel]).maximum_per_channel(10)).channels[channel]
            times = sorted(int(each.timetoken) for each in messages)
            call(janitor.delete_messages().channel(channel).start(times[left] - 1).end(times[-1]))
        return asked[-1]

    monkeypatch.setattr(reader_module, "find_kept", find_and_delete)
    reader = kept_reader(ends)
    heard: list[Any] = []
    reader.on_error(heard.append)
    assert list(reader.bytes()) == [frame.encode() for frame in frames[:left]]
    assert [error.category for error in heard] == ["frames_lost"]
    assert len(asked) == 2
