"""HTTP as the door speaks it: answers in order, bodies in their shapes, and what the parser does not bound."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from test_listener import ask, measure, serve

from blocks_network.server.http import connection as connection_module
from blocks_network.server.http.answering import answering_of
from blocks_network.server.http.listener import Listener

CLOSE = b"connection: close\r\n"


def request(path: bytes = b"/", *, method: bytes = b"GET", version: bytes = b"1.1", extra: bytes = b"") -> bytes:
    return method + b" " + path + b" HTTP/" + version + b"\r\nhost: t\r\n" + extra + b"\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the body, in chunks: no length is said."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b" ", "more_body": True})
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"], "more_body": message["more_body"]})
        if not message["more_body"]:
            return


async def taken_slowly(port: int, sent: bytes) -> int:
    """How many bytes of an answer's body come to a reader that pauses after each piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000_000)
    writer.write(sent)
    await reader.readuntil(b"\r\n\r\n")
    taken = 0
    while piece := await reader.read(1_000_000):
        taken += len(piece)
        await asyncio.sleep(0.1)  # longer than the bound altogether
    writer.close()
    return taken


async def headless(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("a fault of the app")


def answers(sent: bytes, app: Any = measure) -> bytes:
    """All that comes back until the door closes."""
    told = b""

    async def scenario(port: int, _listener: Listener) -> None:
        nonlocal told
        told = await ask(port, sent)

    serve(scenario, app)
    return told


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def backwards(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.02 if scope["path"] == "/0" else 0)
        await echo(scope, receive, send)

    told = answers(b"".join(request(b"/%d" % n) for n in range(40)) + request(b"/last", extra=CLOSE), backwards)
    assert told.count(b"HTTP/1.1 200") == 41
    places = [told.index(b"/%d " % n) for n in range(40)] + [told.index(b"/last ")]
    assert places == sorted(places)


def test_what_is_read_ahead_of_a_slow_app_is_bounded() -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await goes_on.wait()
        await measure(scope, receive, send)

    async def scenario(port: int, listener: Listener) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await began.wait()
        sent = 0
        with contextlib.suppress(asyncio.TimeoutError):
            while sent < 200 << 20:
                writer.write(request() * 4_000)
                sent += len(request()) * 4_000
                await asyncio.wait_for(writer.drain(), 1)
        (held,) = listener.connections
        assert sent < 200 << 20  # the sockets are full: nobody reads
        assert len(held._waiting) <= 2 * connection_module.SLICE_BYTES // len(request())
        writer.transport.abort()
        goes_on.set()

    serve(scenario, slow)


def test_a_client_that_leaves_is_noticed_behind_what_it_has_sent_ahead() -> None:
    began, gone = asyncio.Event(), asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async def scenario(port: int, _listener: Listener) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request() * 5)
        await began.wait()
        writer.close()
        await asyncio.wait_for(gone.wait(), 5)

    serve(scenario, wait)


