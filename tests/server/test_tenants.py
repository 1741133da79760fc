"""Tenants see nothing of each other, by any call of the platform API. A route without an entry here fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from platform_node import AGENTS, AUTH, RPC, card
from starlette.routing import Route
from tenants import FINGERPRINT, KEY, READER, THE_SAME_USER, Tenants, blocks_of

from blocks_network.server.app import Network
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import Identity
from blocks_network.wire.rpc import METHODS

HIDDEN = frozenset({401, 403, 404})
NOT_THERE = frozenset({"TaskNotFound", "AgentNotFound", "UploadSessionUnknown", "OwnerMismatch"})
FILES = "/api/v1/files"


@dataclass(frozen=True)
class Attempt:
    """One request of the stranger's. `takes` are the statuses that are right; `as_` None shows every bearer."""

    method: str
    path: str
    body: Any = None
    takes: frozenset[int] = HIDDEN

    def of(self, tenants: Tenants, bearer: str | None) -> httpx.Response:
        return tenants.net.ask(self.method, self.path, self.body, bearer=bearer)

    def hides(self, answer: httpx.Response, tenants: Tenants) -> None:
        """The status is right, and no word of the owner's is in the answer that the stranger did not say first."""
        assert answer.status_code in self.takes, (self, answer.status_code, answer.text)
        said = repr(self)
        leaked = {word for word in tenants.owner.secrets if word in answer.text and word not in said}
        assert not leaked, (self, leaked)


OK = frozenset({200})
MINE = frozenset({200, 201, 401, 403})
"""A call that is right for some of the stranger's credentials, and gives what is his own."""


def post(path: str, body: Any, takes: frozenset[int] = HIDDEN) -> Attempt:
    return Attempt("POST", path, body, takes)


def _connect(tenants: Tenants) -> list[Attempt]:
    body = {"instanceId": "own-instance", "billingMode": "free"}
    return [post(f"{AUTH}/agent/connect", {**body, "agentName": name}) for name in ("own_private", "own_public")]


def _refresh(tenants: Tenants) -> list[Attempt]:
    return [post(f"{AUTH}/agent/refresh", {"refreshToken": tenants.owner.refresh_token})]


def _consumer_token(tenants: Tenants) -> list[Attempt]:
    keys = (tenants.owner.key_id, tenants.owner.api_key[:-1], tenants.owner.refresh_token)
    return [post(f"{AUTH}/agent/consumer-token", {"apiKey": key}) for key in keys]


def _task_read_token(tenants: Tenants) -> list[Attempt]:
    ids, roles = (tenants.owner.task_id, tenants.owner.public_task_id), ("consumer", "provider")
    return [post(f"{AUTH}/task-read-token", {"taskId": id_, "role": role}) for id_ in ids for role in roles]


def _reader_token(tenants: Tenants) -> list[Attempt]:
    return [post(f"{AUTH}/reader-token", {"reader": READER, "billingMode": "free"}, MINE)]


def _anonymous(tenants: Tenants) -> list[Attempt]:
    path = f"{AUTH}/anon-task-read-token"
    public, private = tenants.owner.public_task_id, tenants.owner.task_id
    return [
        post(path, {"taskId": public, "fingerprint": "of-the-strangers-browser"}),
        post(path, {"taskId": private, "fingerprint": FINGERPRINT}),
    ]


def _agents(tenants: Tenants) -> list[Attempt]:
    hidden = Attempt("GET", f"{AGENTS}?agentName=own_private")
    queries = ("include=full", "include=full&listing=private", "tag=own_tag&listing=private", "limit=1")
    return [hidden, *(Attempt("GET", f"{AGENTS}?{query}", takes=OK) for query in queries)]


def _register(tenants: Tenants) -> list[Attempt]:
    taken = frozenset({401, 409})  # of a private agent nothing is told but that its name is taken
    bodies = [{"card": card(name), "billingMode": "free"} for name in ("own_private", "own_public")]
    return [post(AGENTS, body, taken) for body in bodies]


def _remove(tenants: Tenants) -> list[Attempt]:
    return [Attempt("DELETE", f"{AGENTS}?agentName={name}") for name in ("own_private", "own_public")]


