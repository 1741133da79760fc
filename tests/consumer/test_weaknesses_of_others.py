"""What an earlier client of the protocol got wrong: a test for each. Those that have a better place are there."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from published_tasks import DONE, RPC, S, World, announced, artifact, messages, rpc, said

from blocks_network import FileUploadError, TaskClient, TokenResult, presigned_upload_flow, text_part
from blocks_network.consumer import following, record
from blocks_network.errors import RpcError
from blocks_network.testing.network import Network
from blocks_network.transport.files import post_form
from blocks_network.transport.http import POOL

CHANNEL = "u.ada.scripted"
HISTORY = f"/v3/history/sub-key/sub-free/channel/{CHANNEL}"
NUMBERS = itertools.count(1)
POLL = f"/v2/subscribe/sub-free/{CHANNEL}/0"


class Script:
    """A network whose history and deliveries the test writes; after them a poll is held."""

    def __init__(self, platform: Any) -> None:
        self.platform, self.ended = platform, threading.Event()
        self.task_id = f"scripted-{next(NUMBERS)}"
        self.sessions: list[Any] = []
        document = platform.document()
        self.client = TaskClient.create("free", document, token_provider=lambda: TokenResult("t", 600, "ada"))
        self.platform.answer(POLL, self.held)

    def held(self, call: Any) -> tuple[int, dict[str, Any]]:
        self.ended.wait(S)
        return 200, {"t": {"t": "19000000000000000", "r": 1}, "m": []}

    def history(self, *events: tuple[Any, dict[str, Any]]) -> None:
        told = [{"timetoken": at, "message": {"taskId": self.task_id, **event}} for at, event in events]
        self.platform.answer(HISTORY, (200, {"status": 200, "channels": {CHANNEL: told}}))

    def delivers(self, *polls: list[tuple[int, dict[str, Any]]]) -> None:
        answers = [
            (
                200,
                {
                    "t": {"t": str(17_000_000_000_000_000 + number), "r": 1},
                    "m": [{"c": CHANNEL, "d": event, "p": {"t": str(at), "r": 1}, "i": "a"} for at, event in poll],
                },
            )
            for number, poll in enumerate(polls)
        ]
        self.platform.answer(POLL, *answers, self.held)

    def send(self, **blocks: Any) -> Any:
        given = {"readToken": "p0", "streamChannels": {"status": CHANNEL}, **blocks}
        self.platform.answer(RPC, rpc({"taskId": self.task_id, "extensions": {"blocks": given}}))
        self.sessions.append(self.client.send_message(agent_name="writer"))
        return self.sessions[-1]


@pytest.fixture
def script(platform: Any) -> Iterator[Script]:
    made = Script(platform)
    yield made
    for session in made.sessions:
        session.close()
    made.ended.set()
    made.client.destroy()


# --- losing or doubling ---


def test_progress_of_the_time_before_we_listened_reaches_late_callbacks(world: World) -> None:
    session = world.send(before=(said("a"), said("b")))
    told: list[Any] = []
    session.on_progress(lambda event: told.append(event.message))
    assert told == ["a", "b"]
    assert messages(session.list_events()) == ["a", "b"]


def test_events_between_the_subscription_and_the_callback_are_replayed(world: World) -> None:
    session = world.send(cursor=True)
    world.tell(session.task_id, said("a"))
    next(iter(session))
    told: list[Any] = []
    session.on_event(lambda event: told.append(event.message))
    assert told == ["a"]


def test_an_event_that_history_does_not_show_yet_is_not_lost(script: Script) -> None:
    """With an empty history the channel is read from its beginning, not from now."""
    script.history()
    script.delivers([(16_000_000_000_000_000, said("early")), (16_000_000_000_000_001, DONE)])
    session = script.send()
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["early"]
    first = script.platform.to(POLL)[0]
    assert "tt=1000&" in first.path + "&"


def test_timetokens_are_compared_as_numbers(script: Script) -> None:
    """As texts, "9..." of fifteen digits would come after "1..." of sixteen."""
    late, early = 1_000_000_000_000_000, 999_999_999_999_999
    script.history((str(late), said("second")), (str(early), said("first")))
    session = script.send()
    assert messages(session.list_events()) == ["first", "second"]


def test_a_waiter_and_an_announcement_that_meet_do_not_miss_each_other(world: World) -> None:
    for _ in range(15):
        session = world.send(cursor=True)
        found: list[Any] = []
        waiter = threading.Thread(target=lambda session=session, found=found: found.append(session.wait_for_stream()))
        waiter.start()
        world.tell(session.task_id, announced("one"))
        waiter.join(S)
        assert [ref.descriptor.stream_id for ref in found] == ["one"]
        session.close()


@pytest.mark.parametrize("late", [False, True])
def test_the_terminal_event_is_json_however_it_is_had(world: World, late: bool) -> None:
    session = world.send(before=(said("a"), DONE) if late else (), cursor=not late)
    if not late:
        world.tell(session.task_id, DONE)
    told: list[Any] = [session.wait_for_terminal(S)]
    session.on_terminal(told.append)
    for event in told:
        assert json.loads(json.dumps(event.raw))["state"] == "completed"
    assert len(told) == 2


def test_a_terminal_that_comes_while_its_callback_registers_is_told_once(world: World) -> None:
    for _ in range(15):
        session = world.send(cursor=True)
        told: list[Any] = []
        telling = threading.Thread(target=world.tell, args=(session.task_id, DONE))
        telling.start()
        session.on_terminal(told.append)
        session.wait_for_terminal(S)
        telling.join(S)
        assert len(told) == 1


def test_an_artifact_that_is_announced_after_the_terminal_is_kept(script: Script) -> None:
    script.history()
    script.delivers([(11, DONE)], [(12, artifact("uploaded late")), (13, said("too late"))])
    session = script.send()
    told = threading.Event()
    session.on_artifact(lambda event: told.set())
    session.wait_for_terminal(S)
    assert told.wait(S)
    assert [session.download_artifact(ref).data for ref in session.list_artifacts()] == [b"uploaded late"]
    assert session.is_closed
    assert "too late" not in messages(session.list_events())


def test_a_session_stops_lingering_by_itself_and_when_it_is_closed(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LINGER_S", 0.05)
    script.history()
    script.delivers([(11, DONE)])
    session = script.send()
    session.wait_for_terminal(S)
    assert _thread_ends(f"blocks-subscription-task-{session.task_id}")
    monkeypatch.setattr(following, "LINGER_S", 60.0)
    script.delivers([(11, DONE)])
    session = script.send()
    session.wait_for_terminal(S)
    session.close()
    assert _thread_ends(f"blocks-subscription-task-{session.task_id}")


def _thread_ends(name: str) -> bool:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(S)
            return not thread.is_alive()
    return True


def test_a_message_whose_answer_was_lost_is_sent_again_under_the_same_key(platform: Any) -> None:
    platform.answer(RPC, rpc({"taskId": "t-1", "state": "completed", "idempotent": True}))
    with FaultyProxy(platform.url.removeprefix("http://"), cut_after=20) as proxy:
        client = TaskClient("sub", "free", base_url=f"http://{proxy.origin}")
        platform.answers[RPC].appendleft(lambda call: (setattr(proxy, "cut_after", None), rpc({"taskId": "t-1"}))[1])
        platform.answer("/api/v1/auth/task-read-token", (403, {"error": "not now"}))
        session = client.send_message(agent_name="a")
        assert session.task_id == "t-1"
        first, second = platform.to(RPC)[:2]
        assert first.body["params"]["idempotencyKey"] == second.body["params"]["idempotencyKey"] != ""
        assert proxy.cuts == 1
        POOL.close_idle()


def test_a_factory_that_fails_does_not_hide_the_task(world: World) -> None:
    def torn() -> Any:
        raise LookupError("no PubNub today")

    world.client._link._create_session_pubnub = torn
    session = world.send(before=(said("a"), DONE))
    assert session.task_id.startswith("task-")
    assert session.wait_for_terminal(S).state == "completed"


def test_the_timer_and_a_401_share_one_renewal(platform: Any) -> None:
    """Its refresh token is good for one use."""
    document = platform.document()
    first = {"accessToken": "old", "refreshToken": "r-1", "expiresIn": 1, "userId": "ada"}
    platform.answer("/api/v1/auth/agent/consumer-token", (200, first))
    renewing, both = threading.Event(), threading.Event()

    def renewed(call: Any) -> tuple[int, dict[str, Any]]:
        renewing.set()
        both.wait(S)
        return 200, {"accessToken": "new", "refreshToken": "r-2", "expiresIn": 600}

    platform.answer("/api/v1/auth/agent/refresh", renewed)

    def listed(call: Any) -> tuple[int, dict[str, Any]]:
        both.set()
        return rpc({"tasks": []}) if call.headers["Authorization"] == "Bearer new" else (401, {"error": "expired"})

    platform.answer(RPC, listed)
    with TaskClient.create("free", document, api_key="bk_1") as client:
        assert renewing.wait(S)  # by the timer, a second after the start
        assert client.list_tasks().tasks == []
    assert [call.body for call in platform.to("/api/v1/auth/agent/refresh")] == [{"refreshToken": "r-1"}]


# --- slow ---


def test_a_send_is_one_call_and_no_new_connection(script: Script) -> None:
    """Neither time nor history is asked for when the network gives a cursor."""
    script.send(cursor="16000000000000000").close()
    before = len(script.platform.calls)
    script.send(cursor="16000000000000000").close()
    asked = [call.path.partition("?")[0] for call in script.platform.calls[before:]]
    assert asked.count(RPC) == 1
    assert set(asked) <= {RPC, POLL}


def test_calls_of_one_client_share_a_connection(platform: Any) -> None:
    POOL.close_idle()
    platform.answer(RPC, rpc({"tasks": []}))
    client = TaskClient("sub", "free", base_url=platform.url)
    for _ in range(5):
        client.list_tasks()
    (idle,) = [entries for (_, _, port), entries in POOL._idle.items() if f":{port}" in platform.url]
    assert len(idle) == 1


def test_the_trust_store_is_read_once() -> None:
    assert POOL.tls_context() is POOL.tls_context()


def test_a_long_history_does_not_stay_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of plain progress the newer half is kept; artifacts and the end always."""
    monkeypatch.setattr(record, "MAX_ENTRIES", 40)
    session = world.connect(artifact("kept"), *(said(str(number)) for number in range(120)), DONE)
    assert len(session.list_events()) <= 42
    assert messages(session.list_events())[-1] == "119"
    assert len(session.list_artifacts()) == 1
    assert session.state == "completed"


