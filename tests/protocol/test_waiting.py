"""Waiting polls: what they hold, and that they let go of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket

from gateway_harness import GatewayNode


async def nobody_waits(node: GatewayNode) -> None:
    """Returns in the turn of the loop in which the last poll is gone."""
    polls = node.gateway.polls
    while len(polls):
        await asyncio.sleep(0)


def held(node: GatewayNode) -> list[object]:
    """Everything that the gateway remembers of waiting polls."""
    polls = node.gateway.polls
    counts = polls.counts
    kept = (polls._by_channel, polls._by_group, polls._by_wildcard, polls._by_token, polls._all)
    return [index for index in (*kept, counts._by_address, counts._by_token) if index]


def test_clients_that_go_without_a_word_leave_nothing_behind(gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={f"c{number}": 3 for number in range(100)}, groups={"g": 1})
    key = gateway_node.keyset.subscribe_key
    cursor = gateway_node.call(gateway_node.gateway.bus.now)
    with contextlib.ExitStack() as clients:
        for number in range(100):
            client = clients.enter_context(socket.create_connection(gateway_node.origin.split(":"), 5))
            path = f"/v2/subscribe/{key}/c{number}/0?tt={cursor}&tr=1&uuid=u&auth={token}&channel-group=g"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        gateway_node.wait_held(100)
        assert gateway_node.call(lambda: held(gateway_node))
    gateway_node.run(lambda: asyncio.wait_for(nobody_waits(gateway_node), 1))
    assert gateway_node.call(lambda: held(gateway_node)) == []


def test_a_publish_wakes_its_own_channels_readers_alone(gateway_node: GatewayNode) -> None:
    keyset = gateway_node.open_keyset
    cursor = gateway_node.call(gateway_node.gateway.bus.now)
    with contextlib.ExitStack() as clients:
        waiting = []
        for name in ("mine", "other"):
            client = clients.enter_context(socket.create_connection(gateway_node.origin.split(":"), 5))
            path = f"/v2/subscribe/{keyset.subscribe_key}/{name}/0?tt={cursor}&tr=1&uuid=u"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            waiting.append(client)
        gateway_node.wait_held(2)
        status, _ = gateway_node.ask(f"/publish/{keyset.publish_key}/{keyset.subscribe_key}/0/mine/0/1?uuid=u")
        assert status == 200
        assert b'"d":1' in waiting[0].recv(65536)
        assert gateway_node.call(lambda: len(gateway_node.gateway.polls)) == 1
        waiting[1].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert not waiting[1].recv(1), "a reader of another channel was woken"


def test_a_page_of_another_origin_may_read_every_answer(gateway_node: GatewayNode) -> None:
    """What a browser needs, and what other clients are spared."""
    keyset = gateway_node.open_keyset
    paths = ["/time/0", f"/v2/subscribe/{keyset.subscribe_key}/c/0?tt=0&uuid=u", "/v2/subscribe/unknown/c/0?tt=0"]
    connection = http.client.HTTPConnection(gateway_node.origin, timeout=5)
    with contextlib.closing(connection):
        for path in paths:
            for headers, allowed in (({"Origin": "https://example.org"}, "*"), ({}, None)):
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.headers["Access-Control-Allow-Origin"] == allowed, path
                assert answer.headers["Cache-Control"] == "no-cache"
        connection.request("OPTIONS", paths[0], headers={"Origin": "https://example.org"})
        answer = connection.getresponse()
        answer.read()
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]


def test_a_poll_that_comes_from_an_earlier_process_is_answered_at_once_and_others_wait(
    gateway_node: GatewayNode,
) -> None:
    """Its reader has to learn that the memory it read from is gone, also when nothing else is to be told."""
    key = gateway_node.open_keyset.subscribe_key
    _, hello = gateway_node.ask(f"/v2/subscribe/{key}/still/0?tt=0&uuid=u")
    cursor, region = hello["t"]["t"], hello["t"]["r"]
    assert region > 1
    _, moved = gateway_node.ask(f"/v2/subscribe/{key}/still/0?tt={cursor}&tr={region + 1}&uuid=u")
    assert (moved["t"]["r"], moved["m"]) == (region, [])
    assert int(moved["t"]["t"]) >= int(cursor)
    with contextlib.ExitStack() as clients:
        for own in (1, region):
            client = clients.enter_context(socket.create_connection(gateway_node.origin.split(":"), 5))
            path = f"/v2/subscribe/{key}/still/0?tt={cursor}&tr={own}&uuid=u"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        gateway_node.wait_held(2)
