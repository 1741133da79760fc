"""What a node tells of itself: its metrics, and the access log when it is wanted."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator

import httpx
import pytest

from blocks_network.logs import ACCESS
from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.config import NodeConfig
from blocks_network.server.metrics import REASONS_MAX, Metrics
from blocks_network.server.node import Node
from blocks_network.server.outcomes import Outcome


class Reader:
    """A node, and a client that may read and write the channel `room`."""

    def __init__(self, node: Node) -> None:
        self.node, self.client = node, httpx.Client(base_url=node.base_url)
        self.keyset = node.keysets.by_name("network")
        bits = {"room": Bits.READ | Bits.WRITE}
        self.token = CapabilityTokens().mint(self.keyset, ttl_minutes=5, channels=bits)
        self.allowed = {"auth": self.token, "uuid": "me"}
        self.publish_path = f"/publish/{self.keyset.publish_key}/{self.keyset.subscribe_key}/0/room/0/1"
        self.subscribe_path = f"/v2/subscribe/{self.keyset.subscribe_key}/room/0"

    def metrics(self) -> dict[str, float]:
        lines = self.client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def wait_for_polls(self, number: int) -> None:
        """Asks until so many wait: each question is a turn of the node's loop."""
        assert any(self.metrics()["blocks_waiting_polls"] == number for _ in range(1_000))

    def poll(self) -> socket.socket:
        """A poll that waits."""
        cursor = self.client.get(self.subscribe_path, params={**self.allowed, "tt": "0"}).json()["t"]["t"]
        asked = httpx.Request(
            "GET", self.node.base_url + self.subscribe_path, params=self.allowed | {"tt": cursor, "tr": "1"}
        )
        wire = socket.create_connection(("127.0.0.1", self.node.port), timeout=10)
        wire.sendall(b"GET " + asked.url.raw_path + b" HTTP/1.1\r\nhost: t\r\n\r\n")
        return wire


@pytest.fixture
def reader() -> Iterator[Reader]:
    with Node() as node:
        reading = Reader(node)
        with reading.client:
            yield reading


def test_publishes_waiting_polls_and_deliveries_are_counted(reader: Reader) -> None:
    with reader.poll() as wire:
        reader.wait_for_polls(1)
        assert reader.client.get(reader.publish_path, params=reader.allowed).status_code == 200
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        assert len(json.loads(answer.read())["m"]) == 1
        answer.close()
    now = reader.metrics()
    assert now["blocks_waiting_polls"] == 0
    assert now["blocks_delivered_messages_total"] == 1
    assert now['blocks_published_messages_total{kind="message"}'] == 1
    assert now["blocks_tail_bytes"] > 0
    assert now["blocks_log_lag_seconds"] == 0
    assert now["blocks_presence_records"] == 1
    timed = 'blocks_request_seconds_count{door="gateway",operation="%s"}'
    assert now[timed % "publish"] == 1
    assert now[timed % "subscribe"] == 1  # the handshake: how long a poll was held says nothing


def test_refusals_of_both_doors_are_counted_by_their_reason(reader: Reader) -> None:
    reader.client.get(reader.subscribe_path)
    reader.client.get("/v2/subscribe/sub-c-unknown/room/0")
    reader.client.post("/api/v1/rpc", json={})
    bearer = {"Authorization": f"Bearer {reader.node.api_key}"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"taskId": "none"}}
    reader.client.post("/api/v1/rpc", json=call, headers=bearer)
    other = {"jsonrpc": "2.0", "id": 2, "method": "Nothing"}
    reader.client.post("/api/v1/rpc", json=[{**call, "method": "ListTasks", "params": {}}, other], headers=bearer)
    reader.client.get("/api/v1/nothing/of/this/name")
    now = reader.metrics()
    refused = "blocks_refusals_total{door=%s,reason=%s}"
    for door, reason in (
        ("gateway", "denied"),
        ("gateway", "unknown_keyset"),
        ("platform", "UNAUTHENTICATED"),
        ("platform", "TaskNotFound"),
        ("platform", "RpcError"),
        ("platform", "NOT_FOUND"),
    ):
        assert now[refused % (json.dumps(door), json.dumps(reason))] == 1
    assert now['blocks_requests_total{door="platform",operation="rpc/GetTask",status="200"}'] == 1
    assert now['blocks_requests_total{door="platform",operation="rpc/batch",status="200"}'] == 1
    assert now['blocks_requests_total{door="platform",operation="none",status="404"}'] == 1
    assert not any("nothing" in name for name in now)  # no name from outside is a label


def test_reasons_do_not_grow_without_bound() -> None:
    metrics = Metrics()
    for number in range(2 * REASONS_MAX):
        metrics.observe(Outcome("gateway", "publish", "GET", "::1", 400, f"reason {number}", 0.001))
    shown = [line for line in metrics.render().decode().splitlines() if line.startswith("blocks_refusals_total")]
    assert len(shown) == REASONS_MAX + 1
    assert f'blocks_refusals_total{{door="gateway",reason="other"}} {float(REASONS_MAX)}' in shown


def test_there_is_no_access_log_unless_it_is_wanted(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS):
        reader.client.get("/time/0")
        reader.client.get("/config.json")
    assert [record for record in caplog.records if record.name == ACCESS] == []


def test_the_access_log_says_who_asked_what_and_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS), Node(NodeConfig(access_log=True)) as node:
        reading = Reader(node)
        with reading.client as client:
            client.get(reading.publish_path, params={**reading.allowed, "signature": "v2.sig", "meta": '"secret"'})
            client.get(reading.publish_path, params=reading.allowed)
            revoked = f"/v3/pam/{reading.keyset.subscribe_key}/grant/{reading.token}"
            client.delete(revoked)
            bearer = {"Authorization": f"Bearer {node.api_key}"}
            client.post("/api/v1/rpc?agentName=secret", json={}, headers=bearer)
    lines = [record.getMessage() for record in caplog.records if record.name == ACCESS]
    told = [json.loads(line) for line in lines]
    assert [(one["door"], one["method"], one["operation"], one["status"]) for one in told] == [
        ("gateway", "GET", "publish", 403),
        ("gateway", "GET", "publish", 200),
        ("gateway", "DELETE", "revoke", 403),
        ("platform", "POST", "/api/v1/rpc", 200),
    ]
    assert told[0]["reason"] == "denied"
    assert told[1]["reason"] is None
    assert all(one["client"] == "127.0.0.1" and one["ms"] > 0 and one["time"].endswith("Z") for one in told)
    whole = "".join(lines)
    for secret in (reading.token, node.api_key, reading.keyset.publish_key, reading.keyset.subscribe_key, "v2.sig"):
        assert secret not in whole
    assert "room" not in whole
    assert "secret" not in whole