def test_a_body_in_chunks_arrives_whole_and_without_its_trailer() -> None:
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        seen.extend(scope["headers"])

    body = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nauthorization: stolen\r\n\r\n"
    told = answers(request(b"/x", method=b"POST", extra=CLOSE + b"transfer-encoding: chunked\r\n") + body, look)
    assert b"".join(told.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]) == b"/x abcde"
    assert b"authorization" not in dict(seen)


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nx-trailer: " + b"t" * 400_000, b"1;" + b"e" * 400_000, b"0" * 400_000],
    ids=["trailer", "extension", "zeros"],
)
def test_what_stands_around_chunks_is_bounded(endless: bytes) -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(method=b"POST", extra=b"transfer-encoding: chunked\r\n") + b"1\r\nx\r\n")
        await asyncio.sleep(0.05)
        writer.write(endless)
        told = b""
        with contextlib.suppress(ConnectionResetError):
            told = await asyncio.wait_for(reader.read(), 5)
        assert told.count(b" 400 ") <= 1
        writer.close()

    async def take(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect" and message["more_body"]:
            pass

    serve(scenario, take)


def test_many_small_chunks_are_no_fault() -> None:
    body = b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"
    told = answers(request(b"/", method=b"POST", extra=CLOSE + b"transfer-encoding: chunked\r\n") + body, echo)
    assert told.count(b"x") >= 60_000


def test_the_answer_to_head_has_no_body() -> None:
    told = answers(request(b"/abc", method=b"HEAD") + request(b"/abcd", extra=CLOSE))
    first, second = told.split(b"HTTP/1.1 ")[1:]
    assert first.endswith(b"content-length: 1\r\n\r\n")
    assert second.endswith(b"\r\n\r\n5")


def test_http_1_0_gets_no_chunks_and_its_connection_closed() -> None:
    told = answers(request(b"/old", version=b"1.0"), echo)
    assert b"transfer-encoding" not in told
    assert told.endswith(b"\r\n\r\n/old ")


def test_a_client_that_waits_for_the_word_to_go_on_gets_it() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(method=b"PUT", extra=CLOSE + b"expect: 100-continue\r\ncontent-length: 2\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert b"ok" in await reader.read()
        writer.close()

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        body += (await receive())["body"] if not body else b""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": body})

    serve(scenario, whole)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a%20b?c=%20", "/a b", b"c=%20"),
        (b"http://elsewhere:1/x?y", "/x", b"y"),
        (b"http://elsewhere", "/", b""),
        (b"//two/slashes", "//two/slashes", b""),
        (b"/a#b", "/a", b""),
        (b"/a?b?c", "/a", b"b?c"),
    ],
)
def test_addresses_in_all_their_forms(target: bytes, path: str, query: bytes) -> None:
    seen: dict[str, Any] = {}

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await measure(scope, receive, send)

    assert answers(request(target, extra=CLOSE), look).startswith(b"HTTP/1.1 200 OK\r\n")
    assert (seen["path"], seen["query_string"], seen["method"]) == (path, query, "GET")


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("target", [b"/caf\xc3\xa9", b"nowhere", b"http://[half"])
def test_an_address_that_is_none_is_answered_with_400(target: bytes, before: int) -> None:
    told = answers(request(b"/good") * before + request(target))
    assert told.count(b"HTTP/1.1 200") == before
    assert told.count(b"HTTP/1.1 400") == 1


def test_who_offers_another_protocol_goes_on_with_this_one() -> None:
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    told = answers(request(b"/a", extra=upgrade) * 3 + request(b"/abc", extra=CLOSE))
    assert told.count(b"HTTP/1.1 200") == 4


def test_the_body_of_such_a_request_is_a_body() -> None:
    """The parser takes what follows the head for the other protocol; read as a request it would be smuggled in."""
    inner = request(b"/smuggled")
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    outer = request(b"/up", method=b"POST", extra=upgrade + b"content-length: %d\r\n" % len(inner))
    told = answers(outer + inner + request(b"/last", extra=CLOSE), echo)
    assert told.count(b"HTTP/1.1 200") == 2
    assert b"/up " in told


def test_nobody_is_connected_to_elsewhere() -> None:
    assert answers(request(b"/x", method=b"CONNECT")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("coding", [b"identity", b"xchunked", b"chunked, gzip"])
def test_a_request_that_is_refused_is_not_run(coding: bytes) -> None:
    ran: list[str] = []

    async def run(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])
        await measure(scope, receive, send)

    told = answers(request(b"/a") + request(b"/b", extra=b"transfer-encoding: " + coding + b"\r\n"), run)
    assert told.count(b"HTTP/1.1 200") == 1
    assert told.count(b"HTTP/1.1 400") == 1
    assert ran == ["/a"]


async def slow_file(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"40")]})
    for at in range(4):
        await send({"type": "http.response.body", "body": b"f" * 10, "more_body": at < 3})
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("rest", [b"nonsense\r\n\r\n", b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"])
def test_a_refusal_waits_for_the_answers_before_it(rest: bytes) -> None:
    told = answers(request(b"/a") + request(b"/b") + rest, slow_file)
    first, second, refusal = told.split(b"HTTP/1.1 ")[1:]
    assert first.endswith(b"\r\n\r\n" + b"f" * 40)
    assert second.endswith(b"\r\n\r\n" + b"f" * 40)
    assert refusal.startswith(b"4")


def test_a_request_whose_body_breaks_off_within_its_answer_is_cut() -> None:
    told = b""

    async def scenario(port: int, _listener: Listener) -> None:
        nonlocal told
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"/a", method=b"POST", extra=b"transfer-encoding: chunked\r\n") + b"1\r\nx\r\n")
        told = await reader.readuntil(b"/a ")
        writer.write(b"no chunk\r\n")
        told += await asyncio.wait_for(reader.read(), 5)
        writer.close()

    serve(scenario, echo)
    assert told.count(b"HTTP/1.1") == 1


