"""Connections: what is too large or too slow is refused, keep-alive holds, and the end waits for what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blocks_network.errors import ConfigurationError
from blocks_network.server.http import connection as connection_module
from blocks_network.server.http.listener import App, Listener, bind

Scenario = Callable[[int, Listener], Awaitable[None]]


async def measure(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes of path and query."""
    body = str(len(scope["raw_path"]) + len(scope["query_string"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def serve(scenario: Scenario, app: App = measure, *, keep_alive_s: float = 75, **bounds: float) -> None:
    async def run() -> None:
        sock = bind("127.0.0.1", 0)
        port = sock.getsockname()[1]
        listener = Listener(app, sock, keep_alive_s=keep_alive_s, **bounds)
        await listener.start()
        try:
            await asyncio.wait_for(scenario(port, listener), 20)
        finally:
            listener.refuse()
            await listener.drain(1)

    asyncio.run(run())


async def ask(port: int, head: bytes) -> bytes:
    """Sends bytes and reads until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_an_address_of_nearly_64_kib_is_served() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        path = b"/publish/" + b"x" * 65_000
        answer = await ask(port, b"GET " + path + b"?a=b HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(str(len(path) + 3).encode())

    serve(scenario)


def test_a_longer_address_is_answered_with_414() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        answer = await ask(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: t\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 414")

    serve(scenario)


def test_headers_without_end_are_answered_with_431() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        answer = await ask(port, b"GET / HTTP/1.1\r\nx-endless: " + b"x" * 200_000)
        assert answer.startswith(b"HTTP/1.1 431")

    serve(scenario)


def test_what_is_not_http_is_answered_with_400() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        assert (await ask(port, b"\x16\x03\x01\x02\x00")).startswith(b"HTTP/1.1 400")

    serve(scenario)


def test_a_head_that_trickles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_S", 0.05)

    async def scenario(port: int, _listener: Listener) -> None:
        with contextlib.suppress(ConnectionResetError):  # an abort may arrive as an end or as a reset
            assert await ask(port, b"GET / HT") == b""

    serve(scenario)


def test_a_connection_serves_one_request_after_another() -> None:
    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in (b"/a", b"/long", b"/longer"):
            writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: t\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(1) == str(len(path)).encode()
        writer.close()

    serve(scenario)


def test_the_end_waits_for_the_answer_under_way_and_closes_idle_connections() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await release.wait()
        await measure(scope, receive, send)

    async def scenario(port: int, listener: Listener) -> None:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        busy = asyncio.create_task(ask(port, b"GET /abc HTTP/1.1\r\nhost: t\r\n\r\n"))
        await entered.wait()
        listener.refuse()
        assert await idle.read() == b""
        idle_writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        draining = asyncio.create_task(listener.drain(5))
        release.set()
        assert await draining == 0
        assert (await busy).endswith(b"4")

    serve(scenario, slow)


def test_the_end_cuts_what_takes_longer_than_its_grace() -> None:
    entered = asyncio.Event()

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def scenario(port: int, listener: Listener) -> None:
        busy = asyncio.create_task(ask(port, b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"))
        await entered.wait()
        listener.refuse()
        assert await listener.drain(0.05) == 1
        await busy

    serve(scenario, stuck)


def test_the_end_also_waits_for_what_was_sent_behind_a_request() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05 if scope["path"] == "/a" else 60)
        await measure(scope, receive, send)

    async def scenario(port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /a HTTP/1.1\r\nhost: t\r\n\r\nGET /stuck HTTP/1.1\r\nhost: t\r\n\r\n")
        while not listener.tasks:
            await asyncio.sleep(0)
        listener.refuse()
        assert await listener.drain(0.3) == 1
        assert not listener.tasks
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()

    serve(scenario, slow)


def test_a_body_that_was_under_way_when_the_door_closed_arrives_whole() -> None:
    goes_on, taken = asyncio.Event(), []
    body = b"".join(b"%012d" % at for at in range(25_000))
    head = b"POST /up HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def take(scope: Any, receive: Any, send: Any) -> None:
        await goes_on.wait()
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message["body"])
            more = message["more_body"]
        if scope["path"] == "/up":
            taken.append(b"".join(pieces))
        await measure(scope, receive, send)

    async def scenario(port: int, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ahead = b"GET /a HTTP/1.1\r\nhost: t\r\n\r\n" * 20
        writer.write(ahead + head + body[:60_000])
        while not listener.tasks:
            await asyncio.sleep(0.01)
        listener.refuse()
        goes_on.set()
        writer.write(body[60_000:])
        told = await asyncio.wait_for(reader.read(), 10)
        assert taken == [body] * told.count(b"\r\n\r\n3")  # whole, or not at all
        writer.close()

    serve(scenario, take)


def test_a_connection_that_comes_while_the_door_closes_is_closed() -> None:
    async def scenario(port: int, listener: Listener) -> None:
        coming = [asyncio.ensure_future(asyncio.open_connection("127.0.0.1", port)) for _ in range(50)]
        await asyncio.sleep(0)
        listener.refuse()
        for opened in await asyncio.gather(*coming, return_exceptions=True):
            if isinstance(opened, tuple):
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(opened[0].read(), 5) == b""
                opened[1].close()
        assert not listener.connections

    serve(scenario)


def test_a_port_in_use_is_said_with_the_way_out() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="is in use") as caught,
    ):
        bind("127.0.0.1", taken.getsockname()[1])
    assert "--port" in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
def test_an_address_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(ConfigurationError, match=host):
        bind(host, 0)


def test_a_body_that_falls_silent_is_cut() -> None:
    heard: list[str] = []

    async def read_all(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            heard.append(message["type"])
            if message["type"] == "http.disconnect" or not message["more_body"]:
                return

    async def scenario(port: int, _listener: Listener) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await ask(port, b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n123") == b""
        assert heard[-1] == "http.disconnect"

    serve(scenario, read_all, body_idle_s=0.05)


def test_a_body_that_keeps_coming_is_read_to_its_end() -> None:
    async def count(scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        body = str(size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def scenario(port: int, _listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 10\r\n\r\n")
        for _ in range(10):  # longer than the bound altogether
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await reader.read()).endswith(b"10")
        writer.close()

    serve(scenario, count, body_idle_s=0.8)