def _request_upload(tenants: Tenants) -> list[Attempt]:
    file = {"fileName": "a.txt", "fileSize": 5, "mimeType": "text/plain"}
    into = {**file, "role": "consumer-input", "partId": "file"}
    out = {**file, "role": "provider-output"}
    return [
        post(f"{FILES}/request-upload", {**into, "uploadSessionId": tenants.owner.upload_session}),
        post(f"{FILES}/request-upload", {**into, "agentName": "own_private"}),
        post(f"{FILES}/request-upload", {**out, "taskId": tenants.owner.task_id}),
        post(f"{FILES}/request-upload", {**out, "taskId": tenants.owner.public_task_id}),
    ]


def _confirm_upload(tenants: Tenants) -> list[Attempt]:
    return [post(f"{FILES}/confirm-upload", {"uploadId": tenants.owner.upload_id})]


def _deliveries(tenants: Tenants) -> list[Attempt]:
    path = "/api/v1/webhooks/deliveries"
    empty = frozenset({200, 403})  # an identity that sends no tasks has no webhooks
    of_task = [Attempt("GET", f"{path}?taskId={id_}") for id_ in (tenants.owner.task_id, tenants.owner.public_task_id)]
    return [*of_task, Attempt("GET", path, takes=empty)]


def _keys(tenants: Tenants) -> list[Attempt]:
    return [Attempt("GET", "/api/v1/keys", takes=frozenset({200, 401}))]


def _new_key(tenants: Tenants) -> list[Attempt]:
    others = [{"orgId": "org_owner"}, {"orgId": "org_owner", "userId": THE_SAME_USER}, {"userId": "user_local"}]
    return [post("/api/v1/keys", body) for body in others]


def _revoke_key(tenants: Tenants) -> list[Attempt]:
    return [Attempt("DELETE", f"/api/v1/keys/{tenants.owner.key_id}")]


def _offline(tenants: Tenants) -> list[Attempt]:
    path = "/api/v1/admin/agents/offline"
    return [post(path, {"agentName": name, "offline": True}) for name in ("own_private", "own_public")]


def _rpc(tenants: Tenants) -> list[Attempt]:
    """What an envelope says is looked at apart, below."""
    return [
        post(RPC, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, OK)
        for method, several in rpc_params(tenants).items()
        for params in several
    ]


def _configuration(tenants: Tenants) -> list[Attempt]:
    return [Attempt("GET", "/config.json", takes=OK)]


ATTEMPTS: dict[tuple[str, str], Callable[[Tenants], list[Attempt]]] = {
    ("GET", "/config.json"): _configuration,
    ("POST", f"{AUTH}/agent/connect"): _connect,
    ("POST", f"{AUTH}/agent/refresh"): _refresh,
    ("POST", f"{AUTH}/agent/consumer-token"): _consumer_token,
    ("POST", f"{AUTH}/task-read-token"): _task_read_token,
    ("POST", f"{AUTH}/reader-token"): _reader_token,
    ("POST", f"{AUTH}/anon-task-read-token"): _anonymous,
    ("GET", AGENTS): _agents,
    ("POST", AGENTS): _register,
    ("DELETE", AGENTS): _remove,
    ("POST", RPC): _rpc,
    ("POST", f"{FILES}/request-upload"): _request_upload,
    ("POST", f"{FILES}/confirm-upload"): _confirm_upload,
    ("GET", "/api/v1/webhooks/deliveries"): _deliveries,
    ("GET", "/api/v1/keys"): _keys,
    ("POST", "/api/v1/keys"): _new_key,
    ("DELETE", "/api/v1/keys/{key_id}"): _revoke_key,
    ("POST", "/api/v1/admin/agents/offline"): _offline,
}


def rpc_params(tenants: Tenants) -> dict[str, list[dict[str, Any]]]:
    """What the stranger tries with each method."""
    ids = [{"taskId": tenants.owner.task_id}, {"taskId": tenants.owner.public_task_id}]
    free = {"billingMode": "free"}
    return {
        "SendMessage": [
            {**free, "agentName": "own_private"},
            {**free, "agentName": "own_private", "idempotencyKey": KEY},
            {**free, "agentName": "own_public", "uploadSessionId": tenants.owner.upload_session},
            {**free, "agentName": "own_public", "ownerId": "user_local"},
        ],
        "GetTask": ids,
        "ListTasks": [{}, {"ownerId": THE_SAME_USER}, {"agentName": "own_private"}, {"state": "queued"}],
        **{method: ids for method in METHODS if method not in ("SendMessage", "GetTask", "ListTasks")},
    }


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    tenants = Tenants(tmp_path_factory.mktemp("tenants"))
    try:
        yield tenants
    finally:
        tenants.close()


