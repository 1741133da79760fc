"""A stream's writing side on a real gateway: when frames go out, what holds writers back, and how a loss is told."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from stream_ends import DEADLINE_S, Ends, Gate

from blocks_network.server.bus import Answered
from blocks_network.stream import StreamEndedError, StreamError, StreamFullError
from blocks_network.stream.writer import BUFFER_BYTES, MAX_WRITE_BYTES


def chunks(gate: Gate) -> list[list[Any]]:
    return [frame.get("chunks", frame.get("events", frame["type"])) for frame in gate.frames]


def test_an_idle_stream_sends_at_once_and_gathers_while_a_frame_is_under_way(ends: Ends, gate: Gate) -> None:
    writer = ends.writer(max_latency_ms=60_000)
    gate.shut()
    writer.write("first")
    gate.wait_frames(1)
    for number in range(50):
        writer.write(str(number))
    gate.open()
    assert writer.flush(DEADLINE_S)
    assert chunks(gate) == [["first"], [str(number) for number in range(50)]]
    assert [frame["seq"] for frame in gate.frames] == [0, 1]


def test_a_gathered_frame_stops_at_the_bundle_size(ends: Ends, gate: Gate) -> None:
    writer = ends.writer(bundle_size_bytes=100)
    gate.shut()
    writer.write("first")
    gate.wait_frames(1)
    for _ in range(10):
        writer.write("x" * 40)
    gate.open()
    assert writer.flush(DEADLINE_S)
    assert [len(some) for some in chunks(gate)] == [1, 3, 3, 3, 1]


def test_text_and_binary_in_turn_come_back_as_what_each_was(ends: Ends, gate: Gate) -> None:
    reader, writer = ends.reader(), ends.writer()
    gate.shut()
    written: list[str | bytes] = ["a", b"\xff\x00", "ü", bytearray(b"b"), memoryview(b"c"), "\ud800"]
    for data in written:
        writer.write(data)
    gate.open()
    writer.end()
    assert list(reader.bytes()) == [b"a", b"\xff\x00", "ü".encode(), b"b", b"c", b"\xed\xa0\x80"]
    assert {frame.get("encoding") for frame in gate.frames} == {"utf8", "base64", None}


def test_writes_of_many_threads_keep_each_threads_order(ends: Ends) -> None:
    reader, writer = ends.reader(format="events"), ends.writer(format="events")

    def write(name: str) -> None:
        for number in range(200):
            writer.write({"of": name, "number": number})

    threads = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.end()
    seen = list(reader.events())
    assert len(seen) == 800
    for number in range(4):
        assert [event["number"] for event in seen if event["of"] == f"t{number}"] == list(range(200))


def test_a_full_buffer_holds_the_writer_back_until_the_network_takes_some(ends: Ends, gate: Gate) -> None:
    writer = ends.writer()
    gate.shut()
    piece = "x" * (BUFFER_BYTES // 4)
    for _ in range(4):
        writer.write(piece)
    with pytest.raises(StreamFullError):
        writer.write(piece, timeout_s=0.01)
    released = threading.Event()

    def write() -> None:
        writer.write(piece)
        released.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not released.is_set()
    gate.open()
    assert released.wait(DEADLINE_S)
    thread.join()
    writer.end()
    assert sum(frame["multipart"]["part"] == 1 for frame in gate.frames if "multipart" in frame) == 5


def test_a_large_write_travels_in_parts_and_arrives_whole(ends: Ends, gate: Gate) -> None:
    reader, writer = ends.reader(), ends.writer()
    text = "日本" * 20_000
    writer.write(text)
    writer.write("after")
    writer.end()
    assert list(reader.bytes()) == [text.encode(), b"after"]
    parts = [frame for frame in gate.frames if "multipart" in frame]
    assert len(parts) > 5
    assert {part["seq"] for part in parts} == {0}


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        ("bytes", {"a": 1}, TypeError),
        ("bytes", None, TypeError),
        ("bytes", "x" * (MAX_WRITE_BYTES + 1), ValueError),
        ("events", "bare", RuntimeError),
        ("events", {"x": object()}, TypeError),
        ("events", float("nan"), TypeError),
    ],
)
def test_what_cannot_travel_is_refused_at_the_write(ends: Ends, kind: str, data: Any, error: type[Exception]) -> None:
    writer = ends.writer(format=kind)
    with pytest.raises(error):
        writer.write(data)
    assert writer.is_active


def test_binary_within_events_comes_back_as_bytes(ends: Ends) -> None:
    reader, writer = ends.reader(format="events"), ends.writer(format="events")
    writer.write({"picture": b"\x89PNG", "deep": [{"more": b"x"}]})
    writer.write(b"alone")
    writer.end()
    assert list(reader.events()) == [{"picture": b"\x89PNG", "deep": [{"more": b"x"}]}, b"alone"]


def test_an_outage_delays_and_loses_nothing(ends: Ends, gate: Gate) -> None:
    reader, writer = ends.reader(), ends.writer()
    failures = iter([Answered(503, b"{}"), Answered(500, b"{}"), Answered(429, b"{}")])
    gate.answer = lambda frame: next(failures, None)
    writer.write("one")
    writer.write("two")
    writer.end()
    assert b"".join(reader.bytes()) == b"onetwo"
    assert len(gate.frames) >= 4


def test_a_frame_that_the_network_will_not_take_ends_the_stream_on_both_sides(ends: Ends, gate: Gate) -> None:
    reader, writer = ends.reader(), ends.writer()
    heard: dict[str, list[StreamError]] = {"writer": [], "reader": []}
    ended = threading.Event()
    writer.on_error(heard["writer"].append)
    reader.on_error(heard["reader"].append)
    writer.on_end(ended.set)
    gate.answer = lambda frame: Answered(413, b'[0,"Message Too Large","1"]') if frame["seq"] == 1 else None
    writer.write("taken")
    assert writer.flush(DEADLINE_S)
    writer.write("refused")
    assert list(reader.bytes()) == [b"taken"], "the reader's iterator finishes"
    assert ended.wait(DEADLINE_S)
    assert [(error.category, error.fatal) for error in heard["writer"]] == [("not_delivered", True)]
    assert [error.category for error in heard["reader"]] == ["frames_lost", "writer_failed"]
    assert not writer.is_active
    with pytest.raises(StreamEndedError, match="413"):
        writer.write("more")


def test_an_end_with_an_error_tells_the_reader_why(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    heard: list[StreamError] = []
    reader.on_error(heard.append)
    writer.write("data")
    writer.end(error="the source is gone")
    assert list(reader.bytes()) == [b"data"]
    assert [(error.category, error.error) for error in heard] == [("writer_failed", "the source is gone")]


def test_the_end_sends_what_was_written_then_the_marker_once(ends: Ends, gate: Gate) -> None:
    writer = ends.writer(format="events")
    done: list[str] = []
    writer.on_end(lambda: done.append("first"))
    for number in range(3):
        writer.write(number)
    writer.end()
    writer.end()
    writer.on_end(lambda: done.append("late"))
    assert [frame["type"] for frame in gate.frames].count("stream_end") == 1
    assert gate.frames[-1]["type"] == "stream_end"
    assert gate.frames[-1]["seq"] == gate.frames[-2]["seq"] + 1
    assert gate.frames[0]["seq"] == 1, "events count from one"
    assert done == ["first", "late"]
    with pytest.raises(RuntimeError, match="has ended"):
        writer.write({})


@pytest.mark.parametrize("options", [{"affinity": "shared"}, {"direction": "bidirectional"}])
def test_shared_and_bidirectional_streams_carry_no_marker(ends: Ends, gate: Gate, options: dict[str, Any]) -> None:
    writer = ends.both() if "direction" in options else ends.writer(**options)
    writer.write("x")
    writer.end()
    assert [frame["type"] for frame in gate.frames] == ["stream_data"]


def test_a_writing_consumer_of_a_dedicated_stream_sends_the_marker(ends: Ends, gate: Gate) -> None:
    agent, consumer = ends.reader(), ends.writer()
    consumer.write("x")
    consumer.end()
    assert list(agent.bytes()) == [b"x"]
    assert gate.frames[-1]["type"] == "stream_end"


def test_an_inbound_stream_is_not_written_and_an_outbound_one_not_read(ends: Ends) -> None:
    with pytest.raises(RuntimeError, match="inbound only"):
        ends.reader().write("x")
    writer = ends.writer()
    with pytest.raises(RuntimeError, match="outbound only"):
        _ = writer.inbound
    with pytest.raises(RuntimeError, match="outbound only"):
        next(writer.bytes())
    with pytest.raises(RuntimeError, match="outbound only"):
        next(writer.events())


def test_periodic_writing_stops_with_the_stream(ends: Ends) -> None:
    reader, writer = ends.reader(format="events"), ends.writer(format="events")
    thread = writer.write_periodic(0.001, lambda number: {"n": number})
    events = reader.events()
    assert [next(events) for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    writer.end()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_a_message_size_without_room_is_refused(ends: Ends) -> None:
    with pytest.raises(ValueError, match="512"):
        ends.writer(max_message_size=512)