def test_a_client_is_not_told_to_go_on_within_an_answer() -> None:
    async def pushed(scope: Any, receive: Any, send: Any) -> None:
        answering = answering_of(scope)
        assert answering is not None
        assert answering.begin(200, b"", b"one") == (scope["method"] == "GET")
        if scope["method"] == "POST":
            await measure(scope, receive, send)
            return
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0.02)
        answering.end()
        await waiting

    told = answers(request(extra=b"expect: 100-continue\r\n") + request(extra=CLOSE), pushed)
    assert b"100 Continue" not in told.partition(b"one")[2]


def test_an_answer_before_the_word_to_go_on_ends_the_connection() -> None:
    """Whether its body still comes, nobody can tell."""
    expecting = request(method=b"POST", extra=b"expect: 100-continue\r\ncontent-length: 9\r\n")
    told = answers(expecting)
    assert b"100 Continue" not in told
    assert b"connection: close" in told


def test_a_long_body_buys_no_long_trailer() -> None:
    body = (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 64 + b"0\r\n"

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(method=b"POST", extra=b"transfer-encoding: chunked\r\n") + body + b"x-trailer: ")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"t" * 64 * 1024)
                await writer.drain()
                await asyncio.sleep(0)
            await asyncio.wait_for(reader.read(), 5)
        writer.transport.abort()

    async def take(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"]

    serve(scenario, take)


def test_many_short_heads_are_no_long_one() -> None:
    told = answers(request(b"/a") * 12_000 + request(b"/b", extra=CLOSE))
    assert told.count(b"HTTP/1.1 200") == 12_001
    assert b" 431 " not in told


def test_each_head_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_S", 0.4)

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        whole = request(b"/a")
        writer.write(whole[:10])
        for _ in range(8):  # every piece ends within a head
            await asyncio.sleep(0.1)
            writer.write(whole[10:] + whole[:10])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readexactly(1)
        writer.close()

    serve(scenario)


def test_a_head_behind_a_held_request_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_S", 0.1)

    async def held(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await measure(scope, receive, send)

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"/held") + b"GET /nex")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()

    serve(scenario, held)


@pytest.mark.parametrize("extra", [b"", b"expect: 100-continue\r\n"], ids=["plain", "expecting"])
def test_a_body_behind_a_held_request_has_its_whole_time_after_it(extra: bytes) -> None:
    async def held(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/held":
            await asyncio.sleep(0.7)
        await echo(scope, receive, send)

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"/held") + request(b"/b", method=b"POST", extra=extra + b"content-length: 3\r\n"))
        await reader.readuntil(b"/held ")
        await asyncio.sleep(0.5)  # more than is left of the time that began with the head
        writer.write(b"end")
        assert (await reader.readuntil(b"end")).count(b"HTTP/1.1 200") == 1
        writer.close()

    serve(scenario, held, body_idle_s=0.8)


def test_an_early_last_answer_is_taken_at_its_reader_s_pace() -> None:
    size = 20_000_000

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % size), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def scenario(port: int, _listener: Listener) -> None:
        sent = request(method=b"POST", extra=b"content-length: 9\r\n")
        assert await taken_slowly(port, sent) == size

    serve(scenario, refuse, body_idle_s=0.5)


def test_who_stops_taking_the_end_of_an_answer_is_cut() -> None:
    """Also when the transport has said that it has room again."""
    size = 3_000_000

    async def last(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def scenario(port: int, listener: Listener) -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            sock.sendall(request(extra=CLOSE))
            while not listener.connections:
                await asyncio.sleep(0.01)
            (connection,) = listener.connections
            while not connection.is_closing():
                await asyncio.sleep(0.01)
            while (unsent := connection._transport.get_write_buffer_size()) > 16_000:
                with contextlib.suppress(BlockingIOError):
                    sock.recv(8_192 if unsent < 100_000 else 500_000)
                await asyncio.sleep(0)
            while listener.connections:  # within the 20 s of every scenario
                await asyncio.sleep(0.05)

    serve(scenario, last, body_idle_s=0.3)


def test_who_takes_nothing_of_what_it_is_sent_is_cut() -> None:
    asked = asyncio.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        body = b"x" * 32_000_000
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def scenario(port: int, listener: Listener) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
        writer.write(request())
        await asked.wait()
        while listener.connections:  # within the 20 s of every scenario
            await asyncio.sleep(0.05)
        writer.transport.abort()

    serve(scenario, large, body_idle_s=0.3)


def test_who_takes_it_slowly_gets_it_whole() -> None:
    size = 8_000_000

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def scenario(port: int, _listener: Listener) -> None:
        assert await taken_slowly(port, request(extra=CLOSE)) == size

    serve(scenario, large, body_idle_s=0.5)


def test_who_was_idle_before_has_the_whole_time_to_take_an_answer() -> None:
    """The timer of its idleness goes off within the answer, and must not be taken for the other one."""
    size = 8_000_000

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
        await asyncio.sleep(0.3)
        writer.write(request())
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.4)  # beyond the timer
        assert len(await reader.readexactly(size)) == size
        writer.close()

    serve(scenario, large, keep_alive_s=0.5, body_idle_s=5)


