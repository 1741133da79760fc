"""A network that answers slowly, wrongly, with a page, twice, or in another order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from published_tasks import DONE, RPC, S, World, artifact, messages, rpc, said

from blocks_network import TaskClient, TokenResult
from blocks_network.backoff import Backoff
from blocks_network.errors import BlocksError, RpcError, TransportError
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import PubNubKeys, make_client


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
        self.sessions: list[Any] = []
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
        self.sessions.append(self.client.send_message(agent_name="writer"))
        return self.sessions[-1]


@pytest.fixture
def scripted(platform: Any) -> Iterator[Scripted]:
    made = Scripted(platform)
    yield made
    for session in made.sessions:
        session.close()
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
