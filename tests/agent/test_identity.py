"""Who an instance is: its name and scaling, its bearer over time, and the answers that end it or do not."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from control_desk import WAIT_S, Desk

from blocks_network import AgentAuth, AgentHandle, TaskContext
from blocks_network.agent import identity as identity_module
from blocks_network.agent import registration
from blocks_network.agent.instance import Instance
from blocks_network.agent.loading import derive_card
from blocks_network.agent.options import AgentInstanceOptions, check_options
from blocks_network.agent.registration import connect_payload
from blocks_network.agent_registry import register_agent, remove_agent, with_retry
from blocks_network.api import caller as caller_module
from blocks_network.auth import keeper, provider
from blocks_network.errors import AgentAuthFatalError, ApiError, BlocksError, ConfigurationError, TransportError
from blocks_network.testing.network import Network
from blocks_network.transport.faults import ConnectFailed

LATER_MS = "99999999999.5"


class Platform:
    """A network's platform that says what the test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.refusals: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.last_answer = threading.Event()
        """What the twentieth refusal of /work waits for."""
        self._refused, self._held = 0, 0
        self._lock = threading.Lock()
        self._valid, self._used = "jwt-0", set[str]()
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
                status, answer = platform.answer(self.path, dict(self.headers), body)
                raw = json.dumps(answer).encode()
                if platform._held == threading.get_ident():
                    platform.last_answer.wait(WAIT_S)
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("X-Write-Affinity", LATER_MS)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size, daemon_threads = 64, True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, path: str, headers: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.asked.append((path, headers, body))
            step = path.rpartition("/")[2]
            if self.refusals.get(step):
                return self.refusals[step].pop(0)
            if step == "work":
                valid = headers["Authorization"] == f"Bearer {self._valid}"
                if valid:
                    return 200, {"done": True}
                self._refused += 1
                self._held = threading.get_ident() if self._refused == 20 else 0
                return 401, {"error": "the token has ended"}
            if step == "refresh":
                if body["refreshToken"] in self._used:
                    return 401, {"code": "REFRESH_TOKEN_INVALID", "error": "used before"}
                self._used.add(body["refreshToken"])
            self._valid = f"jwt-{len(self.asked)}"
            refresh = f"refresh-{len(self.asked)}"
            given = {"accessToken": self._valid, "expiresIn": 900, "refreshToken": refresh}
            return 200, {**given, "agentId": "agt_1", "controlChannel": "agent.agt_1.control", "pamToken": "p"}

    def count(self, step: str) -> int:
        return sum(path.endswith(f"/{step}") for path, _, _ in self.asked)

    def end_token(self) -> None:
        self._valid = "none"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr(caller_module, "AFFINITY", caller_module.WriteAffinity())
    platform = Platform()
    yield platform
    platform.close()


@pytest.fixture
def auth(platform: Platform) -> Iterator[AgentAuth]:
    auth = AgentAuth("bk_some_key", platform.base_url)
    auth.init({"agentName": "acme", "listing": None})
    auth._keeper._renewed_at = 0.0  # long ago, as when a token ends
    yield auth
    auth.close(WAIT_S)


def work(auth: AgentAuth, platform: Platform) -> tuple[Any, int]:
    return auth.authenticated_request(f"{platform.base_url}/work", "POST", {})


