"""A subscription over one answer that goes on: against a real network, and a scripted one where that behaves badly."""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from blocks_network.backoff import Backoff
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.server.limits import Limits
from blocks_network.transport import answers, subscription
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.transport.subscription import Received, Subscription

sys.path.append(str(Path(__file__).parent.parent / "protocol"))  # the gateway's own harness
from gateway_harness import GatewayNode

WAIT_S = 10.0
"""No wait is longer; what is waited for comes within milliseconds."""
START = 17_000_000_000_000_000
"""Timetokens of scripted answers are above."""


class Ears:
    """Notes what the subscription tells."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Received] = queue.Queue()
        self.faults: queue.Queue[TransportError] = queue.Queue()
        self.connects: queue.Queue[None] = queue.Queue()
        self.denials: queue.Queue[AccessDeniedError] = queue.Queue()
        self.idles: queue.Queue[None] = queue.Queue()
        self.goes_on = True
        """After a denial."""

    def received(self, message: Received) -> None:
        self.messages.put(message)

    def connected(self) -> None:
        self.connects.put(None)

    def disconnected(self, fault: TransportError) -> None:
        self.faults.put(fault)

    def denied(self, fault: AccessDeniedError) -> bool:
        self.denials.put(fault)
        return self.goes_on

    def idle(self) -> None:
        self.idles.put(None)

    def hear(self, number: int) -> list[Any]:
        """The next payloads."""
        return [self.messages.get(timeout=WAIT_S).payload for _ in range(number)]

    @property
    def heard_nothing_else(self) -> bool:
        """No message more, and of no outage."""
        return self.messages.empty() and self.faults.empty()


class Exchange:
    """One request, and the way to answer it as a test wants."""

    def __init__(self, target: str, sock: socket.socket) -> None:
        parts = urlsplit(target)
        self.path, self.sock = parts.path, sock
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}

    @property
    def streams(self) -> bool:
        """Whether it is for an answer that goes on; else it is a poll."""
        assert self.path.startswith(("/v2/stream/", "/v2/subscribe/")), self.path
        return self.path.startswith("/v2/stream/")

    @property
    def cursor(self) -> int:
        return int(self.query["tt"])

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def begin(self, *lines: bytes) -> Exchange:
        """The head of an answer that goes on, and its first lines, at once: the reader may leave after any of them."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        self.raw(head + b"".join(map(chunked, lines)))
        return self

    def lines(self, *lines: bytes) -> None:
        for line in lines:
            self.chunk(line)

    def chunk(self, data: bytes) -> None:
        self.raw(chunked(data))

    def end(self) -> None:
        self.raw(b"0\r\n\r\n")

    def whole(self, body: bytes, status: int = 200) -> None:
        self.raw(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    def cut(self) -> None:
        """The connection ends."""
        self.sock.shutdown(socket.SHUT_RDWR)


class Network:
    """Takes requests on any number of connections; a test answers them one by one."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.origin = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._exchanges: queue.Queue[Exchange] = queue.Queue()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def next(self) -> Exchange:
        return self._exchanges.get(timeout=WAIT_S)

    @property
    def is_quiet(self) -> bool:
        """No request waits to be answered."""
        return self._exchanges.empty()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=self._read, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _read(self, sock: socket.socket) -> None:
        with closing(sock), sock.makefile("rb") as file:
            try:
                while request := file.readline():
                    while file.readline() not in (b"\r\n", b""):
                        pass
                    self._exchanges.put(Exchange(request.split()[1].decode(), sock))
            except OSError:  # the client, or the test, is through with it
                return

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(WAIT_S)
        for sock in self._sockets:
            if sock.fileno() >= 0:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


Subscribing = Callable[..., Subscription]


@pytest.fixture
def network() -> Iterator[Network]:
    with closing(Network()) as made:
        yield made


@pytest.fixture
def gateway_node() -> Iterator[GatewayNode]:
    with GatewayNode() as node:
        yield node


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def subscribe(ears: Ears) -> Iterator[Subscribing]:
    """Starts a subscription, of which `ears` hears; it has ended when the test has."""
    with ExitStack() as ends:

        def start(
            origin: str,
            *,
            channels: Sequence[str] = ("news",),
            cursor: int = 0,
            subscribe_key: str = "sub-c-x",
            token: str | None = None,
            timeout_s: int = 310,
            **options: Any,
        ) -> Subscription:
            keys = PubNubKeys(subscribe_key, "pub-c-x", origin, ssl=False, pushes=True)
            client = make_client(keys, user_id="me", token=token, subscribe_timeout_s=timeout_s)
            reader = Subscription(client, channels, ears, name="test", cursor=cursor, idle=ears.idle, **options)
            ends.callback(ended, reader)
            reader.start()
            return reader

        yield start


def ended(reader: Subscription, timeout_s: float = WAIT_S) -> None:
    reader.stop()
    assert reader.join(timeout_s), "a subscription outlived its end"


def answer(cursor: int, *payloads: Any, region: int = 7) -> bytes:
    """A poll's answer, and a line; the messages have the timetokens up to the cursor. Cursors count from `START`."""
    first = START + cursor - len(payloads) + 1
    envelopes = [
        {"a": "1", "f": 514, "i": "w", "p": {"t": str(first + at), "r": region}, "c": "news", "d": payload, "b": "news"}
        for at, payload in enumerate(payloads)
    ]
    return json.dumps({"t": {"t": str(START + cursor), "r": region}, "m": envelopes}).encode() + b"\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def wait_until(holds: Callable[[], bool]) -> None:
    """For what nobody tells of."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Off:
    """How long it is polled after an answer that goes on did not work: not at all, until a test says otherwise."""
    made = Off()
    monkeypatch.setattr(answers, "OFF", made)
    return made


class Off:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[int] = []
        """For the how-many-eth time in a row."""

    def delay(self, attempt: int) -> float:
        self.asked.append(attempt)
        return self.seconds


# -- a network as it should be -----------------------------------------------------------------------------------------


def test_messages_come_once_and_in_order_through_a_real_network(
    gateway_node: GatewayNode, ears: Ears, subscribe: Subscribing
) -> None:
    key = gateway_node.open_keyset.subscribe_key
    reader = subscribe(gateway_node.origin, channels=["news", "sport.*"], subscribe_key=key)
    assert reader.wait_ready(WAIT_S)
    assert len(gateway_node.gateway.polls) == 1  # what is published from here on is heard
    writer = gateway_node.client("writer")
    for number in range(50):
        writer.publish().channel(("news", "sport.ski")[number % 2]).message(number).sync()
    messages = [ears.messages.get(timeout=WAIT_S) for _ in range(50)]
    assert [message.payload for message in messages] == list(range(50))
    assert messages[1].channel == "sport.ski"
    assert [message.timetoken for message in messages] == sorted({message.timetoken for message in messages})
    assert reader.cursor >= messages[-2].timetoken  # that of the last is taken over after it was told
    assert ears.heard_nothing_else
    assert ears.connects.qsize() == 1


def test_a_backlog_of_many_pages_comes_whole_and_what_follows_it_too(ears: Ears, subscribe: Subscribing) -> None:
    node = GatewayNode(Limits(messages_per_answer=7)).start()
    try:
        cursor = node.call(node.bus.now)
        writer = node.client("writer")
        for number in range(30):
            writer.publish().channel("news").message(number).sync()
        subscribe(node.origin, subscribe_key=node.open_keyset.subscribe_key, cursor=cursor)
        assert ears.hear(30) == list(range(30))
        node.wait_held(1)
        writer.publish().channel("news").message(30).sync()
        assert ears.hear(1) == [30]
        assert ears.heard_nothing_else
    finally:
        node.stop()


def test_a_real_networks_end_and_a_revoked_token_are_felt(
    gateway_node: GatewayNode, ears: Ears, subscribe: Subscribing
) -> None:
    token, other = (gateway_node.mint(channels={"news": 3}, meta={"n": number}) for number in (1, 2))
    reader = subscribe(gateway_node.origin, subscribe_key=gateway_node.keyset.subscribe_key, token=token)
    assert reader.wait_ready(WAIT_S)
    admin = gateway_node.client("admin", secret=True)
    admin.revoke_token(token).sync()
    assert ears.denials.get(timeout=WAIT_S) is not None
    admin.publish().channel("news").message("meanwhile").sync()
    reader.set_token(other)
    assert ears.hear(1) == ["meanwhile"]
    assert ears.heard_nothing_else
    gateway_node.stop()
    assert ears.faults.get(timeout=WAIT_S) is not None


def test_one_request_is_all_it_takes(network: Network, ears: Ears, subscribe: Subscribing) -> None:
    reader = subscribe(network.origin)
    only = network.next()
    assert only.streams
    assert only.query["tt"] == "0"
    only.begin(answer(0))
    assert reader.wait_ready(WAIT_S)
    for number in range(1, 20):
        only.lines(answer(number, number))
    assert ears.hear(19) == list(range(1, 20))
    only.lines(answer(30), answer(31, "last"))  # one that only says that time goes by
    assert ears.hear(1) == ["last"]
    assert network.is_quiet
    assert ears.heard_nothing_else


def test_what_the_request_says_is_what_a_poll_says(network: Network, subscribe: Subscribing) -> None:
    subscribe(
        network.origin, channels=["a/b", "c"], groups=["g"], filter_expression="meta.a == 'x'", token="t", cursor=START
    )
    asked = network.next()
    asked.whole(b"", 404)
    polled = network.next()
    assert (asked.streams, polled.streams) == (True, False)
    assert asked.path.removeprefix("/v2/stream/") == polled.path.removeprefix("/v2/subscribe/")
    alike = {"tt", "tr", "uuid", "auth", "filter-expr", "channel-group"}
    assert {name: asked.query[name] for name in alike} == {name: polled.query[name] for name in alike}


# -- how it arrives ----------------------------------------------------------------------------------------------------


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


LINES = b"".join([answer(0), answer(2, "one", {"two": "\n\u2028é"}), answer(3), answer(4, "three" * 50)])


@pytest.mark.parametrize(
    "chunks",
    [in_pieces(LINES, 1), in_pieces(LINES, 7), in_pieces(LINES, 100), [LINES], [LINES[:-1], LINES[-1:]]],
    ids=["bytes", "sevens", "hundreds", "all in one", "the last end apart"],
)
def test_chunks_may_begin_and_end_anywhere(
    network: Network, ears: Ears, subscribe: Subscribing, chunks: list[bytes]
) -> None:
    subscribe(network.origin)
    asked = network.next().begin()
    asked.raw(b"".join(chunked(chunk) for chunk in chunks))
    assert ears.hear(3) == ["one", {"two": "\n\u2028é"}, "three" * 50]
    asked.end()
    assert network.next().cursor == START + 4
    assert ears.heard_nothing_else


def test_bytes_may_come_one_by_one(network: Network, ears: Ears, subscribe: Subscribing) -> None:
    """The head, the sizes of chunks and the lines."""
    subscribe(network.origin)
    asked = network.next()
    asked.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    for byte in in_pieces(head + chunked(answer(0)) + chunked(answer(1, "one") + answer(2, "two")[:9]), 1):
        asked.raw(byte)
    assert ears.hear(1) == ["one"]
    for byte in in_pieces(chunked(answer(2, "two")[9:]) + b"0\r\n\r\n", 1):
        asked.raw(byte)
    assert ears.hear(1) == ["two"]
    assert network.next().cursor == START + 2
    assert ears.heard_nothing_else


def test_a_long_line_comes_whole(network: Network, ears: Ears, subscribe: Subscribing) -> None:
    subscribe(network.origin)
    payloads = [f"{number}" * 30_000 for number in range(100)]
    asked = network.next().begin(answer(0))
    asked.lines(answer(100, *payloads), answer(101, "after"))
    assert ears.hear(101) == [*payloads, "after"]
    assert network.is_quiet


def test_a_message_is_told_when_its_line_is_there_not_when_more_comes(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    subscribe(network.origin)
    line = answer(1, "one")
    asked = network.next().begin(answer(0))
    asked.raw(chunked(line)[:-2])  # without the end of the chunk
    assert ears.hear(1) == ["one"]
    asked.raw(b"\r\n" + chunked(answer(2, "two") + answer(3, "three")[:-1]))  # two, and one without its end
    assert ears.hear(1) == ["two"]
    asked.chunk(b"\n")
    assert ears.hear(1) == ["three"]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_an_answer_that_breaks_off_within_a_line_is_asked_for_again_from_the_last_whole_one(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    subscribe(network.origin)
    asked = network.next().begin(answer(0), answer(1, "one"))
    cut_line = answer(3, "two", "three")
    asked.chunk(cut_line[: len(cut_line) // 2])
    assert ears.hear(1) == ["one"]
    asked.cut()
    assert ears.faults.get(timeout=WAIT_S) is not None
    again = network.next()
    assert (again.streams, again.cursor) == (True, START + 1)
    assert "tr" not in again.query  # so that it is answered at once
    again.begin(answer(3, "two", "three"))
    assert ears.hear(2) == ["two", "three"]
    assert ears.connects.qsize() == 2
    assert ears.heard_nothing_else


@pytest.mark.parametrize("kept_bytes", [-1, -2, 4])
def test_an_answer_that_breaks_off_within_a_chunk_is_no_clean_end(
    network: Network, ears: Ears, subscribe: Subscribing, kept_bytes: int
) -> None:
    subscribe(network.origin)
    asked = network.next().begin(answer(0))
    asked.raw(chunked(answer(1, "one"))[:kept_bytes])
    asked.cut()
    assert ears.faults.get(timeout=WAIT_S) is not None
    again = network.next()
    again.begin(answer(1, "one"), answer(2, "two"))  # what was told is known again
    assert ears.hear(2) == ["one", "two"]
    assert ears.heard_nothing_else


def test_after_a_clean_end_it_asks_again_on_the_same_connection_and_tells_nobody(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    subscribe(network.origin)
    first = network.next().begin(answer(0), answer(1, "one"))
    first.end()
    second = network.next()
    assert (second.streams, second.cursor, second.query["tr"]) == (True, START + 1, "7")
    assert second.sock is first.sock
    second.whole(answer(2, "two"))  # a page of many
    third = network.next()
    assert (third.streams, third.cursor, third.sock is first.sock) == (True, START + 2, True)
    third.begin(answer(3, "three"))
    assert ears.hear(3) == ["one", "two", "three"]
    assert ears.connects.qsize() == 1
    assert ears.heard_nothing_else


@pytest.mark.parametrize("strange", [b"<html>\n", b'{"t": {}}\n', b"[]\n", b'{"t":{"t":"x","r":1},"m":[]}\n'])
def test_after_a_line_that_is_none_it_goes_on_from_the_one_before(
    network: Network, ears: Ears, subscribe: Subscribing, strange: bytes
) -> None:
    """Lines that follow it would take the cursor past what it may have held."""
    subscribe(network.origin)
    asked = network.next().begin(answer(0), answer(1, "one"))
    asked.lines(strange, answer(3, "three"))
    assert ears.hear(1) == ["one"]
    assert ears.faults.get(timeout=WAIT_S) is not None
    again = network.next()
    assert again.cursor == START + 1
    again.begin(answer(3, "two", "three"))
    assert ears.hear(2) == ["two", "three"]
    assert ears.heard_nothing_else


def test_a_page_in_place_of_the_answer_is_one_fault_and_not_one_for_each_of_its_lines(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    subscribe(network.origin)
    network.next().whole(b"<html>\n" * 50)
    assert ears.faults.get(timeout=WAIT_S) is not None
    network.next().begin(answer(1, "one"))
    assert ears.hear(1) == ["one"]
    assert ears.heard_nothing_else


# -- where it does not work --------------------------------------------------------------------------------------------


def test_where_the_first_line_does_not_come_it_polls_and_tells_of_no_outage(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "FIRST_LINE_S", 0.2)
    off.seconds = 3_600
    subscribe(network.origin)
    gathered = network.next()
    assert gathered.streams  # nothing comes
    for number in range(1, 4):
        poll = network.next()
        assert not poll.streams
        assert poll.cursor == (START + number - 1 if number > 1 else 0)
        poll.whole(answer(number, number))
    assert ears.hear(3) == [1, 2, 3]
    assert ears.heard_nothing_else
    assert off.asked == [1]


def test_where_the_head_comes_without_a_line_it_polls_too(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "FIRST_LINE_S", 0.2)
    off.seconds = 3_600
    subscribe(network.origin, cursor=START)
    network.next().begin(answer(1, "gathered")[:20])
    poll = network.next()
    assert (poll.streams, poll.cursor) == (False, START)
    poll.whole(answer(1, "one"))
    assert ears.hear(1) == ["one"]
    assert ears.heard_nothing_else


@pytest.mark.parametrize("status", [404, 405, 501])
def test_where_it_is_not_known_it_polls(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off, status: int
) -> None:
    off.seconds = 3_600
    subscribe(network.origin)
    asked = network.next()
    assert asked.streams
    asked.whole(b'{"message": "not here"}', status)
    for number in range(1, 4):
        poll = network.next()
        assert not poll.streams
        poll.whole(answer(number, number))
    assert ears.hear(3) == [1, 2, 3]
    assert ears.heard_nothing_else


def test_where_every_answer_ends_at_once_and_says_nothing_it_polls(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "FRUITLESS_S", 60.0)  # this machine may be busy
    off.seconds = 3_600
    subscribe(network.origin)
    asked: list[Exchange] = []
    while (exchange := network.next()).streams and len(asked) < 50:
        asked.append(exchange)
        exchange.begin(answer(len(asked)))
        exchange.end()
    assert len(asked) == answers.FRUITLESS_MAX
    assert exchange.cursor == START + len(asked)
    exchange.whole(answer(99, "polled"))
    assert ears.hear(1) == ["polled"]
    assert not network.next().streams
    assert ears.heard_nothing_else


def test_answers_that_end_at_once_with_news_are_no_reason_to_poll(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off
) -> None:
    subscribe(network.origin)
    number = 3 * answers.FRUITLESS_MAX
    for at in range(1, number + 1):
        asked = network.next()
        assert asked.streams
        asked.whole(answer(at, at))
    assert ears.hear(number) == list(range(1, number + 1))
    assert off.asked == []


def test_after_a_while_it_is_tried_again_and_the_pauses_grow_until_it_works(
    network: Network, ears: Ears, subscribe: Subscribing, off: Off
) -> None:
    subscribe(network.origin)
    for number in range(1, 4):
        asked = network.next()
        assert asked.streams
        asked.whole(b"", 404)
        poll = network.next()
        assert not poll.streams
        poll.whole(answer(number, number))
    works = network.next()
    assert (works.streams, works.cursor) == (True, START + 3)
    works.begin(answer(4, 4), answer(5, 5))
    works.end()
    asked = network.next()
    asked.whole(b"", 404)
    network.next().whole(answer(6, 6))
    assert ears.hear(6) == [1, 2, 3, 4, 5, 6]
    assert off.asked == [1, 2, 3, 1]
    assert ears.heard_nothing_else


def test_the_pauses_are_minutes_and_never_more_than_an_hour() -> None:
    assert 30 < answers.OFF.delay(1) <= 60
    assert answers.OFF.delay(50) <= 3_600


def test_an_outage_is_told_once_and_it_comes_back_to_the_same_answer(
    network: Network, ears: Ears, subscribe: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "RECONNECT", Backoff(first_s=0.01, cap_s=0.01))
    subscribe(network.origin)
    network.next().begin(answer(0), answer(1, "one")).cut()
    for status in (500, 503, 429):
        network.next().whole(b"{}", status)
    again = network.next()
    assert again.cursor == START + 1
    again.begin(answer(2, "two"))
    assert ears.hear(2) == ["one", "two"]
    assert ears.faults.qsize() == 1
    assert ears.connects.qsize() == 2


# -- what its owner says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the head", "before the first line", "before the next line", "in a line"])
def test_the_end_is_at_once_whatever_is_waited_for(
    network: Network, ears: Ears, subscribe: Subscribing, when: str
) -> None:
    reader = subscribe(network.origin)
    asked = network.next()
    if when == "before the first line":
        asked.begin()
    elif when != "before the head":
        asked.begin(answer(0))
        assert reader.wait_ready(WAIT_S)
        if when == "in a line":
            asked.chunk(answer(1, "one")[:20])
    ended(reader, 2)
    assert ears.heard_nothing_else


def test_the_end_within_a_delivery_is_the_last_thing_told(network: Network, subscribe: Subscribing, ears: Ears) -> None:
    reader = subscribe(network.origin)

    def received(message: Received) -> None:
        reader.stop()
        ears.messages.put(message)

    ears.received = received  # type: ignore[method-assign]
    network.next().begin(answer(2, "one", "two"), answer(3, "three"))
    assert ears.hear(1) == ["one"]
    assert reader.join(2)
    assert ears.heard_nothing_else


def test_the_connection_is_not_left_open_at_the_end(network: Network, subscribe: Subscribing) -> None:
    reader = subscribe(network.origin)
    asked = network.next().begin(answer(0))
    assert reader.wait_ready(WAIT_S)
    (reading,) = [thread for thread in network._threads[1:] if thread.is_alive()]
    ended(reader)
    reading.join(WAIT_S)
    assert asked.sock.fileno() < 0  # as its end was read


def test_reconnect_breaks_a_wait_off_and_asks_again_at_once(
    network: Network, ears: Ears, subscribe: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "RECONNECT", Backoff(first_s=3_600, cap_s=3_600))
    reader = subscribe(network.origin)
    silent = network.next().begin(answer(0), answer(1, "one"))
    assert ears.hear(1) == ["one"]
    silent.chunk(answer(2)[:5])  # it stalls within a line
    wait_until(lambda: reader._interruption._socket is not None)  # it reads
    reader.reconnect()
    again = network.next()
    assert (again.streams, again.cursor) == (True, START + 1)
    again.begin(answer(2, "two"))
    assert ears.hear(1) == ["two"]


def test_reconnect_during_a_delivery_breaks_the_answer_off_too(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    """It may be that nothing will come any more on that connection."""
    delivering, asked_to = threading.Event(), threading.Event()

    def received(message: Received) -> None:
        ears.messages.put(message)
        delivering.set()
        assert asked_to.wait(WAIT_S)

    ears.received = received  # type: ignore[method-assign]
    reader = subscribe(network.origin)
    network.next().begin(answer(0), answer(1, "one"))
    assert delivering.wait(WAIT_S)
    reader.reconnect()
    asked_to.set()
    again = network.next()
    assert (again.streams, again.cursor) == (True, START + 1)
    again.begin(answer(2, "two"))
    assert ears.hear(2) == ["one", "two"]


def test_a_new_token_is_for_the_next_request(network: Network, ears: Ears, subscribe: Subscribing, off: Off) -> None:
    reader = subscribe(network.origin, token="first")
    asked = network.next()
    assert asked.query["auth"] == "first"
    asked.begin(answer(0))
    assert reader.wait_ready(WAIT_S)
    reader.set_token("second")
    asked.lines(answer(1, "one"))  # the answer under way goes on
    assert ears.hear(1) == ["one"]
    assert network.is_quiet
    asked.end()
    again = network.next()
    assert (again.query["auth"], again.cursor) == ("second", START + 1)
    reader.set_token("third")
    again.whole(b"", 404)
    assert network.next().query["auth"] == "third"  # polls too
    assert ears.heard_nothing_else


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_refusal_at_opening_asks_the_owner(
    network: Network, ears: Ears, subscribe: Subscribing, goes_on: bool
) -> None:
    ears.goes_on = goes_on
    reader = subscribe(network.origin, token="old")
    asked = network.next().begin(answer(0), answer(1, "one"))
    asked.end()
    assert ears.hear(1) == ["one"]
    network.next().whole(b'{"status": 403, "message": "Token is expired."}', 403)
    assert "expired" in str(ears.denials.get(timeout=WAIT_S))
    if goes_on:
        reader.set_token("new")
        while (again := network.next()).query["auth"] != "new":  # it may have been quicker
            again.whole(b"{}", 403)
        assert (again.streams, again.cursor) == (True, START + 1)
        again.begin(answer(2, "two"))
        assert ears.hear(1) == ["two"]
    else:
        assert reader.join(WAIT_S)
    assert ears.heard_nothing_else


def test_silence_beyond_the_clients_patience_is_told_as_idle_and_it_asks_again(
    network: Network, ears: Ears, subscribe: Subscribing
) -> None:
    subscribe(network.origin, timeout_s=1)
    network.next().begin(answer(0), answer(1, "one"))
    ears.idles.get(timeout=WAIT_S)
    again = network.next()
    assert (again.streams, again.cursor) == (True, START + 1)
    again.begin(answer(2, "two"))
    assert ears.hear(2) == ["one", "two"]
    assert ears.connects.qsize() == 1
    assert ears.heard_nothing_else
