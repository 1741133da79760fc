"""The extension `subscribe-stream`: one answer that goes on, a line for what a poll would have been answered with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from gateway_harness import DEADLINE_S, GatewayNode, NodeOf

from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.bus import Message
from blocks_network.server.gateway.pushes import Push
from blocks_network.server.limits import Limits

Read = Callable[..., "Reader"]
FRAME_BYTES = 64
"""More than a chunk's size and ends take beside its content."""


class Reader:
    """One connection, and what comes on it, as it is on the wire."""

    def __init__(self, node: GatewayNode, *, receive_bytes: int | None = None) -> None:
        host, _, port = node.origin.partition(":")
        self.node = node
        self.sock = socket.socket()
        if receive_bytes is not None:  # before it connects: the window is agreed upon there
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect((host, int(port)))
        self._file = self.sock.makefile("rb")
        self.status, self.headers = 0, dict[str, str]()
        self._begun = b""
        self.longest = 0
        """Bytes of the longest line."""

    def send(
        self,
        channels: str,
        *,
        keyset: Keyset | None = None,
        method: str = "GET",
        version: str = "1.1",
        headers: Sequence[str] = (),
        **query: Any,
    ) -> Reader:
        """The request. `query` is that of the address, `filter-expr` and the like with underscores."""
        key = (keyset or self.node.open_keyset).subscribe_key
        text = urlencode({name.replace("_", "-"): value for name, value in {"uuid": "u", **query}.items()})
        lines = [f"{method} /v2/stream/{key}/{quote(channels, safe=',*')}/0?{text} HTTP/{version}", "Host: x", *headers]
        self.sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return self

    def head(self) -> int:
        """Reads it, and returns the status."""
        self.status = int(self._file.readline().split()[1])
        self.headers, self._begun, self.longest = {}, b"", 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        return self.status

    @property
    def is_whole(self) -> bool:
        """Whether the answer is one of a known length."""
        return "content-length" in self.headers and "transfer-encoding" not in self.headers

    def whole(self) -> Any:
        """The content of such an answer."""
        assert self.is_whole, self.headers
        return json.loads(self._file.read(int(self.headers["content-length"])))

    def line(self) -> Any:
        """The next one, parsed. None at the clean end of the answer; EOFError at any other."""
        assert self.headers["transfer-encoding"] == "chunked", self.headers
        while b"\n" not in self._begun:
            size = self._file.readline()
            if not size:
                raise EOFError("the connection ended before the answer")
            piece = self._file.read(int(size, 16) + 2)
            if not piece.endswith(b"\r\n"):
                raise EOFError("the connection ended within a chunk")
            if piece == b"\r\n":
                assert not self._begun, "the last line has no end"
                return None
            self._begun += piece[:-2]
        line, _, self._begun = self._begun.partition(b"\n")
        self.longest = max(self.longest, len(line))
        return json.loads(line)

    def rest(self) -> list[Any]:
        """All further lines, to the clean end."""
        return list(iter(self.line, None))

    def ended(self) -> bool:
        """Whether the connection is over; waits for a sign."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@pytest.fixture
def read(gateway_node: GatewayNode) -> Iterator[Read]:
    """Asks for an answer on a connection of its own, of `gateway_node` or of `node`."""
    with contextlib.ExitStack() as ends:

        def open_one(
            channels: str, *, node: GatewayNode | None = None, receive_bytes: int | None = None, **request: Any
        ) -> Reader:
            reader = ends.enter_context(contextlib.closing(Reader(node or gateway_node, receive_bytes=receive_bytes)))
            return reader.send(channels, **request)

        yield open_one


def opened(reader: Reader) -> Reader:
    """With the head read, which is that of an answer that goes on."""
    assert reader.head() == 200
    assert reader.headers["content-type"] == "application/x-ndjson"
    assert reader.headers["x-accel-buffering"] == "no"
    assert reader.headers["cache-control"] == "no-cache"
    return reader


def cursor_of(answer: Any) -> int:
    return int(answer["t"]["t"])


def payloads(*answers: Any) -> list[Any]:
    return [envelope["d"] for answer in answers for envelope in answer["m"]]


def hear(reader: Reader, number: int) -> list[Any]:
    """Lines until so many messages have come; those without any are left out."""
    lines: list[Any] = []
    while len(payloads(*lines)) < number:
        line = reader.line()
        assert line is not None, "it ended before"
        lines += [line] if line["m"] else []
    return lines


def publish(node: GatewayNode, channel: str, *messages: Any, keyset: Keyset | None = None, **query: Any) -> None:
    """One after another."""
    keyset = keyset or node.open_keyset
    path = f"/publish/{keyset.publish_key}/{keyset.subscribe_key}/0/{channel}/0?{urlencode({'uuid': 'w', **query})}"
    for message in messages:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        assert node.ask(path, method="POST", body=body)[0] == 200


def publish_together(node: GatewayNode, channel: str, messages: Iterable[Any], *, stored: bool = True) -> None:
    """What is not stored is visible at once, all of it together; what is stored is so too, when it was written."""
    items = [{"channel": channel, "message": message, "store": stored} for message in messages]
    path = f"/v1/publish-batch/{node.open_keyset.publish_key}/{node.open_keyset.subscribe_key}?uuid=w"
    status, answer = node.ask(path, method="POST", body=json.dumps({"messages": items}).encode())
    assert status == 200
    assert {result["status"] for result in answer["results"]} == {200}


def now(node: GatewayNode) -> int:
    return node.call(node.bus.now)


async def nobody_waits(node: GatewayNode) -> None:
    """Returns in the turn of the loop in which the last reader is gone."""
    while len(node.gateway.polls):
        await asyncio.sleep(0)


def wait_until_nobody_waits(node: GatewayNode) -> None:
    node.run(lambda: asyncio.wait_for(nobody_waits(node), DEADLINE_S))


def kept(node: GatewayNode) -> list[object]:
    """Everything that the gateway remembers of readers."""
    polls = node.gateway.polls
    indexes = (polls._by_channel, polls._by_group, polls._by_wildcard, polls._by_token, polls._all)
    timed = [one for slot in polls._wheel._slots.values() for one in slot]
    return [each for each in (*indexes, polls.counts._by_address, polls.counts._by_token, timed) if each]


def push_of(node: GatewayNode) -> Push:
    """The one reader."""
    (push,) = node.call(lambda: list(node.gateway.polls._all))
    assert isinstance(push, Push)
    return push


# -- what comes --------------------------------------------------------------------------------------------------------


def test_a_line_comes_at_once_and_then_one_for_each_publish(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("room", tt=0))
    lines = [reader.line()]
    assert lines[0]["m"] == []
    assert lines[0]["t"]["r"] > 1
    for number in range(5):
        publish(gateway_node, "room", {"n": number})
        lines.append(reader.line())
        assert payloads(lines[-1]) == [{"n": number}]
        assert int(lines[-1]["m"][0]["p"]["t"]) <= cursor_of(lines[-1])
    cursors = [cursor_of(line) for line in lines]
    assert cursors == sorted(set(cursors))
    assert {line["t"]["r"] for line in lines} == {lines[0]["t"]["r"]}


def test_a_line_is_what_a_poll_would_have_been_answered_with(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("room", tt=0))
    start = reader.line()
    publish(gateway_node, "room", {"n": 1}, meta='{"k": 1}')
    key = gateway_node.open_keyset.subscribe_key
    _, polled = gateway_node.ask(f"/v2/subscribe/{key}/room/0?uuid=u&tt={cursor_of(start)}&tr={start['t']['r']}")
    line = reader.line()
    assert line["m"] == polled["m"]
    assert line.keys() == polled.keys()
    assert line["t"]["r"] == polled["t"]["r"]


def test_who_comes_with_a_cursor_gets_what_it_missed_in_the_first_line(gateway_node: GatewayNode, read: Read) -> None:
    since = now(gateway_node)
    publish(gateway_node, "room", 1, 2)
    reader = opened(read("room", tt=since, tr=1))
    assert payloads(reader.line()) == [1, 2]
    publish(gateway_node, "room", 3)
    assert payloads(reader.line()) == [3]


def test_a_cursor_without_news_is_answered_at_once_too(gateway_node: GatewayNode, read: Read) -> None:
    hello = opened(read("room", tt=0)).line()
    line = opened(read("room", tt=cursor_of(hello), tr=hello["t"]["r"])).line()
    assert line["m"] == []
    assert cursor_of(line) >= cursor_of(hello)


@pytest.mark.parametrize("lines_read", [0, 1, 3])
def test_who_breaks_off_and_asks_again_with_its_last_cursor_loses_and_repeats_nothing(
    gateway_node: GatewayNode, read: Read, lines_read: int
) -> None:
    first = opened(read("room", tt=0))
    line = first.line()
    heard = []
    publish(gateway_node, "room", *range(5))
    for _ in range(lines_read):
        line = first.line()
        heard += payloads(line)
    first.close()
    publish(gateway_node, "room", 5, 6)
    again = opened(read("room", tt=cursor_of(line), tr=line["t"]["r"]))
    heard += payloads(again.line())
    publish(gateway_node, "room", 7)
    heard += payloads(again.line())
    assert heard == list(range(8))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":\n1,\r\n"b": [1,\r2,\n\n3],\t"c": "x\\ny"}\n',
        b'[\n\n\n{\r\n}\r\n,\n"\xc3\xa9\xe2\x80\xa8"]',
        b"\r\n1\r\n",
    ],
)
def test_a_payload_with_line_ends_between_its_tokens_is_one_line_with_the_same_value(
    gateway_node: GatewayNode, read: Read, payload: bytes
) -> None:
    since = now(gateway_node)
    waiting = opened(read("room", tt=0))
    waiting.line()
    publish(gateway_node, "room", payload, meta='{"m":\r\n"1\\n2"}')
    late = opened(read("room", tt=since))
    for reader in (waiting, late):
        line = reader.line()
        assert payloads(line) == [json.loads(payload)]
        assert line["m"][0]["u"] == {"m": "1\n2"}
    publish(gateway_node, "room", "next")
    assert [payloads(reader.line()) for reader in (waiting, late)] == [["next"], ["next"]]


def test_many_readers_hear_all_of_it_in_order(gateway_node: GatewayNode, read: Read) -> None:
    """More than are told in the turn of the publish."""
    readers = [opened(read("room", tt=0)) for _ in range(40)]
    for reader in readers:
        reader.line()
    publish(gateway_node, "room", *range(10))
    publish_together(gateway_node, "room", range(10, 30), stored=False)
    for reader in readers:
        lines = hear(reader, 30)
        assert payloads(*lines) == list(range(30))
        assert [cursor_of(line) for line in lines] == sorted({cursor_of(line) for line in lines})


def test_a_channel_by_several_names_is_told_once(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("news.a,news.*", tt=0))
    reader.line()
    publish(gateway_node, "news.a", 1, 2)
    assert [payloads(reader.line()), payloads(reader.line())] == [[1], [2]]


def test_the_reader_is_present_and_hears_that_it_joined(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("room,room-pnpres", tt=0, uuid="me"))
    (joined,) = payloads(*hear(reader, 1))
    assert (joined["action"], joined["uuid"]) == ("join", "me")


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
def test_messages_that_become_visible_together_come_in_as_many_lines_as_it_takes(
    node_of: NodeOf, read: Read, stored: bool
) -> None:
    node = node_of(Limits(messages_per_answer=3))
    reader = opened(read("room", node=node, tt=0))
    reader.line()
    publish_together(node, "room", range(10), stored=stored)
    lines = hear(reader, 10)
    assert [payloads(line) for line in lines] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    cursors = [cursor_of(line) for line in lines]
    assert cursors == sorted(set(cursors))
    for line, seen in zip(lines, (3, 6, 9, 10), strict=True):  # each cursor is a place to go on from
        again = read("room", node=node, tt=cursor_of(line), tr=line["t"]["r"])
        again.head()
        first = again.whole() if again.is_whole else again.line()
        assert payloads(first) == list(range(10))[seen : seen + 3]


def test_pages_are_counted_after_the_filter(node_of: NodeOf, read: Read) -> None:
    node = node_of(Limits(messages_per_answer=2))
    reader = opened(read("room", node=node, tt=0, filter_expr="data.n % 2 == 0"))
    reader.line()
    publish_together(node, "room", [{"n": number} for number in range(12)])
    lines = hear(reader, 6)
    assert [[each["n"] for each in payloads(line)] for line in lines] == [[0, 2], [4, 6], [8, 10]]


def test_more_than_a_page_at_opening_is_answered_whole_and_the_rest_when_asked_again(
    node_of: NodeOf, read: Read
) -> None:
    node = node_of(Limits(messages_per_answer=3))
    cursor = now(node)
    publish(node, "room", *range(8))
    reader = read("room", node=node, tt=cursor, tr=1)
    heard = []
    for _ in range(2):
        assert reader.head() == 200
        page = reader.whole()
        assert len(page["m"]) == 3
        heard += payloads(page)
        reader.send("room", tt=cursor_of(page), tr=page["t"]["r"])  # on the same connection
    heard += payloads(opened(reader).line())
    publish(node, "room", 8)
    heard += payloads(reader.line())
    assert heard == list(range(9))


def test_exactly_a_page_at_opening_is_the_first_line(node_of: NodeOf, read: Read) -> None:
    node = node_of(Limits(messages_per_answer=3))
    cursor = now(node)
    publish(node, "room", *range(3))
    reader = opened(read("room", node=node, tt=cursor, tr=1))
    assert payloads(reader.line()) == [0, 1, 2]
    publish(node, "room", 3)
    assert payloads(reader.line()) == [3]


# -- its ends ----------------------------------------------------------------------------------------------------------


def token_that_ends_soon(node: GatewayNode, **grants: Any) -> str:
    """It has one to two seconds: tokens count in whole ones."""
    early = CapabilityTokens(clock=lambda: math.ceil(time.time() + 1.0) - 60, limits=node.limits)
    return early.mint(node.keyset, ttl_minutes=1, **grants)


def test_it_ends_with_its_token_and_whoever_asks_again_is_refused(node_of: NodeOf, read: Read) -> None:
    node = node_of(Limits(hold_s=0.8))  # deadlines are looked at each eighth of it
    token = token_that_ends_soon(node, channels={"room": Bits.READ})
    reader = opened(read("room", node=node, keyset=node.keyset, auth=token, tt=0))
    line = None
    for line in reader.rest():
        assert line["m"] == []
    assert line is not None
    assert len(node.gateway.polls) == 0
    reader.send("room", keyset=node.keyset, auth=token, tt=cursor_of(line), tr=1)  # the connection is of use still
    assert reader.head() == 403
    assert "expired" in reader.whole()["message"]


def test_a_revocation_ends_it_and_a_new_token_goes_on(gateway_node: GatewayNode, read: Read) -> None:
    room, keyset = {"room": Bits.READ}, gateway_node.keyset
    token, other = (gateway_node.mint(channels=room, meta={"n": number}) for number in (1, 2))
    reader, beside = (opened(read("room", keyset=keyset, auth=each, tt=0)) for each in (token, other))
    line, _ = reader.line(), beside.line()
    admin = gateway_node.client("admin", secret=True)
    admin.revoke_token(token).sync()
    assert reader.rest() == []
    reader.send("room", keyset=keyset, auth=token, tt=cursor_of(line), tr=1)
    assert reader.head() == 403
    assert reader.whole()["message"] == "Token is revoked"
    admin.publish().channel("room").message("meanwhile").sync()
    assert payloads(beside.line()) == ["meanwhile"]  # who has another token noticed nothing
    assert payloads(opened(reader.send("room", keyset=keyset, auth=other, tt=cursor_of(line), tr=1)).line()) == [
        "meanwhile"
    ]


def in_the_log_alone(node_of: NodeOf) -> tuple[GatewayNode, int]:
    """A gateway, and a cursor whose backlog on the channel `room` of `keyset` is no longer in memory."""
    node = node_of(Limits(tail_messages=1, tail_s=0.000_1))
    cursor = now(node)
    writer = node.client("writer", secret=True)
    for number in range(6):
        writer.publish().channel("room").message(number).sync()
    return node, cursor


@contextlib.contextmanager
def while_the_log_is_read(node: GatewayNode) -> Iterator[Callable[[], None]]:
    """Holds up what reads the log; call what it gives to wait until somebody does. Goes on at its end."""
    catch_up, reading, going_on = node.bus.catch_up, threading.Event(), asyncio.Event()

    async def late(*args: Any, **kwargs: Any) -> list[Message]:
        found = await catch_up(*args, **kwargs)
        reading.set()
        await going_on.wait()
        return found

    def wait() -> None:
        assert reading.wait(DEADLINE_S)

    node.bus.catch_up = late  # type: ignore[method-assign]
    try:
        yield wait
    finally:
        node.bus.catch_up = catch_up  # type: ignore[method-assign]
        node.call(going_on.set)


def test_a_token_revoked_while_the_backlog_is_read_does_not_go_on(node_of: NodeOf, read: Read) -> None:
    node, cursor = in_the_log_alone(node_of)
    admin = node.client("admin", secret=True)
    token = node.mint(channels={"room": Bits.READ})
    with while_the_log_is_read(node) as wait:
        reader = read("room", node=node, keyset=node.keyset, auth=token, tt=cursor, tr=1)
        wait()
        admin.revoke_token(token).sync()
    admin.publish().channel("room").message("not for it").sync()
    heard = []
    if reader.head() == 200:
        while "not for it" not in heard and (line := reader.whole() if reader.is_whole else reader.line()) is not None:
            heard += payloads(line)
            if reader.is_whole:
                break
    assert "not for it" not in heard


def test_the_release_of_the_gateway_ends_it_and_nothing_is_missed(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("room", tt=0))
    reader.line()
    publish(gateway_node, "room", 1)
    gateway_node.run(gateway_node.gateway.release)
    lines = reader.rest()
    assert payloads(*lines) == [1]
    publish(gateway_node, "room", 2)
    reader.send("room", tt=cursor_of(lines[-1]), tr=lines[-1]["t"]["r"])
    assert reader.head() == 200
    assert payloads(reader.whole()) == [2]  # nobody waits any more
    reader.send("room", tt=0)
    reader.head()
    assert reader.whole()["m"] == []


def test_the_end_of_the_process_ends_it_cleanly_and_soon(node_of: NodeOf, read: Read) -> None:
    node = node_of(Limits())
    reader = opened(read("room", node=node, tt=0))
    begun = time.monotonic()
    node.stop()
    assert all(line["m"] == [] for line in reader.rest())
    assert reader.ended()
    assert time.monotonic() - begun < 4, "it was waited for"


def test_a_line_comes_each_time_a_wait_would_have_ended(node_of: NodeOf, read: Read) -> None:
    node = node_of(Limits(hold_s=0.2))
    begun = time.monotonic()
    reader = opened(read("room", node=node, tt=0))
    lines = [reader.line() for _ in range(4)]
    assert time.monotonic() - begun > 3 * 0.2 * 0.9
    assert payloads(*lines) == []
    cursors = [cursor_of(line) for line in lines]
    assert cursors == sorted(set(cursors))
    publish(node, "room", "still there")
    assert payloads(*hear(reader, 1)) == ["still there"]


# -- who does not keep up ----------------------------------------------------------------------------------------------


def buffered(push: Push) -> tuple[int, int]:
    """Bytes that wait in the transport, and its high water mark."""
    transport = push._answering._wire._transport  # type: ignore[union-attr]
    return transport.get_write_buffer_size(), transport.get_write_buffer_limits()[1]


def read_to(reader: Reader, last: int) -> list[Any]:
    """What is heard until `last` is among it, asking again whenever the answer is over."""
    heard: list[Any] = []
    cursor = ""
    longest = 0
    while not heard or heard[-1]["n"] < last:
        if reader.is_whole:
            answer, over = reader.whole(), True
        else:
            answer = reader.line()
            over = answer is None
        if answer is not None:
            heard += payloads(answer)
            cursor = answer["t"]["t"]
        longest = max(longest, reader.longest)
        if over and heard[-1]["n"] < last:
            reader.send("room", tt=cursor, tr=1)
            assert reader.head() == 200
    reader.longest = longest
    return [each["n"] for each in heard]


@pytest.mark.parametrize("page", [4, 100])
def test_for_who_does_not_read_nothing_gathers_and_nothing_is_lost(node_of: NodeOf, read: Read, page: int) -> None:
    node = node_of(Limits(messages_per_answer=page))
    reader = opened(read("room", node=node, tt=0, receive_bytes=4096))
    node.wait_held(1)
    push = push_of(node)
    number, most, high = 0, 0, 0

    def say_more() -> None:
        nonlocal number, most, high
        publish_together(node, "room", [{"n": number + index, "text": "x" * 30_000} for index in range(10)])
        number += 10
        size, high = node.call(lambda: buffered(push))
        most = max(most, size)

    while node.call(lambda: len(node.gateway.polls)):
        assert number < 2_000, "it goes on without end"
        say_more()
    for _ in range(10):  # what is said from here on waits in the log
        say_more()
    assert push.answered is not None
    assert node.call(lambda: kept(node)) == []
    assert read_to(reader, number - 1) == list(range(number))
    assert most <= high + min(page, 10) * 30_500 + 2 * FRAME_BYTES


def test_while_the_first_line_is_not_taken_no_second_one_is_written(node_of: NodeOf, read: Read) -> None:
    """What waits in memory is one answer beyond the high water mark, also when it is the first that is large."""
    node = node_of(Limits(body_bytes=16 * 1024 * 1024, messages_per_answer=200))
    cursor = now(node)
    publish_together(node, "room", [{"n": number, "text": "x" * 30_000} for number in range(200)])
    reader = read("room", node=node, tt=cursor, tr=1, receive_bytes=4096)
    node.wait_held(1)
    push = push_of(node)
    size, high = node.call(lambda: buffered(push))
    assert size > high, "the system took it all"
    publish_together(node, "room", [{"n": 200 + number, "text": "x" * 30_000} for number in range(200)])
    publish_together(node, "room", [{"n": 400}])
    wait_until_nobody_waits(node)
    size, _ = node.call(lambda: buffered(push))
    assert read_to(opened(reader), 400) == list(range(401))
    assert size <= high + reader.longest + 2 * FRAME_BYTES


# -- who is no such reader ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "headers"), [("1.0", []), ("1.0", ["Connection: keep-alive"]), ("1.1", ["Connection: close"])], ids=str
)
def test_who_wants_the_connection_to_end_gets_one_whole_answer(
    gateway_node: GatewayNode, read: Read, version: str, headers: list[str]
) -> None:
    since = now(gateway_node)
    hello = read("room", version=version, headers=headers, tt=0)
    assert hello.head() == 200
    start = hello.whole()
    assert start["m"] == []

    waiting = read("room", version=version, headers=headers, tt=start["t"]["t"], tr=start["t"]["r"])
    gateway_node.wait_held(1)  # as a poll
    publish(gateway_node, "room", "news")
    assert waiting.head() == 200
    assert payloads(waiting.whole()) == ["news"]

    late = read("room", version=version, headers=headers, tt=since, tr=1)
    late.head()
    assert payloads(late.whole()) == ["news"]
    assert kept(gateway_node) == []


def test_who_asks_for_the_head_alone_is_served_no_stream(gateway_node: GatewayNode, read: Read) -> None:
    reader = read("room", method="HEAD", tt=0)
    assert reader.head() != 200
    assert kept(gateway_node) == []
    assert opened(reader.send("room", tt=0)).line()["m"] == []  # nothing is left over on the connection


@pytest.mark.parametrize(
    ("wanted", "status"),
    [({"channels": "room", "tt": "x"}, 400), ({"channels": ",", "tt": 0}, 400)],
    ids=["cursor", "nothing to read"],
)
def test_what_a_poll_is_refused_is_refused_here(read: Read, wanted: dict[str, Any], status: int) -> None:
    reader = read(**wanted)
    assert reader.head() == status
    assert reader.whole()["service"] == "Subscribe"


def test_without_permission_nothing_is_opened(gateway_node: GatewayNode, read: Read) -> None:
    token = gateway_node.mint(channels={"room": Bits.WRITE, "hall": Bits.READ})
    for channels in ("room", "hall,room", "other"):
        reader = read(channels, keyset=gateway_node.keyset, auth=token, tt=0)
        assert reader.head() == 403
        assert reader.whole()["service"] == "Access Manager"
    assert kept(gateway_node) == []


# -- what is held ------------------------------------------------------------------------------------------------------


def test_clients_that_go_without_a_word_leave_nothing_behind(gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={f"c{number}": 3 for number in range(100)} | {"w.*": 1}, groups={"g": 1})
    keyset = gateway_node.keyset
    with contextlib.ExitStack() as clients:
        for number in range(100):
            client = clients.enter_context(contextlib.closing(Reader(gateway_node)))
            client.send(f"c{number},w.*", keyset=keyset, tt=0, auth=token, channel_group="g")
            opened(client).line()
        gateway_node.wait_held(100)
        assert len(gateway_node.call(lambda: kept(gateway_node))) == 8
    wait_until_nobody_waits(gateway_node)
    assert gateway_node.call(lambda: kept(gateway_node)) == []


def test_what_has_ended_leaves_nothing_behind(gateway_node: GatewayNode, read: Read) -> None:
    token = gateway_node.mint(channels={"room": 3}, groups={"g": 1})
    readers = [opened(read("room", keyset=gateway_node.keyset, auth=token, channel_group="g", tt=0)) for _ in range(2)]
    for reader in readers:
        reader.line()
    gateway_node.client("admin", secret=True).revoke_token(token).sync()
    assert [reader.rest() for reader in readers] == [[], []]
    assert gateway_node.call(lambda: kept(gateway_node)) == []


@pytest.mark.parametrize("limit", ["polls_per_token", "polls_per_address"])
def test_they_count_as_polls_until_they_leave(node_of: NodeOf, read: Read, limit: str) -> None:
    node = node_of(Limits(**{limit: 2}))
    token = node.mint(channels={"room": Bits.READ})

    def one() -> Reader:
        return read("room", node=node, keyset=node.keyset, auth=token, tt=0)

    first, second = opened(one()), opened(one())
    refused = one()
    assert refused.head() == 429
    assert refused.headers["retry-after"] == "1"
    refused.whole()
    path = f"/v2/subscribe/{node.keyset.subscribe_key}/room/0?uuid=u&auth={token}&tt={now(node)}&tr=1"
    assert node.ask(path)[0] == 429  # and polls as they do
    for reader in (first, second):
        reader.close()
    wait_until_nobody_waits(node)
    assert opened(one()).line()["m"] == []


def test_a_publish_wakes_its_own_channels_readers_alone(gateway_node: GatewayNode, read: Read) -> None:
    mine, other = (opened(read(channel, tt=0)) for channel in ("mine", "other"))
    for reader in (mine, other):
        reader.line()
    publish(gateway_node, "mine", 1)
    publish(gateway_node, "other", 2)
    assert [payloads(mine.line()), payloads(other.line())] == [[1], [2]]


def test_a_request_behind_it_on_the_connection_is_answered_after_its_end(gateway_node: GatewayNode, read: Read) -> None:
    token = gateway_node.mint(channels={"room": Bits.READ})
    reader = opened(read("room", keyset=gateway_node.keyset, auth=token, tt=0))
    reader.line()
    reader.send("room", tt=0)
    gateway_node.client("admin", secret=True).revoke_token(token).sync()
    assert reader.rest() == []
    assert opened(reader).line()["m"] == []


def test_a_request_behind_it_does_not_hide_that_the_client_has_gone(node_of: NodeOf, read: Read) -> None:
    """While one waits, the connection is not read; that it is over shows when a line is written."""
    node = node_of(Limits(hold_s=0.1))
    gone, other = (opened(read("room", node=node, tt=0)) for _ in range(2))
    gone.line()
    gone.send("room", tt=0)
    gone.close()
    for number in range(3):
        publish(node, "room", number)
    assert payloads(*hear(other, 3)) == [0, 1, 2]
    assert payloads(*[other.line() for _ in range(3)]) == []  # and the time goes on
    other.close()
    wait_until_nobody_waits(node)
    assert node.call(lambda: kept(node)) == []


# -- groups, wildcards, filters, pages of browsers ---------------------------------------------------------------------


def test_a_group_is_heard_as_it_is_at_the_moment(gateway_node: GatewayNode, read: Read) -> None:
    client = gateway_node.client("admin")
    client.add_channel_to_channel_group().channels(["old"]).channel_group("team").sync()
    reader = opened(read(",", channel_group="team", tt=0))
    reader.line()
    publish(gateway_node, "old", "old 1")
    publish(gateway_node, "new", "too early")
    client.add_channel_to_channel_group().channels(["new"]).channel_group("team").sync()
    publish(gateway_node, "new", "new 1")
    client.remove_channel_from_channel_group().channels(["old"]).channel_group("team").sync()
    publish(gateway_node, "old", "too late")
    publish(gateway_node, "new", "new 2")
    lines = hear(reader, 3)
    assert payloads(*lines) == ["old 1", "new 1", "new 2"]
    assert {envelope["b"] for line in lines for envelope in line["m"]} == {"team"}


def test_a_group_that_changes_while_the_backlog_is_read_is_heard_as_it_is(node_of: NodeOf, read: Read) -> None:
    node, cursor = in_the_log_alone(node_of)
    admin = node.client("admin", secret=True)
    token = node.mint(channels={"room": Bits.READ}, groups={"team": Bits.READ})
    with while_the_log_is_read(node) as wait:
        reader = read("room", node=node, keyset=node.keyset, auth=token, channel_group="team", tt=cursor, tr=1)
        wait()
        admin.add_channel_to_channel_group().channels(["new"]).channel_group("team").sync()
    assert payloads(opened(reader).line()) == list(range(6))
    admin.publish().channel("new").message("to the group").sync()
    admin.publish().channel("room").message("to the room").sync()
    assert payloads(*hear(reader, 1)) == ["to the group"]


def test_wildcards_and_filters_are_those_of_polls(gateway_node: GatewayNode, read: Read) -> None:
    reader = opened(read("news.*", tt=0, filter_expr="data.n > 1 || meta.loud == 1"))
    reader.line()
    for channel, number, meta in (("news.a", 1, "{}"), ("news.a", 2, "{}"), ("other", 3, "{}"), ("news.b.c", 4, "{}")):
        publish(gateway_node, channel, {"n": number}, meta=meta)
    publish(gateway_node, "news.b", {"n": 0}, meta='{"loud": 1}')
    lines = hear(reader, 3)
    heard = [(envelope["c"], envelope["d"]["n"], envelope["b"]) for line in lines for envelope in line["m"]]
    assert heard == [("news.a", 2, "news.*"), ("news.b.c", 4, "news.*"), ("news.b", 0, "news.*")]


def test_a_page_of_another_origin_may_read_it_as_it_comes(gateway_node: GatewayNode, read: Read) -> None:
    for headers, allowed in ((["Origin: https://example.org"], "*"), ([], None)):
        reader = opened(read("room", tt=0, headers=headers))
        assert reader.headers.get("access-control-allow-origin") == allowed
        reader.line()
        publish(gateway_node, "room", "hello")
        assert payloads(reader.line()) == ["hello"]
