"""The platform API over real sockets: its conventions, who is let in with what, and tasks by JSON-RPC."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_node import AGENTS, AUTH, RPC, PlatformNode, refused

from blocks_network.api.caller import Caller
from blocks_network.api.cdm import fetch_cdm_config
from blocks_network.api.tasks import list_tasks, send_message
from blocks_network.api.tokens import anonymous_read_token, connect, consumer_token, refresh, task_read_token
from blocks_network.auth.static import StaticAuthProvider
from blocks_network.errors import AgentAuthFatalError, AnonTaskAccessDenied, ApiError, RpcError
from blocks_network.server.api.app import Conventions
from blocks_network.server.store.agents import set_forced_offline
from blocks_network.server.store.database import Database


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformNode]:
    net = PlatformNode(tmp_path_factory.mktemp("network"))
    assert net.register("worker", listing="public").status_code == 201
    assert net.register("hidden").status_code == 201
    assert net.register("dear", billingMode="paid", pricePerTask=2.5).status_code == 201
    try:
        yield net
    finally:
        net.close()


# --- conventions ---


def test_the_configuration_tells_all_that_a_client_needs(net: PlatformNode) -> None:
    config = fetch_cdm_config(net.node.cdm_url)
    playground, network = net.node.keysets.by_name("playground"), net.node.keysets.by_name("network")
    assert config.keys("free").subscribe_key == playground.subscribe_key
    assert config.keys("paid").publish_key == network.publish_key
    assert (config.api.base_url, config.origin, config.ssl) == (net.node.base_url, net.node.origin, False)
    assert "cursor" in config.features
    assert playground.secret_key not in httpx.get(net.node.cdm_url).text


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/v1/nothing", f"{RPC}/", "/api/v2/rpc"])
def test_an_unknown_path_says_where_the_network_is(net: PlatformNode, path: str) -> None:
    answer = net.post(path, {}, bearer=net.own)
    assert refused(answer) == (404, "NOT_FOUND")
    assert "/config.json" in answer.json()["error"]


def test_a_wrong_method_is_told_with_the_right_ones(net: PlatformNode) -> None:
    answer = net.ask("PUT", RPC, {}, bearer=net.own)
    assert refused(answer) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "POST"


def test_every_answer_has_the_version_and_is_kept_by_nobody(net: PlatformNode) -> None:
    for answer in (
        net.ask("GET", "/config.json"),
        net.ask("GET", "/nothing"),
        net.post(RPC),
        net.consumer_token(net.own),
    ):
        assert answer.headers["Blocks-Protocol-Version"] == "2026-05-01"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_another_protocol_version_is_refused_and_a_missing_one_is_the_current(net: PlatformNode) -> None:
    later = {"Blocks-Protocol-Version": "2031-01-01"}
    answer = net.ask("GET", AGENTS, headers=later)
    assert refused(answer) == (400, "UNSUPPORTED_PROTOCOL_VERSION")
    assert "2026-05-01" in answer.json()["error"]
    assert net.ask("GET", AGENTS, headers={"Blocks-Protocol-Version": "2026-05-01"}).status_code == 200
    assert net.ask("GET", AGENTS).status_code == 200


def test_a_write_says_until_when_to_read_it_here_and_a_read_does_not(net: PlatformNode) -> None:
    assert float(net.register("worker", listing="public").headers["X-Write-Affinity"]) > 0
    assert "X-Write-Affinity" not in net.ask("GET", AGENTS).headers
    assert "X-Write-Affinity" not in net.register("worker", billingMode="barter").headers


def test_a_fault_of_the_network_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def torn(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("the secret is 1234")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Conventions(torn))
        async with httpx.AsyncClient(transport=transport, base_url="http://network") as client:
            return await client.get("/config.json")

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(ask())
    assert refused(answer) == (500, "INTERNAL_ERROR")
    assert "1234" not in answer.text
    assert "1234" in caplog.text


BODIES: dict[bytes, tuple[int, str]] = {
    b"": (400, "INVALID_JSON"),
    b"{": (400, "INVALID_JSON"),
    b"[]": (400, "INVALID_JSON"),
    b"\xff\xfe": (400, "INVALID_JSON"),
    b'{"a":' * 100 + b"1" + b"}" * 100: (400, "INVALID_JSON"),
    b'{"a":' * 30_000: (413, "BODY_TOO_LARGE"),
}


@pytest.mark.parametrize("path", ["agent/connect", "agent/refresh", "agent/consumer-token", "task-read-token"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_object_is_refused(net: PlatformNode, path: str, body: bytes) -> None:
    assert refused(net.post(f"{AUTH}/{path}", body, bearer=net.own)) == BODIES[body]


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(net: PlatformNode) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1_000):
            yield b" " * 1_024

    headers = {"Authorization": f"Bearer {net.own}"}
    try:
        answer = httpx.post(f"{net.node.base_url}{RPC}", content=endless(), headers=headers)
    except (httpx.WriteError, httpx.RemoteProtocolError):
        return  # the network has hung up while this was still sending
    assert answer.status_code == 413


def test_a_caller_who_hangs_up_within_a_body_does_no_harm(net: PlatformNode) -> None:
    with socket.create_connection(("127.0.0.1", net.node.port)) as sock:
        head = f"POST {AUTH}/agent/consumer-token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        sock.sendall(head.encode() + b'{"apiKey":')
    assert net.consumer_token(net.own).status_code == 200


# --- who calls ---

CLOSED = [
    ("POST", f"{AUTH}/agent/connect"),
    ("POST", f"{AUTH}/agent/refresh"),
    ("POST", f"{AUTH}/task-read-token"),
    ("POST", AGENTS),
    ("DELETE", f"{AGENTS}?agentName=worker"),
    ("POST", RPC),
    ("POST", "/api/v1/files/request-upload"),
    ("POST", "/api/v1/files/confirm-upload"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_nobody_gets_in_without_a_bearer_or_with_an_unknown_key(net: PlatformNode, method: str, path: str) -> None:
    answer = net.ask(method, path, {})
    assert refused(answer) == (401, "UNAUTHENTICATED")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert refused(net.ask(method, path, {}, headers={"Authorization": "Basic dTpw"})) == (401, "UNAUTHENTICATED")
    assert refused(net.ask(method, path, {}, bearer="bk_unknown")) == (401, "API_KEY_INVALID")
    assert net.ask(method, path, {}, bearer="no.token.atall").status_code == 401


def test_a_revoked_key_is_unknown_at_once(net: PlatformNode) -> None:
    secret = net.key("org_gone", "user_gone")
    renewal = net.consumer_token(secret).json()["refreshToken"]
    net.revoke(secret)
    assert refused(net.consumer_token(secret)) == (401, "API_KEY_INVALID")
    assert refused(net.refresh(secret, renewal)) == (401, "API_KEY_INVALID")
    assert refused(net.register("late", bearer=secret)) == (401, "API_KEY_INVALID")


def test_a_key_does_what_its_scopes_allow(net: PlatformNode) -> None:
    assert refused(net.connect("worker", "i1", bearer=net.consumer)) == (403, "SCOPE_MISSING")
    assert refused(net.register("scoped", bearer=net.consumer)) == (403, "SCOPE_MISSING")
    assert refused(net.consumer_token(net.provider)) == (403, "SCOPE_MISSING")
    params = {"agentName": "worker", "billingMode": "free"}
    assert net.call("SendMessage", params, bearer=net.provider)["error"]["data"]["code"] == "ScopeMissing"
    assert "result" in net.call("ListTasks", bearer=net.provider)


def test_only_an_api_key_gives_out_tokens_and_changes_the_registry(net: PlatformNode) -> None:
    token = net.consumer_token(net.own).json()["accessToken"]
    instance = net.connect("worker", "i1").json()["accessToken"]
    for bearer in (token, instance):
        assert net.connect("worker", "i2", bearer=bearer).status_code == 401
        assert net.register("made_by_token", bearer=bearer).status_code == 401
        assert net.ask("DELETE", f"{AGENTS}?agentName=worker", bearer=bearer).status_code == 401
        assert "result" in net.call("ListTasks", bearer=bearer)


def test_a_consumers_token_runs_no_agents_also_after_a_renewal(net: PlatformNode) -> None:
    first = net.consumer_token(net.own).json()
    second = net.refresh(net.own, first["refreshToken"]).json()
    for bearer in (first["accessToken"], second["accessToken"]):
        body = {"role": "provider-output", "fileName": "a", "fileSize": 1, "mimeType": "a/b", "taskId": "t"}
        assert refused(net.post("/api/v1/files/request-upload", body, bearer=bearer)) == (403, "SCOPE_MISSING")


# --- instances ---


def test_an_instance_connects_and_is_given_its_channel_and_tokens(net: PlatformNode) -> None:
    registration = {"agentName": "worker", "instanceId": "AG-worker-1", "billingMode": "free", "concurrency": 3}
    connected = connect(Caller(net.node.base_url), net.own, registration)
    assert connected.control_channel == f"agent.{connected.agent_id}.control"
    assert connected.identity.expires_in_s == 600
    heard = _subscribe(net, connected.control_channel, connected.pam_token)
    assert heard.status_code == 200
    assert _subscribe(net, f"{connected.control_channel},agent.other.control", connected.pam_token).status_code == 403
    assert _subscribe(net, connected.control_channel, None).status_code == 403


def _subscribe(net: PlatformNode, channels: str, token: str | None) -> httpx.Response:
    key = net.node.keysets.by_name("playground").subscribe_key
    query = {"tt": "0", "uuid": "i1"} | ({} if token is None else {"auth": token})
    return net.http.get(f"/v2/subscribe/{key}/{channels}/0", params=query)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"agentName": None}, (400, "INVALID_REQUEST")),
        ({"agentName": 7}, (400, "INVALID_REQUEST")),
        ({"agentName": "a\nb"}, (400, "INVALID_REQUEST")),
        ({"agentName": "\ud800"}, (400, "INVALID_JSON")),
        ({"agentName": "nobody"}, (404, "AGENT_NOT_FOUND")),
        ({"instanceId": ""}, (400, "INVALID_REQUEST")),
        ({"instanceId": "x" * 256}, (400, "INVALID_REQUEST")),
        ({"instanceId": "a' || true || '"}, (400, "INVALID_REQUEST")),
        ({"billingMode": None}, (400, "INVALID_REQUEST")),
        ({"billingMode": "barter"}, (400, "INVALID_REQUEST")),
        ({"billingMode": "paid"}, (409, "BILLING_MODE_MISMATCH")),
        ({"concurrency": -1}, (400, "INVALID_REQUEST")),
        ({"concurrency": True}, (400, "INVALID_REQUEST")),
        ({"concurrency": 1.5}, (400, "INVALID_REQUEST")),
        ({"maxRunningTimeSec": 10**30}, (400, "INVALID_REQUEST")),
        ({"protocolVersions": ["2031-01-01"]}, (400, "UNSUPPORTED_PROTOCOL_VERSION")),
        ({"protocolVersions": "2026-05-01"}, (400, "INVALID_REQUEST")),
    ],
)
def test_a_connect_is_refused_with_the_name_of_what_is_wrong(
    net: PlatformNode, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    answer = net.connect("worker", "i1", **{"agentName": "worker", "instanceId": "i1", **change})
    assert refused(answer) == expected
    if expected[1] == "INVALID_REQUEST":
        assert next(iter(change)) in answer.json()["error"]


def test_an_agent_of_somebody_else_cannot_be_run(net: PlatformNode) -> None:
    assert refused(net.connect("worker", "i1", bearer=net.other)) == (404, "AGENT_NOT_FOUND")


def test_tenants_may_have_instances_of_one_id(net: PlatformNode) -> None:
    assert net.register("theirs", bearer=net.other).status_code == 201
    assert net.connect("worker", "same", concurrency=2).status_code == 200
    assert net.connect("theirs", "same", concurrency=5, bearer=net.other).status_code == 200


def test_what_instances_said_last_is_the_agents_scaling(net: PlatformNode) -> None:
    net.connect("hidden", "i1", concurrency=4, maxPendingBacklog=2)
    entry = net.ask("GET", f"{AGENTS}?agentName=hidden", bearer=net.own).json()["agent"]
    assert entry["scaling"] == {"concurrency": 4, "maxPendingBacklog": 2}


def test_an_agent_forced_offline_is_told_so_at_connect_and_at_renewal(net: PlatformNode) -> None:
    net.register("bad_boy")
    caller = Caller(net.node.base_url)
    payload = {"agentName": "bad_boy", "instanceId": "i1", "billingMode": "free"}
    connected = connect(caller, net.own, payload)

    async def force(database: Database) -> None:
        assert await database.write(partial(set_forced_offline, agent_name="bad_boy", offline=True))

    net.operate(force)
    with pytest.raises(AgentAuthFatalError) as caught:
        connect(caller, net.own, payload)
    assert caught.value.code == "AGENT_FORCED_OFFLINE"
    with pytest.raises(AgentAuthFatalError):
        refresh(caller, net.own, connected.identity.refresh_token or "")


# --- renewal ---


def test_a_refresh_token_works_once_and_for_its_own_key(net: PlatformNode) -> None:
    caller = Caller(net.node.base_url)
    first = consumer_token(caller, net.own)
    second = refresh(caller, net.own, first.refresh_token or "")
    assert (second.user_id, second.refresh_token != first.refresh_token) == ("user_local", True)
    assert refused(net.refresh(net.other, second.refresh_token or "")) == (401, "REFRESH_TOKEN_INVALID")
    third = refresh(caller, net.own, second.refresh_token or "")
    with pytest.raises(ApiError) as caught:
        refresh(caller, net.own, first.refresh_token or "")
    assert caught.value.code == "REFRESH_TOKEN_INVALID"
    assert refused(net.refresh(net.own, third.refresh_token or "")) == (401, "REFRESH_TOKEN_INVALID")
    assert refused(net.refresh(net.own, "rt_nonsense")) == (401, "REFRESH_TOKEN_INVALID")


def test_an_instance_of_a_removed_agent_has_to_connect_again(net: PlatformNode) -> None:
    net.register("short_lived")
    renewal = net.connect("short_lived", "i1").json()["refreshToken"]
    net.ask("DELETE", f"{AGENTS}?agentName=short_lived", bearer=net.own)
    assert refused(net.refresh(net.own, renewal)) == (401, "REFRESH_TOKEN_INVALID")
    assert refused(net.connect("short_lived", "i1")) == (404, "AGENT_NOT_FOUND")


# --- JSON-RPC ---


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (b"{", -32700),
        (b"7", -32700),
        (b"[]", -32600),
        (b"[7]", -32600),
        (b"[" + b",".join([b"{}"] * 101) + b"]", -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"Nothing"}', -32601),
        (b'{"jsonrpc":"1.0","id":1,"method":"GetTask"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"GetTask"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"GetTask"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":[1]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"taskId":7}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"ownerId":[]}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"ListTasks","params":{"cursor":"???"}}', -32602),
    ],
)
def test_a_call_that_cannot_be_read_is_answered_in_its_envelope(net: PlatformNode, envelope: bytes, code: int) -> None:
    answer = net.post(RPC, envelope, bearer=net.own)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)
    assert answer.json()["id"] in (1, None)


def test_several_calls_are_answered_in_their_order_each_as_if_it_came_alone(net: PlatformNode) -> None:
    calls: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": "a", "method": "ListTasks", "params": {}},
        {"jsonrpc": "2.0", "id": "b", "method": "GetTask", "params": {"taskId": "none"}},
        {"jsonrpc": "2.0", "id": "c", "method": "Nothing"},
        {"id": "d"},
        {"jsonrpc": "2.0", "id": "e", "method": "ListTasks", "params": {"limit": 0}},
    ]
    answer = net.post(RPC, json.dumps(calls).encode(), bearer=net.own)
    assert answer.status_code == 200
    said = answer.json()
    assert [each["id"] for each in said] == ["a", "b", "c", "d", "e"]
    assert [each.get("error", {}).get("code") for each in said] == [None, -32000, -32601, -32600, None]
    assert said[1]["error"]["data"]["code"] == "TaskNotFound"


@pytest.mark.parametrize("bearer", [None, "nonsense"])
def test_several_calls_need_an_identity_like_one(net: PlatformNode, bearer: str | None) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"taskId": "none"}}
    assert net.post(RPC, json.dumps([call]).encode(), bearer=bearer).status_code == 401


def test_a_call_that_is_too_large_is_refused(net: PlatformNode) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"x": "x" * 70_000}}).encode()
    assert refused(net.post(RPC, body, bearer=net.own)) == (413, "BODY_TOO_LARGE")


def test_a_task_is_taken_shown_listed_and_ended(net: PlatformNode) -> None:
    caller = Caller(net.node.base_url, StaticAuthProvider(net.consumer_token(net.own).json()["accessToken"]))
    sent = send_message(caller, {"agentName": "worker", "billingMode": "free", "ownerId": "", "requestParts": []})
    assert sent.cursor is not None
    assert sent.subscribe_key == net.node.keysets.by_name("playground").subscribe_key
    assert _subscribe(net, sent.status_channel or "", sent.read_token).status_code == 200
    shown = net.call("GetTask", {"taskId": sent.task_id})["result"]["task"]
    assert (shown["agentName"], shown["owner"], shown["state"]) == ("worker", "user_local", sent.state)
    assert sent.task_id in [task.task_id for task in list_tasks(caller).tasks]
    assert net.call("CancelTask", {"taskId": sent.task_id})["result"]["taskId"] == sent.task_id
    assert net.call("CancelTask", {"taskId": "task-none"})["error"]["data"]["code"] == "TaskNotFound"


def test_the_owner_of_a_task_is_its_caller(net: PlatformNode) -> None:
    mine = net.send("worker", ownerId="user_local")
    assert net.call("GetTask", {"taskId": mine["taskId"]})["result"]["task"]["owner"] == "user_local"
    params = {"agentName": "worker", "billingMode": "free", "ownerId": "user_other"}
    said = net.call("SendMessage", params)["error"]["data"]
    assert (said["code"], said["details"]) == ("OwnerMismatch", {"ownerId": "user_other"})


def test_the_wrong_billing_mode_names_the_right_one(net: PlatformNode) -> None:
    said = net.call("SendMessage", {"agentName": "dear", "billingMode": "free"})["error"]["data"]
    assert (said["code"], said["details"]) == ("BillingModeMismatch", {"expected": "paid", "got": "free"})


def test_a_tenant_sees_nothing_of_anothers_tasks(net: PlatformNode) -> None:
    task_id = net.send("worker")["taskId"]
    for method in ("GetTask", "CancelTask", "PauseTask", "ResumeTask", "RetryTask", "TerminateTask"):
        said = net.call(method, {"taskId": task_id}, bearer=net.other)
        assert said["error"]["data"]["code"] == "TaskNotFound"
    listed = net.call("ListTasks", {}, bearer=net.other)["result"]
    assert task_id not in [task["taskId"] for task in listed["tasks"]]
    caller = Caller(net.node.base_url, StaticAuthProvider(net.other))
    with pytest.raises(RpcError, match="hidden"):  # private agents do not exist for others
        send_message(caller, {"agentName": "hidden", "billingMode": "free"})
    assert refused(net.post(f"{AUTH}/task-read-token", {"taskId": task_id}, bearer=net.other)) == (
        403,
        "TASK_ACCESS_DENIED",
    )


# --- reading a task ---


def test_a_task_is_read_by_who_sent_it_and_by_whose_agent_got_it(net: PlatformNode) -> None:
    sent = net.send("worker", bearer=net.other)
    theirs, ours = (Caller(net.node.base_url, StaticAuthProvider(key)) for key in (net.other, net.own))
    for caller, role in ((theirs, "consumer"), (ours, "provider")):
        token = task_read_token(caller, sent["taskId"], role)  # type: ignore[arg-type]  # one of the two
        assert token.channel == sent["extensions"]["blocks"]["streamChannels"]["status"]
        assert token.ttl_minutes >= 60
        assert _subscribe(net, token.channel, token.token).status_code == 200
    for caller, role in ((theirs, "provider"), (ours, "consumer")):
        with pytest.raises(ApiError) as caught:
            task_read_token(caller, sent["taskId"], role)  # type: ignore[arg-type]
        assert caught.value.status == 403


def test_a_read_token_needs_a_task_and_a_role_that_exist(net: PlatformNode) -> None:
    path = f"{AUTH}/task-read-token"
    assert refused(net.post(path, {}, bearer=net.own)) == (400, "INVALID_REQUEST")
    assert refused(net.post(path, {"taskId": "t", "role": "boss"}, bearer=net.own)) == (400, "INVALID_REQUEST")
    assert refused(net.post(path, {"taskId": "task-none"}, bearer=net.own)) == (403, "TASK_ACCESS_DENIED")


def test_a_task_that_has_an_owner_is_not_read_anonymously(net: PlatformNode) -> None:
    task_id = net.send("worker")["taskId"]
    with pytest.raises(AnonTaskAccessDenied):
        anonymous_read_token(Caller(net.node.base_url), task_id, "finger")
    path = f"{AUTH}/anon-task-read-token"
    assert refused(net.post(path, {"taskId": task_id})) == (400, "INVALID_REQUEST")


def test_what_was_registered_is_there_after_a_restart(tmp_path: Path) -> None:
    first = PlatformNode(tmp_path)
    first.register("durable")
    connected = first.connect("durable", "i1").json()
    first.close()
    second = PlatformNode(tmp_path)
    try:
        assert second.connect("durable", "i1").json()["agentId"] == connected["agentId"]
        assert second.call("ListTasks", bearer=connected["accessToken"])["result"]["tasks"] == []
    finally:
        second.close()
