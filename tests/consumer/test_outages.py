"""Sessions while the network goes away, comes back, breaks connections, falls silent, or talks nonsense."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from published_tasks import DONE, READ_TOKEN, RPC, GatewayNode, S, World, artifact, messages, rpc, said

from blocks_network import TaskClient, TaskContext, TokenResult, text_part
from blocks_network.backoff import Backoff
from blocks_network.errors import BlocksError, RpcError, TransportError
from blocks_network.server.access.permissions import Bits
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


def test_the_peer_of_a_silent_connection_is_probed(world: World) -> None:
    """What a vanished machine does not answer, the operating system notices."""
    import socket

    with FaultyProxy(world.gateway.origin) as proxy:
        connection = POOL._open(("http", *_peer(proxy.origin)), None, S)
        assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        connection.close()


def _peer(origin: str) -> tuple[str, int]:
    host, _, port = origin.partition(":")
    return host, int(port)


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


# --- a network that speaks otherwise ---


@pytest.fixture
def nonsense() -> Iterator[Any]:
    """Serves whatever the test says: `say(path) -> (status, content type, body, delay)`."""

    class Said:
        url = ""
        say: Callable[[str], tuple[int, str, bytes]]

    said = Said()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, body = said.say(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Tests have their own words."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    said.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield said
    POOL.close_idle()
    server.shutdown()
    server.server_close()
    thread.join()


PAGE = b"<html><body>Please sign in to Caf\xc3\xa9 WLAN</body></html>"
WRONG = [
    (200, "text/html", PAGE),
    (200, "application/json", b'{"jsonrpc": "2.0", "id": "1", "result": '),
    (200, "application/json", b"[]"),
    (200, "application/json", b'"yes"'),
    (200, "application/json", b""),
    (200, "application/json", b'{"result": {"taskId": 7}}'),
    (200, "application/json", b'{"result": []}'),
    (200, "application/json", b'{"error": "no object"}'),
    (200, "application/octet-stream", b"\xff\xfe\x00"),
    (302, "text/html", PAGE),
    (404, "text/html", PAGE),
    (500, "text/html", PAGE),
]


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: f"{answer[0]}-{answer[2][:24]!r}")
def test_an_answer_of_another_kind_is_an_error_of_ours(
    nonsense: Any, answer: tuple[int, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks_network.api.tasks.RETRY", Backoff(first_s=0.001, factor=1, cap_s=0.001))
    nonsense.say = lambda path: answer
    client = TaskClient("sub", "free", base_url=nonsense.url)
    with pytest.raises(RpcError) as caught:
        client.send_message(agent_name="a")
    assert "\n" not in str(caught.value)
    with pytest.raises(RpcError):
        client.run("a", "x")


@pytest.mark.parametrize("answer", WRONG[:5] + WRONG[8:], ids=lambda answer: f"{answer[0]}-{answer[2][:24]!r}")
def test_a_document_of_another_kind_is_an_error_that_names_its_address(
    nonsense: Any, answer: tuple[int, str, bytes]
) -> None:
    nonsense.say = lambda path: answer
    with pytest.raises(BlocksError) as caught:
        TaskClient.create("free", f"{nonsense.url}/config.json", api_key="bk_1")
    assert "config" in str(caught.value).lower()


def test_polls_that_are_answered_with_a_page_are_an_outage_that_ends(
    world: World, nonsense: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captive portal in the way: the session says so once, goes on trying, and reads what came meanwhile."""
    gateway = world.gateway
    portal = threading.Event()

    def say(path: str) -> tuple[int, str, bytes]:
        if portal.is_set():
            return 200, "text/html", PAGE
        answer = POOL.request("GET", f"http://{gateway.origin}{path}", read_timeout_s=S)
        return answer.status_code, "application/json", answer.content

    nonsense.say = say
    portal.set()
    keys = PubNubKeys(gateway.keyset.subscribe_key, None, nonsense.url.removeprefix("http://"), False)
    world.client._link._create_session_pubnub = lambda: make_client(keys, user_id="in-the-cafe")
    session = world.send(cursor=True, before=(said("a"),))
    faults: list[Exception] = []
    heard = threading.Event()
    session.on_error(lambda fault, context: (faults.append(fault), heard.set()))
    assert heard.wait(S)
    assert isinstance(faults[0], TransportError)
    portal.clear()
    world.tell(session.task_id, said("b"), DONE)
    assert session.wait_for_terminal(S).state == "completed"
    assert messages(session.list_events()) == ["a", "b"]
    assert len(faults) == 1