def test_many_calls_that_meet_the_tokens_end_cost_one_refresh(
    platform: Platform, auth: AgentAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when one of them hears so late of it that the renewal is long done."""
    monkeypatch.setattr(keeper, "FRESH_S", 0.1)
    platform.end_token()
    answers = queue.Queue[Any]()
    together = threading.Barrier(20)

    def call() -> None:
        together.wait(WAIT_S)
        try:
            answers.put(work(auth, platform))
        except BlocksError as fault:
            answers.put(fault)

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    heard = [answers.get(timeout=WAIT_S) for _ in threads[1:]]
    threading.Event().wait(0.15)
    platform.last_answer.set()
    assert [*heard, answers.get(timeout=WAIT_S)] == [({"done": True}, 200)] * 20
    assert (platform.count("refresh"), platform.count("connect")) == (1, 1)


def test_a_refresh_token_that_is_gone_means_to_connect_again_as_before(platform: Platform, auth: AgentAuth) -> None:
    platform.end_token()
    platform.refusals["refresh"] = [(401, {"code": "REFRESH_TOKEN_INVALID", "error": "unknown"})]
    assert work(auth, platform) == ({"done": True}, 200)
    first, second = [body for path, _, body in platform.asked if path.endswith("/connect")]
    assert first == second == {"agentName": "acme"}  # and no null in it


@pytest.mark.parametrize("code", ["AGENT_FORCED_OFFLINE", "API_KEY_INVALID"])
def test_who_is_shut_out_does_not_connect_again(platform: Platform, auth: AgentAuth, code: str) -> None:
    platform.end_token()
    platform.refusals["refresh"] = [(403, {"code": code, "error": "no"})]
    with pytest.raises(AgentAuthFatalError) as raised:
        work(auth, platform)
    assert raised.value.code == code
    assert platform.count("connect") == 1


def test_the_networks_write_affinity_goes_both_ways_on_an_agents_calls(platform: Platform, auth: AgentAuth) -> None:
    work(auth, platform)
    connect, call = (headers for _, headers, _ in platform.asked)
    assert "X-Write-Affinity" not in connect
    assert call["X-Write-Affinity"] == LATER_MS
    assert call["Blocks-Protocol-Version"] == "2026-05-01"


def test_no_call_before_the_first_connect() -> None:
    with pytest.raises(RuntimeError, match="init"):
        AgentAuth("bk_key", "http://127.0.0.1:1").authenticated_request("http://127.0.0.1:1/work")
    for missing in (("", "http://127.0.0.1:1"), ("bk_key", "")):
        with pytest.raises(ValueError, match="required"):
            AgentAuth(*missing)


@pytest.mark.parametrize(
    "fault", [ApiError("busy", status=503), ApiError("busy", status=429), TransportError("cut"), ConnectFailed("no")]
)
def test_a_network_that_is_busy_or_away_for_a_moment_ends_no_start(
    blocks: Network, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    original, faults = provider.connect, [fault]

    def connect(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return original(*args)

    monkeypatch.setattr(provider, "connect", connect)
    handle = blocks.agent(lambda task: None, name="patient")
    assert handle.running
    assert faults == []


def test_a_verdict_at_connect_is_raised_at_once(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any) -> Any:
        raise ApiError("not yours", status=403)

    monkeypatch.setattr(provider, "connect", connect)
    with pytest.raises(ApiError, match="not yours"):
        blocks.agent(lambda task: None, name="refused")


def test_a_handler_that_meets_the_end_of_the_agents_identity_ends_the_instance(blocks: Network) -> None:
    heard = queue.Queue[tuple[str, BaseException]]()

    def work(task: Any) -> None:
        raise AgentAuthFatalError("the key is revoked", code="API_KEY_INVALID")

    handle = blocks.agent(work, name="revoked", on_error=lambda *fault: heard.put(fault))
    desk = Desk(blocks, handle)
    task = desk.task().start()
    assert task.terminal() == {"state": "failed", "error": "the key is revoked"}
    assert handle.wait(WAIT_S)
    assert isinstance(handle.fault, AgentAuthFatalError)
    assert {heard.get(timeout=WAIT_S)[0] for _ in range(2)} == {task.task_id, ""}
    desk.close()


def settled(handle: AgentHandle) -> dict[str, Any]:
    return handle._instance.identity.connect_payload


def test_the_environment_names_and_scales_no_agent(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGENT_NAME", "INSTANCE_ID"):
        monkeypatch.setenv(name, "leaked")
    for name in ("CONCURRENCY", "EXPECTED_INSTANCES", "MAX_PENDING_BACKLOG", "MAX_RUNNING_TIME_SEC"):
        monkeypatch.setenv(name, "77")
    monkeypatch.setenv("BLOCKS_BACKEND_URL", "http://127.0.0.1:1")
    handle = blocks.agent(lambda task: None, name="sober")
    assert handle.agent_name == "sober"
    assert handle.instance_id.startswith("AG-sober-")
    assert (settled(handle)["concurrency"], settled(handle)["expectedInstances"]) == (1, 1)
    assert not settled(handle).keys() & {"maxPendingBacklog", "maxRunningTimeSec"}
    assert "leaked" not in json.dumps(settled(handle))


def test_the_registrys_listing_and_billing_mode_win(blocks: Network) -> None:
    card = derive_card("listed", None, None, None)
    register_agent(blocks.base_url, blocks.api_key, card, listing="public")
    handle = blocks.agent(lambda task: None, name="listed", card=card, register=False, listing="private")
    assert settled(handle)["listing"] == "public"
    assert (handle.billing_mode, settled(handle)["billingMode"]) == ("free", "free")


def test_a_billing_mode_is_never_guessed(blocks: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    original = registration.read_agent

    def without_mode(*args: Any, **kwargs: Any) -> Any:
        entry = original(*args, **kwargs)
        object.__setattr__(entry, "billing_mode", "gratis")
        return entry

    monkeypatch.setattr(registration, "read_agent", without_mode)
    with pytest.raises(RuntimeError, match="missing a valid billing_mode"):
        blocks.agent(lambda task: None, name="unclear")


def test_nothing_that_is_not_known_is_sent() -> None:
    options = AgentInstanceOptions(card={"identity": {}}, agent_name="acme", handler=lambda task: None)
    assert None not in connect_payload(options, "AG-1", "free", None).values()


def test_the_options_word_beats_the_cards_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    card = {"runtime": {"maxRunningTimeSec": 60}}
    options = AgentInstanceOptions(card=card, agent_name="acme", handler=lambda task: None, max_running_time_sec=90)
    with caplog.at_level("INFO", "blocks_network"):
        check_options(options)
        assert options.running_time_s == 90
        assert connect_payload(options, "AG-1", "free", None)["maxRunningTimeSec"] == 90
    assert len([line for line in caplog.messages if "beats the card's" in line]) == 1


def test_a_control_channel_is_named_by_the_network_so_that_a_successor_has_another(
    blocks: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKS_API_KEY", blocks.api_key)
    channels = []
    for _ in range(2):
        handle = blocks.agent(lambda task: None, name="succeeded")
        channels.append(handle._instance.connection.link.channel)
        handle.stop(0)
        assert remove_agent("succeeded", blocks.base_url, reason="its test is over")
    assert len(set(channels)) == 2
    assert not any("succeeded" in channel for channel in channels)


def test_a_given_client_needs_an_address_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(identity_module, "fetch_cdm_config", fetched.append)
    options = AgentInstanceOptions(
        card={"a": 1}, agent_name="acme", handler=lambda task: None, pubnub=object(), api_key="bk_key"
    )
    with pytest.raises(ConfigurationError, match="base_url"):
        Instance(options, identity_module.InstanceIdentity.settle(options))
    assert fetched == []


TRANSIENT = ["DNS lookup failed", "Connection refused", "connection reset", "timed out", "PNERR NetworkIssues"]


@pytest.mark.parametrize("text", TRANSIENT)
def test_with_retry_goes_by_the_text_of_anybodys_fault(text: str) -> None:
    faults: list[Exception] = [OSError(text), RuntimeError(text)]

    def call() -> str:
        if faults:
            raise faults.pop()
        return "there"

    assert with_retry(call, base_delay_ms=0) == "there"
    faults = [OSError(text)] * 3
    with pytest.raises(OSError, match=text):
        with_retry(call, base_delay_ms=0)
    for verdict in (ApiError(text, status=403), ValueError("wrong")):
        faults = [verdict]
        with pytest.raises(type(verdict)):
            with_retry(call, base_delay_ms=0)


def test_the_colleague_of_a_task_is_the_agent_itself(blocks: Network) -> None:
    def work(task: Any, ctx: TaskContext) -> str:
        assert ctx.task_client is not None
        assert ctx.task_client is ctx.task_client
        return str(ctx.task_client.billing_mode)

    handle = blocks.agent(work, name="selfsame")
    assert handle.task_client is handle.task_client
    with blocks.client() as client:
        assert client.run("selfsame", "go", timeout=WAIT_S).text == "free"
