"""What went wrong with streams elsewhere, and is to stay right here: waiting writers, names, threads, one client."""

from __future__ import annotations

import itertools
import queue
import threading
from typing import Any

import pytest
from stream_ends import DEADLINE_S, Ends, Gate

from blocks_network import TaskContext, text_part
from blocks_network.errors import TransportError
from blocks_network.server.bus import Answered
from blocks_network.stream import StreamClient, StreamEndedError
from blocks_network.stream import client as client_module
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.refs import StreamRef
from blocks_network.stream.sender import LANES
from blocks_network.stream.threads import StreamThreads
from blocks_network.stream.writer import BUFFER_BYTES
from blocks_network.testing.network import Network
from blocks_network.transport.http import ConnectionPool


def filled(writer: StreamClient, gate: Gate) -> None:
    """The network takes nothing, and the buffer takes no more."""
    gate.shut()
    writer.write(b"x")
    gate.wait_frames(1)
    writer.write(bytes(BUFFER_BYTES * 3 // 4 - 200))


def test_a_writer_that_waits_for_room_is_woken_when_its_task_is_to_end(ends: Ends, gate: Gate) -> None:
    writer = ends.writer()
    filled(writer, gate)
    ending, waiting = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def write() -> None:
        waiting.set()
        try:
            writer.write(bytes(100_000), until=ending)
        except StreamEndedError as fault:
            outcome.append(fault)

    thread = threading.Thread(target=write)
    thread.start()
    assert waiting.wait(DEADLINE_S)
    thread.join(0.05)
    assert thread.is_alive()
    ending.set()
    writer.wake_writers()
    thread.join(DEADLINE_S)
    assert "the task is to end" in str(outcome[0])
    writer.write(b"y", until=ending)  # what still fits goes out


def test_a_cancel_reaches_a_handler_that_waits_for_room(blocks: Network) -> None:
    full, ended = threading.Event(), list[str]()

    def work(task: Any, ctx: TaskContext) -> None:
        out = ctx.create_stream()
        node = blocks.node
        out._client._writer._sender.offer = lambda source: None  # type: ignore[attr-defined]  # nothing goes out any more
        assert node is not None
        try:
            while True:
                out.write(bytes(200_000))
                if out._client._writer._size > BUFFER_BYTES // 2:
                    full.set()
        except RuntimeError as fault:
            ended.append(str(fault))
            del out._client._writer._sender.offer
            out._client._writer._sender.offer(out._client._writer)

    handle = blocks.agent(work, name="full_writer")
    session = blocks.client().send_message(agent_name="full_writer", request_parts=[text_part("go")], stream=True)
    assert full.wait(DEADLINE_S)
    session.cancel()
    assert session.wait_for_terminal(DEADLINE_S * 2).state == "canceled"
    assert "the task is to end" in ended[0]
    handle.stop(0, flush_s=0)


def test_whoever_waits_for_the_last_frames_is_let_go_when_the_owner_ends(ends: Ends, gate: Gate) -> None:
    threads = StreamThreads("stopped")
    writer = ends.writer(threads=threads)
    gate.shut()
    writer.write("under way")
    gate.wait_frames(1)
    ending = threading.Thread(target=writer.end, kwargs={"timeout_s": 60})
    ending.start()
    threads.stop()
    ending.join(2)
    assert not ending.is_alive()
    gate.open()
    assert threads.join(DEADLINE_S)


def test_two_processes_of_one_owner_never_take_each_other_for_themselves(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for _ in range(2):
        monkeypatch.setattr(client_module, "_NUMBERS", itertools.count(1))  # as each process begins
        names.add(ends.both(user_name="owner").uuid)
    assert len(names) == 2
    assert all(name.startswith("owner-stream-0001-") for name in names)


def test_many_streams_share_a_few_threads(ends: Ends) -> None:
    threads = StreamThreads("many")
    writers = []
    for number in range(30):
        ends.stream_id = f"t1-{number}"
        writers.append(ends.writer(threads=threads))
    for round_ in range(3):
        for writer in writers:
            writer.write(f"{round_}")
    for writer in writers:
        assert writer.flush(DEADLINE_S)
    own = [thread for thread in threading.enumerate() if thread.name.endswith("-many")]
    assert 1 <= len(own) <= LANES
    threads.stop()
    assert threads.join(DEADLINE_S)


def test_two_threads_that_open_at_once_get_one_client(ends: Ends) -> None:
    made: list[StreamClient] = []
    barrier = threading.Barrier(8)

    def make(descriptor: StreamDescriptor, reorder_timeout_ms: float | None) -> StreamClient:
        made.append(ends.reader())
        return made[-1]

    descriptor = StreamDescriptor(
        "t1", "t1-1", "acme", "stream.acme.t1-1", "token", "outbound", "inbound", "bytes", "dedicated"
    )
    ref = StreamRef(descriptor, make=make, terminal_state=lambda: None)
    opened: list[StreamClient] = []

    def open_it() -> None:
        barrier.wait(DEADLINE_S)
        opened.append(ref.open())

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(made) == 1
    assert opened == made * 8


@pytest.mark.parametrize("affinity", ["Shared", "", "none"])
def test_an_affinity_that_nobody_knows_is_said(ends: Ends, affinity: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ends.writer(affinity=affinity).affinity == "dedicated"
    assert "affinity" in caplog.text


def test_a_frame_is_serialised_once_posted_and_not_blown_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Event(dict[str, Any]):
        def items(self) -> Any:
            looked_at.append(1)
            return super().items()

    sent: list[tuple[str, str, Any]] = []
    original = ConnectionPool.request

    def request(pool: ConnectionPool, method: str, url: str, **options: Any) -> Any:
        if "/publish/" in url:
            sent.append((method, url, options["body"]))
        return original(pool, method, url, **options)

    monkeypatch.setattr(ConnectionPool, "request", request)
    text = "größer € 🙂" * 500
    with ends.writer(format="events") as writer:
        writer.write(Event(text=text))
    (frame, marker) = sent
    assert looked_at == [1]
    assert {method for method, _, _ in sent} == {"POST"}
    assert all(len(url) < 1000 for _, url, _ in sent)
    body = frame[2].encode() if isinstance(frame[2], str) else frame[2]
    assert text.encode() in body  # six bytes a character, escaped, would have made parts of it
    assert len(body) < len(text.encode()) + 512
    assert "stream_end" in str(marker[2])


def test_an_outage_of_a_reader_is_told_and_ends_nothing(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    heard: queue.Queue[Any] = queue.Queue()
    reader.on_error(heard.put)
    chunks = reader.bytes()
    writer.write("before")
    assert next(chunks) == b"before"
    subscription = reader._reading()._subscription
    original, faults = subscription._poll, [TransportError("cut")] * 2

    def poll() -> Any:
        if faults:
            raise faults.pop()
        return original()

    subscription._poll = poll  # type: ignore[method-assign]
    writer.write("last")  # answers the poll under way; the next ones fail
    assert next(chunks) == b"last"
    error = heard.get(timeout=DEADLINE_S)
    assert (error.category, error.fatal) == ("network_issues", False)
    writer.write("after")
    assert next(chunks) == b"after"
    assert reader.is_active
    assert heard.empty()


def test_an_end_is_an_end_also_when_its_last_words_are_refused(ends: Ends, gate: Gate) -> None:
    """A dead token, say: nobody is left hanging, and nothing is raised."""
    gate.answer = lambda frame: Answered(403, b'{"status":403,"error":true,"message":"Token is expired."}')
    both = ends.both()
    heard: list[Any] = []
    done = threading.Event()
    both.on_error(lambda error: heard.append(error.category))
    both.on_inbound_done(done.set)
    both.write("never taken")
    gate.wait_frames(1)
    both.end()
    assert list(both.bytes()) == []
    assert done.is_set()
    assert heard == ["access_denied"]