def test_a_network_that_answers_slowly_is_waited_for_and_no_longer_than_said(platform: Any) -> None:
    release = threading.Event()

    def slow(call: Any) -> tuple[int, dict[str, Any]]:
        release.wait(S)
        return rpc({"tasks": []})

    platform.answer(RPC, slow)
    client = TaskClient("sub", "free", base_url=platform.url)
    asking = threading.Thread(target=client.list_tasks)
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    release.set()
    asking.join(S)
    assert not asking.is_alive()


def test_a_call_without_an_answer_is_a_timeout_and_names_what_to_check(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    platform.answer(RPC, lambda call: (release.wait(S), rpc({"tasks": []}))[1])
    monkeypatch.setattr("blocks_network.api.caller.Caller._once", _hasty(platform))
    client = TaskClient("sub", "free", base_url=platform.url)
    began = time.monotonic()
    with pytest.raises(RpcError, match="did not answer"):
        client.list_tasks()
    assert time.monotonic() - began < S
    release.set()


def _hasty(platform: Any) -> Any:
    from blocks_network.api.caller import Caller

    once = Caller._once

    def hasty(self: Caller, *args: Any) -> Any:
        return once(self, *args[:-1], 0.05)

    return hasty


# --- what a network delivers twice, or in another order ---


class Scripted:
    """A gateway that delivers exactly the envelopes that the test says, and then nothing."""

    def __init__(self, platform: Any) -> None:
        self.platform, self.silent = platform, threading.Event()
        document = platform.document()
        self.client = TaskClient.create("free", document, token_provider=lambda: TokenResult("t", 600, "ada"))

    def send(self, *polls: list[tuple[int, dict[str, Any]]]) -> Any:
        channel = "u.ada.scripted"
        answers: list[Any] = []
        for number, poll in enumerate(polls, 1):
            envelopes = [
                {"c": channel, "d": {"taskId": "scripted", **event}, "p": {"t": str(at), "r": 1}, "i": "agent"}
                for at, event in poll
            ]
            answers.append((200, {"t": {"t": str(17_000_000_000_000_000 + number), "r": 1}, "m": envelopes}))
        answers.append(lambda call: (self.silent.wait(S), (200, {"t": {"t": "18", "r": 1}, "m": []}))[1])
        self.platform.answer(f"/v2/subscribe/sub-free/{channel}/0", *answers)
        blocks = {"readToken": "p0", "streamChannels": {"status": channel}, "cursor": "16000000000000000"}
        self.platform.answer(RPC, rpc({"taskId": "scripted", "extensions": {"blocks": blocks}}))
        return self.client.send_message(agent_name="writer")


@pytest.fixture
def scripted(platform: Any) -> Iterator[Scripted]:
    made = Scripted(platform)
    yield made
    made.silent.set()
    made.client.destroy()


def test_what_is_delivered_twice_is_told_once(scripted: Scripted) -> None:
    a, b, done = (11, said("a")), (12, said("b")), (13, DONE)
    session = scripted.send([a, b], [a, b], [b, a], [a, b, done, done])
    told: list[str] = []
    session.on_event(lambda event: told.append(event.message or event.type))
    session.wait_for_terminal(S)
    assert told == ["a", "b", "terminal"]
    assert messages(session.list_events()) == ["a", "b"]


def test_two_events_of_one_text_are_two_events(scripted: Scripted) -> None:
    session = scripted.send([(11, said("a")), (12, said("a"))], [(13, DONE)])
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["a", "a"]


def test_what_comes_out_of_order_comes_whole(scripted: Scripted) -> None:
    """The order is the network's; what it delivers late is told late, not lost."""
    session = scripted.send([(13, said("c")), (11, said("a"))], [(12, said("b"))], [(14, DONE)])
    session.wait_for_terminal(S)
    assert sorted(messages(session.list_events())) == ["a", "b", "c"]


def test_of_two_terminals_the_first_holds_whatever_they_say(scripted: Scripted) -> None:
    forced = {"type": "terminal", "state": "canceled", "reason": "terminated"}
    session = scripted.send([(11, said("a")), (12, forced), (13, DONE)], [(14, DONE)])
    told: list[tuple[str | None, str | None]] = []
    session.on_terminal(lambda event: told.append((event.state, event.get("reason"))))
    assert session.wait_for_terminal(S).state == "canceled"
    assert told == [("canceled", "terminated")]
    assert (session.state, session.list_events()[-1].get("reason")) == ("canceled", "terminated")


def test_an_artifact_beside_the_terminal_is_kept(scripted: Scripted) -> None:
    session = scripted.send([(11, artifact("x")), (12, DONE)])
    assert session.result(S).text == "x"


# --- identities that end ---


def test_a_bearer_and_a_read_token_that_end_while_a_session_waits_are_both_renewed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network refuses the read token; asked for another, it refuses the bearer; with a new one all goes on."""
    monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 0.0)  # the bearer was acquired a moment ago
    elsewhere = world.token("u.org.somewhere-else")
    task_id = "task-both-ended"
    channel = f"u.org.{task_id}"
    fresh = world.token(channel)

    def read_token(call: Any) -> tuple[int, dict[str, Any]]:
        if call.headers["Authorization"] == "Bearer t-1":
            return 401, {"error": "the token has expired", "code": "TOKEN_EXPIRED"}
        return 200, {"pamToken": fresh, "channel": channel, "ttlMinutes": 60}

    world.platform.answer(READ_TOKEN, read_token)
    session = world.send(task_id=task_id, cursor=True, before=(said("a"),), blocks={"readToken": elsewhere})
    world.tell(task_id, said("b"), DONE)
    assert session.wait_for_terminal(S).state == "completed"
    assert messages(session.list_events()) == ["a", "b"]
    assert session.read_token == fresh


def test_a_read_token_that_ends_during_a_poll_is_renewed_without_a_gap(world: World, gateway: GatewayNode) -> None:
    """Revoked in the middle of a held poll, as an expiry is; the session asks for another and misses nothing."""
    task_id = "task-revoked-midway"
    channel = f"u.org.{task_id}"
    another = gateway.mint(ttl_minutes=30, channels={channel: Bits.READ})
    world.platform.answer(READ_TOKEN, (200, {"pamToken": another, "channel": channel, "ttlMinutes": 30}))
    session = world.send(task_id=task_id, cursor=True, before=(said("a"),))
    token = session.read_token
    assert token is not None
    assert next(iter(session)).message == "a"
    sender = gateway.client("the-owner", secret=True)
    sender.revoke_token(token).sync()
    world.tell(task_id, said("b"), DONE)
    assert session.wait_for_terminal(S).state == "completed"
    assert messages(session.list_events()) == ["a", "b"]
    assert session.read_token == another


def test_a_storm_of_401_from_fifty_threads_is_one_renewal(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 0.0)  # the first token was acquired a moment ago
    document = platform.document()
    platform.answer(
        "/api/v1/auth/agent/consumer-token",
        (200, {"accessToken": "old", "refreshToken": "r-1", "expiresIn": 600, "userId": "ada"}),
    )

    def renewed(call: Any) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 60.0)  # whoever comes late shares this one
        return 200, {"accessToken": "new", "refreshToken": "r-2", "expiresIn": 600}

    platform.answer("/api/v1/auth/agent/refresh", renewed)

    def listed(call: Any) -> tuple[int, dict[str, Any]]:
        return rpc({"tasks": []}) if call.headers["Authorization"] == "Bearer new" else (401, {"error": "expired"})

    platform.answer(RPC, listed)
    with TaskClient.create("free", document, api_key="bk_1") as client:
        together = threading.Barrier(50)
        outcomes: list[int] = []

        def call() -> None:
            together.wait(S)
            outcomes.append(len(client.list_tasks().tasks))

        threads = [threading.Thread(target=call) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(S)
        assert outcomes == [0] * 50
    assert len(platform.to("/api/v1/auth/agent/refresh")) == 1
    assert len(platform.to("/api/v1/auth/agent/consumer-token")) == 1


def test_a_key_that_is_revoked_ends_the_calls_with_its_reason_and_not_the_sessions(blocks: Network) -> None:
    from blocks_network.api.caller import Caller
    from blocks_network.api.keys import create_key, revoke_key

    release = threading.Event()
    blocks.agent(lambda task: release.wait(S) and "late", name="outlives_its_key")
    platform = Caller(blocks.base_url)
    key = create_key(platform, blocks.api_key, label="soon revoked")
    with blocks.client(api_key=key.api_key) as client:
        session = client.send_message(agent_name="outlives_its_key")
        revoke_key(platform, blocks.api_key, key.info.key_id)
        with pytest.raises(BlocksError, match="API key"):
            client.list_tasks()
        with pytest.raises(BlocksError, match="API key"):
            client.send_message(agent_name="outlives_its_key")
        with pytest.raises(RuntimeError, match="API_KEY_INVALID"):
            blocks.client(api_key=key.api_key)
        release.set()
        assert session.wait_for_terminal(S).state == "completed"
