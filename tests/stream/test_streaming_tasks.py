"""Tasks with streams on a real network: from the handler's create_stream to what the consumer reads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blocks_network import TaskContext, TaskSession, text_part
from blocks_network.stream import StreamClient, StreamEndedError
from blocks_network.testing.network import Network

WAIT_S = 10.0
Send = Callable[..., TaskSession]


def card(**streams: dict[str, Any]) -> dict[str, Any]:
    return {
        "identity": {"agentName": "streamer"},
        "capabilities": {"taskKinds": ["request", "pipe"], "streaming": True},
        **({"streams": streams} if streams else {}),
    }


class Stage:
    """An agent `streamer` and its consumer."""

    def __init__(self, blocks: Network) -> None:
        self.blocks, self.client = blocks, blocks.client()
        self.handle: Any = None

    def agent(self, handler: Any, *, concurrency: int = 4, **streams: dict[str, Any]) -> Any:
        self.handle = self.blocks.agent(handler, name="streamer", card=card(**streams), concurrency=concurrency)
        return self.handle

    def request(self, text: str = "go", **params: Any) -> TaskSession:
        params = {"stream": True, **params}
        return self.client.send_message(agent_name="streamer", request_parts=[text_part(text)], **params)

    def pipe(self, text: str = "go", **params: Any) -> TaskSession:
        params = {"stream": True, "task_kind": "pipe", "duration": 5, **params}
        return self.client.send_message(agent_name="streamer", request_parts=[text_part(text)], **params)


@pytest.fixture
def stage(blocks: Network) -> Stage:
    return Stage(blocks)


def opened(session: TaskSession, name: str | None = None) -> StreamClient:
    return session.wait_for_stream(name, timeout=WAIT_S).open()


def test_a_thousand_chunks_arrive_in_their_order_then_the_artifact_then_the_terminal(stage: Stage) -> None:
    def stream(task: Any, ctx: TaskContext) -> str:
        out = ctx.create_stream()
        for number in range(1000):
            out.write(f"{number};")
        return "done"

    stage.agent(stream)
    session = stage.request()
    chunks = list(opened(session).bytes())
    assert chunks == [f"{number};".encode() for number in range(1000)]
    terminal = session.wait_for_terminal(timeout=WAIT_S)
    assert terminal.state == "completed"
    assert [session.download_artifact(ref).data for ref in session.list_artifacts()] == [b"done"]
    assert [event.type for event in session.list_events()] == ["progress", "progress", "artifact", "terminal"]


def test_a_reader_that_opens_late_gets_the_whole_stream(stage: Stage) -> None:
    written, read = threading.Event(), threading.Event()

    def stream(task: Any, ctx: TaskContext) -> None:
        out = ctx.create_stream(bundle_size_bytes=1)
        for number in range(150):
            out.write(str(number))
        written.set()
        read.wait(WAIT_S)

    stage.agent(stream)
    session = stage.request()
    ref = session.wait_for_stream(timeout=WAIT_S)
    assert written.wait(WAIT_S)
    chunks = ref.open().bytes()
    assert [int(next(chunks)) for _ in range(150)] == list(range(150))
    read.set()
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"


def test_a_task_without_a_stream_is_told_so(stage: Stage) -> None:
    def stream(task: Any, ctx: TaskContext) -> str:
        assert not ctx.has_stream
        with pytest.raises(RuntimeError, match="has_stream"):
            ctx.create_stream()
        return "fell back"

    stage.agent(stream)
    session = stage.request(stream=False)
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"


def test_the_announcement_tells_what_the_card_and_the_handler_said(stage: Stage) -> None:
    def stream(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream(declared_stream="log", metadata={"lines": True})
        ctx.cancel_event.wait(WAIT_S)

    stage.agent(
        stream, log={"direction": "outbound", "format": "events"}, other={"direction": "outbound", "format": "bytes"}
    )
    session = stage.request()
    descriptor = session.wait_for_stream("log", timeout=WAIT_S).descriptor
    assert descriptor.stream_id == f"{session.task_id}-1"
    assert (descriptor.agent_direction, descriptor.local_direction) == ("outbound", "inbound")
    assert (descriptor.format, descriptor.affinity, descriptor.metadata) == ("events", "dedicated", {"lines": True})
    session.cancel()


def test_an_inbound_stream_is_read_by_the_agent(stage: Stage) -> None:
    def count(task: Any, ctx: TaskContext) -> dict[str, Any]:
        into = ctx.create_stream(direction="inbound", format="events")
        assert into.direction == "inbound"
        return {"sum": sum(into.events())}

    handle = stage.agent(count)
    session = stage.pipe()
    arrived = threading.Event()
    session.on_artifact(lambda event: arrived.set())
    with opened(session) as stream:
        for number in range(500):
            stream.write(number)
    assert arrived.wait(WAIT_S)
    assert [session.download_artifact(ref).data for ref in session.list_artifacts()] == [b'{"sum": 124750}']
    handle.publish_terminal(session.task_id, {"state": "completed"})
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"


def test_a_conversation_goes_both_ways_at_once(stage: Stage) -> None:
    def shout(task: Any, ctx: TaskContext) -> None:
        talk = ctx.create_stream(declared_stream="talk")
        for event in talk.events():
            talk.write({"said": event["say"].upper()})
            if event["say"] == "bye":
                return

    stage.agent(shout, talk={"direction": "bidirectional", "format": "events"})
    session = stage.pipe()
    talk = opened(session, "talk")
    answers = talk.events()
    for word in ("hello", "there", "bye"):
        talk.write({"say": word})
        assert next(answers) == {"said": word.upper()}
    talk.end()
    session.cancel()
    assert session.wait_for_terminal(timeout=WAIT_S).state == "canceled"


def test_a_cancel_ends_a_handler_that_waits_for_what_nobody_writes(stage: Stage) -> None:
    reading = threading.Event()

    def wait(task: Any, ctx: TaskContext) -> None:
        into = ctx.create_stream(direction="inbound")
        reading.set()
        for _ in into.bytes():
            pass

    stage.agent(wait)
    session = stage.pipe()
    assert reading.wait(WAIT_S)
    session.cancel()
    assert session.wait_for_terminal(timeout=WAIT_S).state == "canceled"


def test_a_request_that_raises_ends_its_stream_and_fails(stage: Stage) -> None:
    def torn(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream().write("half")
        raise ValueError("page 3 is torn")

    stage.agent(torn)
    session = stage.request()
    assert list(opened(session).bytes()) == [b"half"]
    terminal = session.wait_for_terminal(timeout=WAIT_S)
    assert (terminal.state, terminal["error"]) == ("failed", "page 3 is torn")


def test_a_stream_of_a_pipe_lives_on_after_its_handler_until_the_terminal(stage: Stage) -> None:
    kept: queue.Queue[Any] = queue.Queue()

    def leave_open(task: Any, ctx: TaskContext) -> None:
        kept.put(ctx.create_stream())

    handle = stage.agent(leave_open)
    session = stage.pipe()
    reader, stream = opened(session), kept.get(timeout=WAIT_S)
    chunks = reader.bytes()
    for word in ("a", "b"):
        stream.write(word)
        assert next(chunks) == word.encode()
    handle.publish_terminal(session.task_id, {"state": "completed"})
    assert list(chunks) == []
    assert not stream.is_active
    with pytest.raises(RuntimeError, match="has ended"):
        stream.write("c")
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"


def test_a_cancel_of_an_open_pipe_ends_its_stream_before_the_terminal(stage: Stage) -> None:
    kept: queue.Queue[Any] = queue.Queue()

    def leave_open(task: Any, ctx: TaskContext) -> None:
        kept.put(ctx.create_stream())

    stage.agent(leave_open)
    session = stage.pipe()
    reader, stream = opened(session), kept.get(timeout=WAIT_S)
    stream.write("last words")
    session.cancel()
    assert list(reader.bytes()) == [b"last words"]
    assert session.wait_for_terminal(timeout=WAIT_S).state == "canceled"


def test_fail_stream_tells_the_reader_and_fails_the_task_while_its_handler_runs(stage: Stage) -> None:
    def write_on(out: Any) -> None:
        while True:
            out.write("y")

    def stream(task: Any, ctx: TaskContext) -> str:
        out = ctx.create_stream()
        out.write("x")
        assert ctx.cancel_event.wait(WAIT_S)
        with pytest.raises(StreamEndedError):
            write_on(out)
        return "too late"

    handle = stage.agent(stream)
    session = stage.request()
    reader, heard = opened(session), list[str]()
    reader.on_error(lambda error: heard.append(error.error))
    chunks = reader.bytes()
    assert next(chunks) == b"x"
    handle.fail_stream("nobody", "ignored")
    handle.fail_stream(reader.stream_id, "the camera fell")
    assert set(chunks) <= {b"y"}
    terminal = session.wait_for_terminal(timeout=WAIT_S)
    assert (terminal.state, terminal["error"]) == ("failed", "the camera fell")
    assert session.list_artifacts() == []
    assert heard == ["the camera fell"]


def test_on_activate_runs_beside_the_handler_and_its_crash_fails_the_task(stage: Stage) -> None:
    threads: list[str] = []

    def stream(task: Any, ctx: TaskContext) -> None:
        def feed(out: Any) -> None:
            threads.append(threading.current_thread().name)
            out.write("fed")
            if task.request_parts[0].text == "crash":
                raise ValueError("no more")
            out.end()

        ended = threading.Event()
        ctx.create_stream(on_activate=feed).on_end(ended.set)
        assert ended.wait(WAIT_S)

    stage.agent(stream)
    session = stage.request("well")
    assert list(opened(session).bytes()) == [b"fed"]
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"
    session = stage.request("crash")
    terminal = session.wait_for_terminal(timeout=WAIT_S)
    assert (terminal.state, terminal["error"]) == ("failed", "stream_crashed")
    assert all(name.startswith("blocks-stream-activate-") for name in threads)


def test_an_external_stream_is_written_by_whoever_holds_its_token(stage: Stage) -> None:
    handed: queue.Queue[Any] = queue.Queue()

    def hand_over(task: Any, ctx: TaskContext) -> None:
        outside = ctx.create_stream(external=True, metadata={"by": "another"})
        with pytest.raises(RuntimeError, match="external"):
            outside.write("x")
        handed.put(outside)
        ctx.cancel_event.wait(WAIT_S)

    handle = stage.agent(hand_over)
    session = stage.pipe()
    outside = handed.get(timeout=WAIT_S)
    assert session.list_streams() == []
    keys = handle.cdm_config.playground
    with StreamClient(
        subscribe_key=keys.subscribe_key,
        publish_key=keys.publish_key,
        origin=handle.cdm_config.origin,
        ssl=handle.cdm_config.ssl,
        token=outside.token,
        agent_name="streamer",
        stream_id=outside.stream_id,
        channel=outside.channel,
    ) as writer:
        outside.activate()
        ref = session.wait_for_stream(timeout=WAIT_S)
        assert ref.descriptor.metadata == {"by": "another"}
        writer.write("from outside")
    assert list(ref.open().bytes()) == [b"from outside"]
    outside.end()
    assert not outside.is_active
    session.cancel()


def test_what_a_generator_yields_goes_to_the_stream_and_what_it_returns_is_an_artifact(stage: Stage) -> None:
    def words(task: Any) -> Iterator[str]:
        yield from ("one ", "two ", "three")
        return "the end"

    stage.agent(words)
    session = stage.request()
    assert list(opened(session).bytes()) == [b"one ", b"two ", b"three"]
    session.wait_for_terminal(timeout=WAIT_S)
    assert [session.download_artifact(ref).data for ref in session.list_artifacts()] == [b"the end"]
    plain = stage.request(stream=False)
    assert plain.wait_for_terminal(timeout=WAIT_S).state == "completed"
    assert [plain.download_artifact(ref).data for ref in plain.list_artifacts()] == [b"one two three", b"the end"]


def test_an_async_generator_of_objects_makes_a_stream_of_events(stage: Stage) -> None:
    async def objects(task: Any) -> Any:
        for number in range(3):
            yield {"number": number}

    stage.agent(objects)
    session = stage.request()
    assert list(opened(session).events()) == [{"number": number} for number in range(3)]
    assert session.wait_for_terminal(timeout=WAIT_S).state == "completed"


def test_a_generator_is_closed_when_its_stream_fails(stage: Stage) -> None:
    closed = threading.Event()

    def endless(task: Any) -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.set()

    handle = stage.agent(endless)
    session = stage.request()
    reader = opened(session)
    assert next(reader.bytes()) == b"x"
    handle.fail_stream(reader.stream_id, "enough")
    assert closed.wait(WAIT_S)
    assert session.wait_for_terminal(timeout=WAIT_S)["error"] == "enough"


def test_the_instances_end_ends_its_streams(stage: Stage) -> None:
    def leave_open(task: Any, ctx: TaskContext) -> None:
        ctx.create_stream().write("x")

    handle = stage.agent(leave_open)
    session = stage.pipe()
    reader = opened(session)
    chunks = reader.bytes()
    assert next(chunks) == b"x"
    handle.stop(0)
    assert list(chunks) == []
    names = [thread.name for thread in threading.enumerate() if handle.instance_id in thread.name]
    assert names == []
