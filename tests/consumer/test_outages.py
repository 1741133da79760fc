"""Sessions while the network goes away and comes back, and while connections break or fall silent."""

from __future__ import annotations

import gc
import itertools
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import RESET, FaultyProxy
from published_tasks import DONE, S, World, messages, said

from blocks_network import TaskClient, TaskContext, TokenResult, text_part
from blocks_network.errors import TransportError
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node
from blocks_network.testing.network import Network
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import PubNubKeys, make_client

# --- a restart of the network ---


def numbers(session: Any) -> list[bytes]:
    return [session.download_artifact(ref).data for ref in session.list_artifacts()]


def test_sessions_go_on_over_a_restart_of_the_network_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Real agents keep on publishing while the network is away; three sessions read on when it is back."""
    first_half, away, back = threading.Semaphore(0), threading.Event(), threading.Event()

    def handler(task: Any, ctx: TaskContext) -> None:
        for number in range(10):
            ctx.publish_artifact(str(number), mime_type="text/plain")
        first_half.release()
        away.wait(S)
        for number in range(10, 15):
            ctx.publish_artifact(str(number), mime_type="text/plain")
        back.wait(S)
        for number in range(15, 20):
            ctx.publish_artifact(str(number), mime_type="text/plain")

    node = Node(NodeConfig(data_dir=tmp_path, stop_grace_s=0.5)).start()
    try:
        with Network(node) as network:
            network.agent(handler, name="restarted", concurrency=4)
            client = network.client()
            sessions = [client.send_message(agent_name="restarted") for _ in range(3)]
            told: list[list[str]] = [[] for _ in sessions]
            for session, kinds in zip(sessions, told, strict=True):
                session.on_event(lambda event, kinds=kinds: kinds.append(event.type))  # type: ignore[misc]
            for _ in sessions:
                assert first_half.acquire(timeout=S)
            assert node.stop()
            away.set()
            node = Node(NodeConfig(data_dir=tmp_path, port=node.port, stop_grace_s=0.5)).start()
            back.set()
            for session, kinds in zip(sessions, told, strict=True):
                assert session.wait_for_terminal(4 * S).state == "completed"
                assert numbers(session) == [str(number).encode() for number in range(20)]
                assert kinds == [event.type for event in session.list_events()]
                assert kinds.count("terminal") == 1
                session.close()
    finally:
        POOL.close_idle()
        node.stop()


# --- connections that break ---


class Reached:
    """A client whose sessions read the gateway through a faulty proxy."""

    def __init__(self, world: World, proxy: FaultyProxy, *, read_timeout_s: int = 310) -> None:
        gateway = world.gateway
        keys = PubNubKeys(gateway.keyset.subscribe_key, gateway.keyset.publish_key, proxy.origin, False)
        tokens = itertools.count(1)
        self._world = world
        self.client = TaskClient.create(
            "free", world.document, token_provider=lambda: TokenResult(f"t-{next(tokens)}", 600, "ada")
        )
        self.client._link._create_session_pubnub = lambda: make_client(
            keys, user_id="behind-a-proxy", subscribe_timeout_s=read_timeout_s
        )

    def send(self) -> Any:
        kept, self._world.client = self._world.client, self.client
        try:
            return self._world.send(cursor=True)
        finally:
            self._world.client = kept


def test_a_proxy_that_cuts_every_connection_after_some_bytes_loses_nothing(world: World) -> None:
    with FaultyProxy(world.gateway.origin, cut_after=2500) as proxy:
        reached = Reached(world, proxy)
        session = reached.send()
        events = iter(session)
        for number in range(25):  # in step, since an answer of more than those bytes would never come through
            world.tell(session.task_id, said(f"{number} {'x' * 200}"))
            assert str(next(events).message).split()[0] == str(number)
        world.tell(session.task_id, DONE)
        assert [event.type for event in events] == ["terminal"]
        assert len(session.list_events()) == 26
        assert proxy.cuts > 1
        reached.client.destroy()


def test_half_open_connections_are_given_up_and_nothing_is_lost(world: World) -> None:
    with FaultyProxy(world.gateway.origin) as proxy:
        reached = Reached(world, proxy, read_timeout_s=1)
        session = reached.send()
        world.tell(session.task_id, said("before"))
        assert next(iter(session)).message == "before"
        assert proxy.silence() >= 1
        world.tell(session.task_id, said("meanwhile"), DONE)
        assert session.wait_for_terminal(S).state == "completed"
        assert messages(session.list_events()) == ["before", "meanwhile"]
        reached.client.destroy()


def test_a_time_in_which_every_packet_is_lost_delays_and_no_more(world: World) -> None:
    with FaultyProxy(world.gateway.origin) as proxy:
        reached = Reached(world, proxy)
        session = reached.send()
        world.tell(session.task_id, said("before"))
        assert next(iter(session)).message == "before"
        proxy.lose_everything()
        world.tell(session.task_id, said("meanwhile"))
        with pytest.raises(TimeoutError):
            session.wait_for_terminal(0.3)
        proxy.recover()
        world.tell(session.task_id, DONE)
        session.wait_for_terminal(S)
        assert messages(session.list_events()) == ["before", "meanwhile"]
        reached.client.destroy()


def test_the_peer_of_a_silent_connection_is_probed(platform: Any) -> None:
    """What a vanished machine does not answer, the operating system notices."""
    host, _, port = platform.url.removeprefix("http://").partition(":")
    connection = POOL._open(("http", host, int(port)), None, S)
    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    connection.close()


def test_an_answer_that_breaks_off_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that said that its connection ends with it, and whose fault is kept by somebody."""
    left_open: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda fault: left_open.append(repr(fault.exc_value)))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\n0123456789")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(TransportError, match="connection lost") as caught:
            POOL.request("GET", f"http://127.0.0.1:{server.getsockname()[1]}/")
        answering.join(S)
    caught.value.args = (caught.value,)  # a cycle, as tracebacks make them
    del caught
    gc.collect()
    assert left_open == []


def test_a_whole_task_goes_through_a_proxy_that_cuts_every_connection(tmp_path: Path) -> None:
    """Calls, polls and publishes of client and agent alike."""
    with FaultyProxy(cut_after=4000) as proxy, _node_behind(proxy) as node, Network(node) as network:
        network.agent(lambda task: f"got {task.request_parts[0].text}", name="behind_a_proxy")
        client = network.client()
        texts = [client.run("behind_a_proxy", [text_part(str(n))], timeout=3 * S).text for n in range(15)]
        assert texts == [f"got {n}" for n in range(15)]
        assert proxy.cuts > 0


def _node_behind(proxy: FaultyProxy) -> Node:
    node = Node(NodeConfig(public_base=f"http://{proxy.origin}")).start()
    proxy.target = f"127.0.0.1:{node.port}"
    return node
