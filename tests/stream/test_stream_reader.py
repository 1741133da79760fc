"""A stream's reading side on a real gateway: what it hands on, and every way in which it ends."""

from __future__ import annotations

import shutil
import threading
from io import BytesIO
from typing import Any

import pytest
from gateway_harness import GatewayNode
from stream_ends import DEADLINE_S, Ends

from blocks_network.server.access.permissions import Bits
from blocks_network.stream import InboundMessage, StreamClient, StreamError
from blocks_network.stream.inbox import MAX_WAITING, Inbox
from blocks_network.transport.pubnub import PubNubKeys


def publish(node: GatewayNode, ends: Ends, message: Any, sender: str = "somebody") -> None:
    """A frame as another writer would send it."""
    node.client(sender).publish().channel(f"stream.acme.{ends.stream_id}").message(message).meta(
        {"sender": sender}
    ).should_store(False).use_post(True).sync()


def data(seq: int, *chunks: str, **more: Any) -> dict[str, Any]:
    return {"type": "stream_data", "seq": seq, "ts": 1, "encoding": "utf8", "chunks": list(chunks), **more}


def test_a_late_reader_begins_with_what_the_network_still_has(ends: Ends) -> None:
    writer = ends.writer()
    writer.write("early")
    writer.end()
    assert list(ends.reader().bytes()) == [b"early"]


def test_a_reader_that_missed_the_head_hears_how_much_also_when_it_listens_late(node: GatewayNode, ends: Ends) -> None:
    publish(node, ends, data(40, "late"))
    publish(node, ends, {"type": "stream_end", "seq": 41})
    reader, heard = ends.reader(), list[StreamError]()
    assert list(reader.bytes()) == [b"late"]
    reader.on_error(heard.append)
    assert [(error.category, str(error.error)) for error in heard] == [
        ("frames_lost", "frames 0 to 39 of stream t1-1 did not come")
    ]


