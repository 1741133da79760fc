"""A consumer that writes and is gone: whoever reads is told, and nobody is taken for gone who is there."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
from stream_ends import DEADLINE_S, Ends, Gate

from blocks_network import TaskContext, text_part
from blocks_network.stream import StreamClient, alive
from blocks_network.stream.alive import WriterWatch
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.kept import find_kept
from blocks_network.testing.network import Network
from blocks_network.transport.pubnub import call, make_client
from blocks_network.transport.timers import Timers
from blocks_network.wire.frames import AliveFrame, alive_text, read_frame

SILENCE_S = 0.5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "PULSE_S", 0.05)
    monkeypatch.setattr(alive, "SILENCE_S", SILENCE_S)


def consumer(ends: Ends, direction: Any = "inbound", **options: Any) -> StreamClient:
    """The writing end, as a session opens it."""
    inverse: Any = {"inbound": "outbound", "bidirectional": "bidirectional"}[direction]
    channel = f"stream.acme.{ends.stream_id}"
    descriptor = StreamDescriptor(
        "t1", ends.stream_id, "acme", channel, "", direction, inverse, "bytes", options.pop("affinity", "dedicated")
    )
    client = StreamClient.from_descriptor(descriptor, keys=ends.keys, consumer_user_id="owner", **options)
    ends._clients.append(client)
    return client


def told(reader: StreamClient) -> queue.Queue[str]:
    heard: queue.Queue[str] = queue.Queue()
    reader.on_error(lambda error: heard.put(error.category))
    return heard


def test_an_idle_writer_counts_as_there_a_silent_one_as_gone_and_may_come_back(ends: Ends, gate: Gate) -> None:
    reader, writer = ends.reader(), consumer(ends)
    heard, chunks = told(reader), reader.bytes()
    writer.write("first")
    assert next(chunks) == b"first"
    gate.wait_frames(1 + int(2 * SILENCE_S / alive.PULSE_S))
    assert heard.empty()
    gate.shut()
    assert heard.get(timeout=DEADLINE_S) == "writer_gone"
    gate.open()
    writer.write("second")
    assert next(chunks) == b"second"
    writer.end()
    assert list(chunks) == []
    assert heard.empty()


@pytest.mark.parametrize("kind", [{"direction": "bidirectional"}, {"affinity": "shared"}], ids=str)
def test_a_writer_that_has_no_marker_says_that_it_goes(ends: Ends, gate: Gate, kind: dict[str, Any]) -> None:
    reader = ends.both() if "direction" in kind else ends.reader(affinity="shared")
    heard, writer = told(reader), consumer(ends, **kind)
    writer.write("word")
    gate.wait_frames(3)
    writer.end()
    assert heard.get(timeout=SILENCE_S * 0.8) == "writer_gone"


def test_who_promised_nothing_is_not_watched(ends: Ends) -> None:
    """Published clients, and agents: the network itself tells when one of those is lost."""
    reader, writer = ends.reader(), ends.writer()
    heard = told(reader)
    writer.write("first")
    assert next(reader.bytes()) == b"first"
    with pytest.raises(queue.Empty):
        heard.get(timeout=SILENCE_S * 2)


def test_what_only_says_that_somebody_is_there_is_not_kept(ends: Ends, gate: Gate) -> None:
    writer = consumer(ends, durable=True)
    writer.write("kept")
    gate.wait_frames(4)
    writer.end()
    client, channel = make_client(ends.keys, user_id="looker"), writer.channel
    assert find_kept(client, channel, shared=False) is not None
    kept = call(client.fetch_messages().channels([channel]).maximum_per_channel(10)).channels[channel]
    assert [message.message["type"] for message in kept] == ["stream_data", "stream_end"]


def test_a_greeting_that_the_network_refuses_costs_nothing(ends: Ends, gate: Gate) -> None:
    from blocks_network.server.bus import Answered

    no = Answered(400, b'{"status":400,"error":true,"message":"no"}')
    gate.answer = lambda frame: no if frame["type"] == "stream_alive" else None
    reader, writer = ends.reader(), consumer(ends)
    gate.wait_frames(3)
    writer.write("word")
    writer.end()
    assert list(reader.bytes()) == [b"word"]
    assert writer.flush()


def test_a_reader_that_hears_nothing_itself_blames_nobody() -> None:
    timers, gone, deaf = Timers("test"), queue.Queue[str](), threading.Event()
    timers.start()
    deaf.set()
    watch = WriterWatch(timers.after, gone=gone.put, deaf=deaf.is_set)
    watch.heard("writer")
    with pytest.raises(queue.Empty):
        gone.get(timeout=SILENCE_S * 2)
    deaf.clear()
    assert gone.get(timeout=DEADLINE_S) == "writer"
    timers.stop()
    assert timers.join(DEADLINE_S)


def test_other_programs_pass_a_greeting_over() -> None:
    """It has no number, and what has none is dropped."""
    import json

    wire = json.loads(alive_text("t1-1", 1, gone=True))
    assert "seq" not in wire
    assert read_frame(wire) == AliveFrame(gone=True)
    assert read_frame({**wire, "type": "stream_of_tomorrow"}) is None


def test_a_handler_hears_that_its_consumer_has_vanished(blocks: Network) -> None:
    def listen(task: Any, ctx: TaskContext) -> str:
        stream = ctx.create_stream()
        stream.on_error(lambda error: stream.end() if error.category == "writer_gone" else None)
        return b"".join(stream.bytes()).decode()

    name = "listener"
    card = {"identity": {"agentName": name}, "capabilities": {"taskKinds": ["pipe"], "streaming": True}}
    blocks.agent(listen, name=name, card={**card, "streams": {"in": {"direction": "inbound", "format": "bytes"}}})
    session = blocks.client().send_message(
        agent_name=name, request_parts=[text_part("go")], task_kind="pipe", duration=5, stream=True
    )
    writer = session.wait_for_stream(timeout=DEADLINE_S).open()
    writer.write("half a wo")
    assert writer.flush()
    writer._threads.stop()  # as when its process is killed
    artifacts: queue.Queue[Any] = queue.Queue()
    session.on_artifact(artifacts.put)
    artifacts.get(timeout=DEADLINE_S)
    (ref,) = session.list_artifacts()
    assert session.download_artifact(ref).data == b"half a wo"