def test_a_replay_that_is_slow_does_not_hold_up_what_arrives(world: World) -> None:
    session = world.send(before=(artifact("first"),))
    inside, release = threading.Event(), threading.Event()

    def slowly(event: Any) -> None:
        inside.set()
        release.wait(S)

    registering = threading.Thread(target=session.on_artifact, args=(slowly,))
    registering.start()
    assert inside.wait(S)
    world.tell(session.task_id, artifact("second"), said("told"))
    assert "told" in [event.message for event in _until(session, "told")]
    assert len(session.list_artifacts()) == 2
    release.set()
    registering.join(S)


def _until(session: Any, message: str) -> Iterator[Any]:
    for event in session:
        yield event
        if event.message == message:
            return


def test_a_predicate_may_look_at_its_session(world: World) -> None:
    session = world.send(before=(announced("one"), announced("two")))
    ref = session.wait_for_stream_where(lambda ref: len(session.list_streams()) == 2, timeout=S)
    assert ref.descriptor.stream_id == "one"


# --- wrong or ugly ---


def test_an_empty_artifact_is_an_artifact(world: World, tmp_path: Path) -> None:
    session = world.send(before=(artifact("", fileName="empty.txt"), artifact("x", fileName="x.txt"), DONE))
    assert session.download_artifact(session.list_artifacts()[0]).data == b""
    assert [Path(path).read_bytes() for path in session.save_artifacts(tmp_path)] == [b"", b"x"]