def test_frames_keep_their_numbers_and_times(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    writer.write("a")
    writer.end()
    (message,) = reader.inbound
    assert (message.seq, message.format, message.encoding, message.data) == (0, "bytes", "utf8", ["a"])
    assert message.ts > 1_700_000_000_000


def test_each_end_of_a_bidirectional_stream_hears_the_other_alone(ends: Ends) -> None:
    one, other = ends.both(format="events"), ends.both(format="events")
    assert one.uuid != other.uuid
    ours, theirs = one.events(), other.events()
    for number in range(20):
        one.write({"ping": number})
        assert next(theirs) == {"ping": number}
        other.write({"pong": number})
        assert next(ours) == {"pong": number}


def test_two_writers_of_one_shared_stream_are_both_heard(ends: Ends) -> None:
    reader = ends.reader(affinity="shared")
    writers = [ends.writer(affinity="shared") for _ in range(2)]
    chunks = reader.bytes()
    seen = []
    for round_ in range(3):
        for index, writer in enumerate(writers):
            writer.write(f"{index}{round_}")
            seen.append(next(chunks))
    assert seen == [b"00", b"10", b"01", b"11", b"02", b"12"]
    writers[0].end()
    writers[1].write("on")
    assert next(chunks) == b"on"


def test_a_late_reader_of_a_shared_stream_does_not_wait_for_the_past(node: GatewayNode, ends: Ends) -> None:
    publish(node, ends, data(57, "now"))
    reader = ends.reader(affinity="shared", reorder_timeout_ms=60_000)
    assert next(reader.bytes()) == b"now"


def test_what_is_no_frame_of_this_stream_is_passed_over(node: GatewayNode, ends: Ends) -> None:
    reader = ends.reader()
    for junk in (
        "text",
        5,
        [],
        {"type": "stream_data", "seq": True, "chunks": ["x"]},
        {"type": "stream_data", "seq": 0, "chunks": []},
        {"type": "stream_data", "seq": 0, "chunks": [1]},
        {"type": "stream_data", "seq": 0, "encoding": "rot13", "chunks": ["x"]},
        {"type": "stream_end"},
        {"type": "whatever"},
        data(0, "of another", streamId="t2-1"),
    ):
        publish(node, ends, junk)
    publish(node, ends, data(0, "good", surprise=True))
    publish(node, ends, {"type": "stream_end", "seq": 1})
    assert list(reader.bytes()) == [b"good"]


def test_a_frame_of_a_later_version_is_raw(node: GatewayNode, ends: Ends) -> None:
    reader = ends.reader()
    publish(node, ends, {"type": "stream_hologram", "seq": 0, "ts": 7})
    assert next(reader.inbound).format == "raw"


def test_reading_in_the_wrong_form_says_so(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    writer.write("x")
    with pytest.raises(RuntimeError, match=r"read it with bytes\(\)"):
        next(reader.events())


def test_a_lost_frame_is_reported_and_the_rest_arrives(node: GatewayNode, ends: Ends) -> None:
    reader, heard = ends.reader(reorder_timeout_ms=20), list[StreamError]()
    reader.on_error(heard.append)
    publish(node, ends, data(0, "a"))
    publish(node, ends, data(2, "c"))
    publish(node, ends, {"type": "stream_end", "seq": 3})
    assert list(reader.bytes()) == [b"a", b"c"]
    assert [(error.category, error.fatal) for error in heard] == [("frames_lost", False)]


def test_iterating_after_the_end_finishes_at_once(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    writer.write("x")
    writer.end()
    assert list(reader.bytes()) == [b"x"]
    assert list(reader.bytes()) == []
    reader.end()
    assert list(reader.inbound) == []


def test_end_delivers_what_was_received_and_wakes_who_waits(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    writer.write("x")
    chunks = reader.bytes()
    assert next(chunks) == b"x"
    rest: list[bytes] = []
    thread = threading.Thread(target=lambda: rest.extend(chunks))
    thread.start()
    reader.end()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert rest == []


def test_the_callbacks_of_the_end_come_once_and_may_end_the_stream(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    calls: list[str] = []
    ended = threading.Event()

    def inbound_done() -> None:
        calls.append("inbound_done")
        reader.end()

    def torn() -> None:
        raise ValueError("a callback that raises stops nobody")

    reader.on_inbound_done(torn)
    reader.on_inbound_done(inbound_done)
    reader.on_end(torn)
    reader.on_end(lambda: (calls.append("end"), ended.set()))
    writer.end()
    assert ended.wait(DEADLINE_S)
    reader.on_inbound_done(lambda: calls.append("late inbound_done"))
    assert calls == ["inbound_done", "end", "late inbound_done"]


def guarded(node: GatewayNode, token: str | None, direction: str, **options: Any) -> StreamClient:
    """An end on the keyset with access control."""
    keys = PubNubKeys(node.keyset.subscribe_key, node.keyset.publish_key, node.origin, False)
    return StreamClient(agent_name="acme", stream_id="s", token=token, direction=direction, keys=keys, **options)


@pytest.mark.parametrize("bits", [None, Bits.WRITE])
def test_a_reader_without_the_right_finishes_with_an_error(node: GatewayNode, bits: Bits | None) -> None:
    token = None if bits is None else node.mint(channels={"stream.acme.s": bits})
    reader = guarded(node, token, "inbound")
    assert list(reader.bytes()) == []
    heard: list[StreamError] = []
    reader.on_error(heard.append)
    assert [(error.category, error.fatal) for error in heard] == [("access_denied", True)], "late ones hear it at once"
    assert not reader.is_active


def test_a_writer_without_the_right_ends_with_an_error(node: GatewayNode) -> None:
    writer = guarded(node, node.mint(channels={"stream.acme.s": Bits.READ}), "outbound")
    ended = threading.Event()
    writer.on_end(ended.set)
    writer.write("x")
    assert ended.wait(DEADLINE_S)
    heard: list[StreamError] = []
    writer.on_error(heard.append)
    assert [error.category for error in heard] == ["access_denied"]
    with pytest.raises(RuntimeError, match="given up"):
        writer.write("y")


def test_a_refused_token_is_renewed_and_nothing_is_lost(node: GatewayNode) -> None:
    good = node.mint(channels={"stream.acme.s": Bits.READ | Bits.WRITE})
    bad = node.mint(channels={"stream.acme.other": Bits.READ | Bits.WRITE})
    reader = guarded(node, bad, "inbound", renew=lambda: good)
    writer = guarded(node, bad, "outbound", renew=lambda: good)
    writer.write("x")
    writer.end()
    assert list(reader.bytes()) == [b"x"]
    reader.end()


def test_a_faulty_error_callback_stops_neither_the_others_nor_the_end(node: GatewayNode) -> None:
    reader = guarded(node, None, "inbound")
    heard, told = list[str](), threading.Event()

    def torn(error: StreamError) -> None:
        raise ValueError("torn")

    reader.on_error(torn)
    reader.on_error(lambda error: (heard.append(error.category), told.set()))
    assert told.wait(DEADLINE_S)
    assert list(reader.bytes()) == []


def test_a_line_is_read_as_soon_as_it_is_there(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer()
    file = reader.as_file()
    writer.write("one\ntwo\nthr")
    assert [file.readline(), file.readline()] == [b"one\n", b"two\n"]
    assert file.read(100) == b"thr"
    writer.write("ee")
    writer.end()
    copy = BytesIO()
    shutil.copyfileobj(file, copy)
    assert copy.getvalue() == b"ee"


def test_what_waits_for_a_slow_reader_is_bounded() -> None:
    inbox, polled = Inbox(), threading.Event()
    inbox.put(InboundMessage(["x"], seq, 0, "bytes") for seq in range(MAX_WAITING))
    poll = threading.Thread(target=lambda: (inbox.wait_room(), polled.set()))
    poll.start()
    assert not polled.is_set()
    assert next(inbox.messages()).seq == 0
    assert polled.wait(DEADLINE_S)
    poll.join()


def test_a_slow_reader_loses_nothing(ends: Ends) -> None:
    reader, writer = ends.reader(), ends.writer(bundle_size_bytes=1)
    for number in range(2 * MAX_WAITING):
        writer.write(str(number))
    writer.end()
    assert [int(chunk) for chunk in reader.bytes()] == list(range(2 * MAX_WAITING))


def test_reading_in_the_background(ends: Ends) -> None:
    reader, writer = ends.reader(format="events"), ends.writer(format="events")
    seen: list[Any] = []
    thread = reader.consume_in_background(seen.append)
    writer.write([1, 2])
    writer.end()
    thread.join(DEADLINE_S)
    assert seen == [[1, 2]]


def test_an_end_leaves_no_thread_behind(ends: Ends) -> None:
    before = set(threading.enumerate())
    reader, writer = ends.reader(), ends.writer()
    writer.write("x")
    assert next(reader.bytes()) == b"x"
    writer.end()
    reader.end()
    ours = [thread for thread in threading.enumerate() if thread not in before and "stream" in thread.name]
    for thread in ours:
        thread.join(DEADLINE_S)
    assert not [thread.name for thread in ours if thread.is_alive()]
