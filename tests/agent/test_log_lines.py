"""What a program finds in its log: lines it can look for, and none of those that libraries write for themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from control_desk import WAIT_S, Desk
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub
from test_connection import revoke

from blocks_network import BlocksError
from blocks_network.auth import provider
from blocks_network.cli.output import _Redacting
from blocks_network.errors import AgentAuthFatalError, TransportError
from blocks_network.testing.network import Network
from blocks_network.transport import chatter
from blocks_network.transport.chatter import keep_out_request_lines
from blocks_network.transport.pubnub import keys_of


class Lines(logging.Handler):
    """The records that carry an event."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "event"):
            self.records.append(record)

    def told(self, agent_name: str) -> list[tuple[str, int]]:
        return [(one.event, one.levelno) for one in self.records if one.agentName == agent_name]  # type: ignore[attr-defined]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    lines = Lines()
    logger = logging.getLogger("blocks_network")
    logger.addHandler(lines)
    with caplog.at_level(logging.INFO, "blocks_network"):
        yield lines
    logger.removeHandler(lines)


def test_started_is_said_when_it_is_true(blocks: Network, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = provider.connect, list[Any]()

    def connect(*args: Any) -> Any:
        seen.append(lines.told("announced"))
        return original(*args)

    monkeypatch.setattr(provider, "connect", connect)
    handle = blocks.agent(lambda task: None, name="announced")
    assert seen == [[]]
    assert lines.told("announced") == [("agent_instance_started", logging.INFO)]
    assert lines.records[-1].instanceId == handle.instance_id  # type: ignore[attr-defined]


def test_a_refused_registration_is_said(blocks: Network, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any) -> Any:
        raise AgentAuthFatalError("an administrator took this agent offline", code="AGENT_FORCED_OFFLINE")

    monkeypatch.setattr(provider, "connect", connect)
    with pytest.raises(BlocksError, match="offline"):
        blocks.agent(lambda task: None, name="unwanted")
    assert lines.told("unwanted") == [("agent_registration_failed", logging.ERROR)]


def test_the_end_of_an_identity_is_said_with_where_it_was_met(blocks: Network, lines: Lines) -> None:
    def work(task: Any) -> None:
        raise AgentAuthFatalError("the key is revoked", code="API_KEY_INVALID")

    handle = blocks.agent(work, name="cast_out")
    desk = Desk(blocks, handle)
    desk.task().start()
    assert handle.wait(WAIT_S)
    desk.close()
    assert lines.told("cast_out")[1:] == [("agent_auth_fatal", logging.ERROR)]
    assert lines.records[-1].context == "task-handler"  # type: ignore[attr-defined]


def test_an_outage_is_said_once_and_so_is_its_end(blocks: Network, lines: Lines) -> None:
    handle = blocks.agent(lambda task: None, name="cut_off")
    desk, subscription = Desk(blocks, handle), handle._instance.connection.link._subscription
    original, faults = subscription._poll, [TransportError("cut")] * 3

    def poll() -> Any:
        if faults:
            raise faults.pop()
        return original()

    subscription._poll = poll  # type: ignore[method-assign]
    assert desk.task().start().terminal() == {"state": "completed"}  # answers the poll under way; the next ones fail
    assert desk.task().start().terminal() == {"state": "completed"}
    desk.close()
    deadline = time.monotonic() + WAIT_S
    while len(lines.told("cut_off")) < 3:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert lines.told("cut_off")[1:] == [("transport_retry", logging.WARNING), ("transport_recovered", logging.INFO)]
    assert [one.getMessage().split(": ")[1] for one in lines.records[1:]] == [
        "transport retrying",
        "transport recovered",
    ]


def test_a_token_that_is_refused_is_said_once(blocks: Network, caplog: pytest.LogCaptureFixture) -> None:
    handle = blocks.agent(lambda task: "heard", name="denied_once")
    desk = Desk(blocks, handle)
    threading.Event().wait(1.1 - time.time() % 1)  # tokens of one second are the same text, revoked together
    with caplog.at_level(logging.WARNING, "blocks_network"):
        revoke(blocks, handle)
        while desk.task().start().events.get(timeout=WAIT_S)["type"] != "progress":
            continue
    desk.close()
    assert len([line for line in caplog.messages if handle.instance_id in line and "connecting again" in line]) == 1
    for word in ("PubNub", "PAM", "pubnub"):
        assert not any(word in line for line in caplog.messages if handle.instance_id in line)


def test_the_commands_show_the_event_and_no_secret() -> None:
    record = logging.makeLogRecord({"msg": "key bk_abcdefghijkl", "event": "agent_instance_started"})
    assert _Redacting("%(message)s").format(record) == "key *** event=agent_instance_started"
    assert _Redacting("%(message)s").format(logging.makeLogRecord({"msg": "plain"})) == "plain"


def test_request_lines_of_the_library_stay_out_of_the_programs_log(
    blocks: Network, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PubNub object of the program's own goes through httpx, which tells each request, token and all."""
    keys = keys_of(blocks.agent(lambda task: None, name="overheard").pubnub)
    config = PNConfiguration()
    config.subscribe_key, config.publish_key, config.user_id = keys.subscribe_key, keys.publish_key, "own"
    config.origin, config.ssl, config.daemon = keys.origin, False, True
    client = PubNub(config)
    elsewhere = f"http://localhost:{keys.origin.rpartition(':')[2]}/healthz"

    def lines() -> list[str]:
        caplog.clear()
        client.time().sync()
        httpx.get(elsewhere)
        return [record.getMessage() for record in caplog.records if record.name == "httpx"]

    with caplog.at_level(logging.INFO, "httpx"):
        (only,) = lines()
        assert elsewhere in only
        monkeypatch.setenv("BLOCKS_DEBUG_INTERNAL", "other, forward_transport")
        assert len(lines()) == 2
        monkeypatch.delenv("BLOCKS_DEBUG_INTERNAL")
        logging.getLogger("httpx").warning("http://%s/ is slow", keys.origin)
        assert caplog.messages[-1].endswith("is slow")
    client.stop()


def test_connections_of_the_library_are_told_by_their_host() -> None:
    def passes(name: str, text: str) -> bool:
        return bool(logging.getLogger(name).filter(logging.makeLogRecord({"name": name, "msg": text, "levelno": 10})))

    keep_out_request_lines("ps.pndsn.com")
    assert not passes("httpcore.connection", "connect_tcp.started host='ps.pndsn.com' port=443")
    assert not passes("httpcore.connection", "start_tls.started server_hostname='ps.pndsn.com'")
    assert passes("httpcore.connection", "connect_tcp.started host='example.org' port=443")
    assert passes("httpx", "HTTP Request: GET https://notps.pndsn.com/ 200")
    before = [list(logging.getLogger(name).filters) for name in chatter.LOGGERS]
    keep_out_request_lines("ps.pndsn.com")
    keep_out_request_lines("other.pndsn.com")
    assert [list(logging.getLogger(name).filters) for name in chatter.LOGGERS] == before