def test_callbacks_come_and_go_from_all_threads_while_events_arrive(world: World) -> None:
    session = world.send(cursor=True)
    ending = threading.Event()
    faults: list[BaseException] = []

    def restless() -> None:
        try:
            while not ending.is_set():
                seen: list[int] = []
                session.on_event(lambda event, seen=seen: seen.append(int(event.message)))()
                assert seen == sorted(set(seen))
        except BaseException as fault:  # noqa: BLE001 - it is raised below
            faults.append(fault)

    threads = [threading.Thread(target=restless) for _ in range(4)]
    for thread in threads:
        thread.start()
    steady: list[str] = []
    session.on_progress(lambda event: steady.append(event.message))
    for number in range(50):
        world.tell(session.task_id, said(str(number)))
    for event in session:
        if event.message == "49":
            break
    ending.set()
    for thread in threads:
        thread.join(S)
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert (faults, steady) == ([], [str(number) for number in range(50)])


def test_a_file_beyond_what_the_network_takes_is_refused_before_the_first_byte(platform: Any, tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as huge:
        huge.truncate(1024 * 1024 * 1024 + 1)
    with pytest.raises(FileUploadError, match="not sent"):
        presigned_upload_flow(
            base_url=platform.url,
            file_data=path,
            file_name="huge.bin",
            mime_type="application/octet-stream",
            role="consumer",
            agent_name="a",
        )
    assert platform.calls == []


def test_file_names_cannot_break_out_of_an_uploads_form(echoing_server: Any) -> None:
    name = 'a"; name="key\r\nX-Evil: 1\r\n\r\nb'
    for _ in range(2):
        post_form(echoing_server.url, [("key", "v")], b"content", file_name=name, mime_type="text/plain")
    bodies = [body.decode() for body in echoing_server.bodies]
    assert all("\r\nX-Evil" not in body and body.count("Content-Disposition") == 2 for body in bodies)
    boundaries = {body.partition("\r\n")[0] for body in bodies}
    assert len(boundaries) == 2


@pytest.fixture
def echoing_server() -> Iterator[Any]:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        bodies: list[bytes] = []  # noqa: RUF012 - of this class, which is made for one test
        url = ""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests have their own words."""

    server = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_network_said_is_in_the_error(platform: Any) -> None:
    platform.answer(RPC, (402, {"error": "the account is empty", "code": "NO_FUNDS"}))
    with pytest.raises(RpcError, match="the account is empty") as caught:
        TaskClient("sub", "free", base_url=platform.url).list_tasks()
    assert caught.value.code == 402


def test_one_wait_of_many_is_as_long_as_it_was_told(world: World) -> None:
    """To within 50 ms: the best of some tries, as the machine may be busy with something else."""
    session = world.send(cursor=True)
    for timeout in (0.0, 0.1):
        over = []
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                session.wait_for_terminal(timeout)
            over.append(time.monotonic() - began - timeout)
        assert min(over) >= 0
        assert min(over) < 0.05


def test_sessions_of_one_client_run_beside_each_other_on_a_real_network(blocks: Network) -> None:
    blocks.agent(lambda task: task.request_parts[0].text, name="beside", concurrency=0)
    client = blocks.client()
    sessions = [client.send_message(agent_name="beside", request_parts=[text_part(str(n))]) for n in range(20)]
    assert [session.result(S).text for session in sessions] == [str(n) for n in range(20)]