def test_a_fault_after_an_answer_leaves_the_next_one_alone() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05 if scope["path"] == "/next" else 0)
        await measure(scope, receive, send)
        if scope["path"] == "/a":
            raise ValueError("after all was said")

    told = answers(request(b"/a") + request(b"/next", extra=CLOSE), late)
    assert told.endswith(b"\r\n\r\n5")


def test_a_fault_of_the_app_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    told = answers(request(b"/boom"), headless)
    assert told.startswith(b"HTTP/1.1 500")
    assert "GET /boom failed" in caplog.text


def test_an_app_that_does_not_answer_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    assert answers(request(), silent).startswith(b"HTTP/1.1 500")
    assert "without a whole answer" in caplog.text


def test_a_fault_within_an_answer_cuts_it() -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise ValueError("no more")

    told = answers(request(), half)
    assert told.endswith(b"\r\n\r\n12345")


@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x y", b"a"), (b"", b"a")])
def test_an_answer_cannot_be_split_by_a_header(header: tuple[bytes, bytes]) -> None:
    async def split(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    told = answers(request(), split)
    assert told.startswith(b"HTTP/1.1 500")
    assert b"set-cookie" not in told


@pytest.mark.parametrize("sizes", [(3, 3, 3), (20,)], ids=["short", "long"])
def test_a_body_of_another_length_than_its_head_says_ends_the_connection(sizes: tuple[int, ...]) -> None:
    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        for at, size in enumerate(sizes, 1):
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": at < len(sizes)})

    assert len(answers(request(), wrong).partition(b"\r\n\r\n")[2]) < 10


def test_an_answer_before_its_body_leaves_the_connection_in_order() -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await measure(scope, receive, send)

    body = b"content-length: 300000\r\n"

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"/early", method=b"POST", extra=body))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 300_000 + request(b"/next", extra=CLOSE))
        assert (await reader.read()).endswith(b"\r\n\r\n5")
        writer.close()

    serve(scenario, early)


def test_what_follows_the_last_request_is_not_looked_at() -> None:
    told = answers(request(b"/abc", extra=CLOSE) + b"\x00 nonsense")
    assert told.endswith(b"\r\n\r\n4")
    assert told.count(b"HTTP/1.1") == 1


def test_an_idle_connection_is_closed_after_its_time() -> None:
    async def scenario(port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):  # each request gives it the whole time again
            writer.write(request(b"/a"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readexactly(1)
            await asyncio.sleep(0.2)
        assert listener.connections
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    serve(scenario, keep_alive_s=0.4)


def test_a_head_may_follow_a_long_body_in_one_piece() -> None:
    """Only the head's own bytes count against its bound."""
    long = request(b"/a", method=b"POST", extra=b"content-length: 200000\r\n") + b"x" * 200_000
    told = answers(long + request(b"/ab", extra=CLOSE), echo)
    assert told.count(b"HTTP/1.1 200") == 2


def test_a_reader_that_does_not_read_stops_the_writer() -> None:
    blocked = asyncio.Event()

    async def gush(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1_000):
            sending = asyncio.ensure_future(
                send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            )
            done, _ = await asyncio.wait({sending}, timeout=0.5)
            if not done:
                blocked.set()
                await sending  # until the client is gone
                return

    async def scenario(port: int, _listener: Listener) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
        writer.write(request())
        await asyncio.wait_for(blocked.wait(), 10)
        writer.transport.abort()

    serve(scenario, gush)


def test_an_answer_by_a_call_leaves_in_one_piece_with_its_length() -> None:
    async def call(scope: Any, receive: Any, send: Any) -> None:
        answering = answering_of(scope)
        assert answering is not None
        assert answering.whole(200, b"x-one: 1\r\n", b"body")
        assert not answering.begin(200, b"", b"more")

    told = answers(request(extra=CLOSE), call)
    assert told == b"HTTP/1.1 200 OK\r\nx-one: 1\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"


def test_a_head_that_is_cut_off_does_not_outlive_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_S", 0.1)

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"/a"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readexactly(1)
        writer.write(b"GET /b HTTP/1.1\r\nho")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    serve(scenario)