@pytest.mark.parametrize("endpoint", ATTEMPTS, ids=[f"{method} {path}" for method, path in ATTEMPTS])
def test_a_stranger_sees_and_changes_nothing(tenants: Tenants, endpoint: tuple[str, str]) -> None:
    before = tenants.owned()
    attempts = ATTEMPTS[endpoint](tenants)
    assert attempts
    for attempt in attempts:
        for bearer in tenants.bearers.values():
            attempt.hides(attempt.of(tenants, bearer), tenants)
    assert tenants.owned() == before


def test_every_route_of_the_platform_is_tried() -> None:
    network = Network(NodeConfig(), Identity.generate(), directory=None, base_url="http://x", origin="x:80")
    served = set()
    for route in network.api.routes:
        assert isinstance(route, Route)
        served |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    assert served == set(ATTEMPTS)


def test_every_method_of_the_rpc_is_tried(tenants: Tenants) -> None:
    assert set(rpc_params(tenants)) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_is_told_that_it_is_not_there(tenants: Tenants, method: str) -> None:
    for params in rpc_params(tenants)[method]:
        for bearer in tenants.bearers.values():
            said = tenants.net.call(method, params, bearer=bearer)
            if method == "ListTasks":
                found = {task["orgId"] for task in said["result"]["tasks"]}
                assert found <= {"org_stranger"}
            elif method == "SendMessage" and params["agentName"] == "own_public" and "ownerId" in params:
                assert said["error"]["data"]["code"] in {"OwnerMismatch", "ScopeMissing"}
            else:
                assert said["error"]["data"]["code"] in NOT_THERE | {"ScopeMissing"}


def test_an_idempotency_key_is_a_tenants_own(tenants: Tenants) -> None:
    params = {"idempotencyKey": KEY}
    sent = tenants.net.send("own_public", bearer=tenants.stranger, **params)
    assert sent["taskId"] != tenants.owner.public_task_id
    assert "idempotent" not in sent
    again = tenants.net.send("own_public", bearer=tenants.stranger, **params)
    assert (again["taskId"], again["idempotent"]) == (sent["taskId"], True)
    assert tenants.net.send("own_public", bearer=tenants.owner.api_key, **params)["taskId"] == (
        tenants.owner.public_task_id
    )


def test_a_reader_of_the_same_name_is_another_group(tenants: Tenants) -> None:
    sent = tenants.net.send("strange", bearer=tenants.stranger, extensions={"blocks": {"reader": READER}})
    assert blocks_of(sent)["sessionGroup"] == tenants.group
    assert tenants.group != tenants.owner.group


def test_what_the_stranger_may_do_with_a_public_agent_ends_at_his_own_task(tenants: Tenants) -> None:
    sent = tenants.net.send("own_public", bearer=tenants.stranger)
    task_id = {"taskId": sent["taskId"]}
    assert tenants.net.call("GetTask", task_id, bearer=tenants.stranger)["result"]["task"]["orgId"] == "org_stranger"
    assert tenants.net.call("GetTask", task_id, bearer=tenants.owner.api_key)["result"]["task"]["state"]
    refused = tenants.net.call("CancelTask", task_id, bearer=tenants.owner.api_key)["error"]["data"]["code"]
    assert refused == "Forbidden"


def test_the_owners_credentials_still_hold(tenants: Tenants) -> None:
    """None of the attempts above has ended them: it runs last."""
    answer = tenants.net.refresh(tenants.owner.api_key, tenants.owner.refresh_token)
    assert answer.status_code == 200
    tenants.owner.refresh_token = answer.json()["refreshToken"]
    confirmed = tenants.net.post(
        f"{FILES}/confirm-upload", {"uploadId": tenants.owner.upload_id}, bearer=tenants.owner.api_key
    )
    assert confirmed.json()["artifactRef"]["size"] == 5
