"""Tenants see nothing of each other, by any operation of the PubNub protocol on any kind of channel.

An operation of the gateway without an entry here fails.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tenants import WATCHER, Tenants

from blocks_network.server.app import Network
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import Identity

DENIED = frozenset({400, 403})
"""400: names with a star, and groups that only the platform makes, are refused before anybody asks for permissions."""
HARMLESS = frozenset({200, *DENIED})
"""Leave and where now are answered for any valid token, and do nothing."""


@dataclass(frozen=True)
class Try:
    """One request. `{sub}` and `{pub}` stand for the keyset's keys."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    takes: frozenset[int] = DENIED

    def of(self, tenants: Tenants, token: str) -> httpx.Response:
        keyset = tenants.keyset
        path = self.path.replace("{sub}", keyset.subscribe_key).replace("{pub}", keyset.publish_key)
        query = tenants.query(token, **self.query)
        return tenants.net.http.request(self.method, path, params=query, json=self.body)


def get(path: str, takes: frozenset[int] = DENIED, **query: str) -> Try:
    return Try("GET", path, query, takes=takes)


MESSAGE = quote(json.dumps({"type": "terminal", "state": "failed"}), safe="")
SETUP = {"type": "stream_setup", "phase": "embedded"}
STATE = {"state": json.dumps({"activeTasks": 99})}
PRESENCE, FILES, ACTIONS = "/v2/presence/sub-key/{sub}", "/v1/files/{sub}/channels", "/v1/message-actions/{sub}/channel"
REGISTRATION = "/v1/channel-registration/sub-key/{sub}/channel-group"
FILE = "file-id/a.txt"

OPERATIONS: dict[tuple[str, str], Callable[[str], list[Try]]] = {
    ("POST", "/publish/{pub}/{sub}/0/{channel}/0"): lambda name: [
        Try("POST", f"/publish/{{pub}}/{{sub}}/0/{name}/0", {"store": "1"}, {"type": "terminal", "state": "failed"}),
        Try("POST", f"/publish/{{pub}}/{{sub}}/0/{name}/0", {"store": "0"}, SETUP),
    ],
    ("GET", "/publish/{pub}/{sub}/0/{channel}/0/{json}"): lambda name: [
        get(f"/publish/{{pub}}/{{sub}}/0/{name}/0/{MESSAGE}")
    ],
    ("GET", "/signal/{pub}/{sub}/0/{channel}/0/{json}"): lambda name: [get(f"/signal/{{pub}}/{{sub}}/0/{name}/0/1")],
    ("GET", "/v2/subscribe/{sub}/{channels}/0"): lambda name: [
        get(f"/v2/subscribe/{{sub}}/{name}/0", tt="0"),
        get(f"/v2/subscribe/{{sub}}/{name}/0", tt="1"),
        get("/v2/subscribe/{sub}/,/0", tt="0", **{"channel-group": name}),
    ],
    ("GET", "/v2/stream/{sub}/{channels}/0"): lambda name: [
        get(f"/v2/stream/{{sub}}/{name}/0", tt="0"),
        get(f"/v2/stream/{{sub}}/{name}/0", tt="1"),
        get("/v2/stream/{sub}/,/0", tt="0", **{"channel-group": name}),
    ],
    ("GET", "/v3/history/sub-key/{sub}/channel/{channels}"): lambda name: [
        get(f"/v3/history/sub-key/{{sub}}/channel/{name}")
    ],
    ("DELETE", "/v3/history/sub-key/{sub}/channel/{channel}"): lambda name: [
        Try("DELETE", f"/v3/history/sub-key/{{sub}}/channel/{name}")
    ],
    ("GET", "/v3/history/sub-key/{sub}/message-counts/{channels}"): lambda name: [
        get(f"/v3/history/sub-key/{{sub}}/message-counts/{name}", timetoken="1")
    ],
    ("GET", "/v2/history/sub-key/{sub}/channel/{channel}"): lambda name: [
        get(f"/v2/history/sub-key/{{sub}}/channel/{name}")
    ],
    ("GET", "/v3/history-with-actions/sub-key/{sub}/channel/{channel}"): lambda name: [
        get(f"/v3/history-with-actions/sub-key/{{sub}}/channel/{name}")
    ],
    ("GET", f"{PRESENCE}/channel/{{channels}}/heartbeat"): lambda name: [
        get(f"{PRESENCE}/channel/{name}/heartbeat", uuid=WATCHER, heartbeat="20"),
        get(f"{PRESENCE}/channel/,/heartbeat", **{"channel-group": name}),
    ],
    ("GET", f"{PRESENCE}/channel/{{channels}}/leave"): lambda name: [
        get(f"{PRESENCE}/channel/{name}/leave", HARMLESS, uuid=WATCHER),
        get(f"{PRESENCE}/channel/,/leave", HARMLESS, uuid=WATCHER, **{"channel-group": name}),
    ],
    ("GET", f"{PRESENCE}/channel/{{channels}}"): lambda name: [get(f"{PRESENCE}/channel/{name}", state="1")],
    ("GET", PRESENCE): lambda name: [get(PRESENCE)],
    ("GET", f"{PRESENCE}/uuid/{{uuid}}"): lambda name: [get(f"{PRESENCE}/uuid/{WATCHER}", HARMLESS)],
    ("GET", f"{PRESENCE}/channel/{{channels}}/uuid/{{uuid}}"): lambda name: [
        get(f"{PRESENCE}/channel/{name}/uuid/{WATCHER}")
    ],
    ("GET", f"{PRESENCE}/channel/{{channels}}/uuid/{{uuid}}/data"): lambda name: [
        get(f"{PRESENCE}/channel/{name}/uuid/{WATCHER}/data", uuid=WATCHER, **STATE)
    ],
    ("POST", "/v1/publish-batch/{pub}/{sub}"): lambda name: [],  # a status for each message: below
    ("GET", REGISTRATION): lambda name: [get(REGISTRATION)],
    ("GET", f"{REGISTRATION}/{{group}}"): lambda name: [
        get(f"{REGISTRATION}/{name}"),
        get(f"{REGISTRATION}/{name}", add="strange"),
        get(f"{REGISTRATION}/{name}", remove="x"),
        get(f"{REGISTRATION}/strange-group", add=name.replace("*", "x")),
    ],
    ("GET", f"{REGISTRATION}/{{group}}/remove"): lambda name: [get(f"{REGISTRATION}/{name}/remove")],
    ("GET", f"{ACTIONS}/{{channel}}"): lambda name: [get(f"{ACTIONS}/{name}")],
    ("POST", f"{ACTIONS}/{{channel}}/message/{{timetoken}}"): lambda name: [
        Try("POST", f"{ACTIONS}/{name}/message/17500000000000000", body={"type": "t", "value": "v"})
    ],
    ("DELETE", f"{ACTIONS}/{{channel}}/message/{{timetoken}}/action/{{action}}"): lambda name: [
        Try("DELETE", f"{ACTIONS}/{name}/message/17500000000000000/action/17500000000000001")
    ],
    ("POST", f"{FILES}/{{channel}}/generate-upload-url"): lambda name: [
        Try("POST", f"{FILES}/{name}/generate-upload-url", body={"name": "a.txt"})
    ],
    ("POST", "/v1/files/form/{sub}"): lambda name: [],  # a form is good for what its own signed terms say: below
    ("GET", "/v1/files/publish-file/{pub}/{sub}/0/{channel}/0/{json}"): lambda name: [
        get(f"/v1/files/publish-file/{{pub}}/{{sub}}/0/{name}/0/{MESSAGE}")
    ],
    ("GET", f"{FILES}/{{channel}}/files"): lambda name: [get(f"{FILES}/{name}/files")],
    ("GET", f"{FILES}/{{channel}}/files/{{id}}/{{name}}"): lambda name: [get(f"{FILES}/{name}/files/{FILE}")],
    ("DELETE", f"{FILES}/{{channel}}/files/{{id}}/{{name}}"): lambda name: [
        Try("DELETE", f"{FILES}/{name}/files/{FILE}")
    ],
    ("GET", "/v1/files/content/{sub}/{channel}/{id}/{name}"): lambda name: [
        get(f"/v1/files/content/{{sub}}/{name}/{FILE}"),
        get(f"/v1/files/content/{{sub}}/{name}/{FILE}", expires="99999999999", signature="AAAA"),
    ],
    ("POST", "/v3/pam/{sub}/grant"): lambda name: [
        Try("POST", "/v3/pam/{sub}/grant", body={"ttl": 5, "permissions": {"resources": {"channels": {name: 255}}}})
    ],
    ("DELETE", "/v3/pam/{sub}/grant/{token}"): lambda name: [Try("DELETE", "/v3/pam/{sub}/grant/qEF2AkF0Gg")],
    ("GET", "/time/0"): lambda name: [],  # it touches no channel
}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    tenants = Tenants(tmp_path_factory.mktemp("tenants"))
    try:
        yield tenants
    finally:
        tenants.close()


@pytest.mark.parametrize("operation", OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_a_stranger_sees_and_changes_nothing(tenants: Tenants, operation: tuple[str, str]) -> None:
    before = tenants.owned()
    for (kind, channel), token in product(tenants.owner.channels.items(), tenants.tokens):
        for attempt in OPERATIONS[operation](quote(channel, safe="*")):
            answer = attempt.of(tenants, token)
            assert answer.status_code in attempt.takes, (kind, token, attempt, answer.text)
            if answer.status_code == 403 and kind == "setup":  # also the status of a set-up that is granted
                assert "streamSetupResponse" not in answer.text
            said = repr(attempt)
            leaked = {word for word in tenants.owner.secrets if word in answer.text and word not in said}
            assert not leaked, (kind, token, attempt, answer.text)
    assert tenants.owned() == before


def test_every_operation_of_the_gateway_is_tried() -> None:
    network = Network(NodeConfig(), Identity.generate(), directory=None, base_url="http://x", origin="x:80")
    assert {method for method, _ in OPERATIONS} <= {"GET", "POST", "DELETE"}
    assert {(method, _plain(path)) for method, path in network.gateway.operations} == {
        (method, _plain(path)) for method, path in OPERATIONS
    }


def _plain(pattern: str) -> str:
    """The names of parameters do not matter."""
    return "/".join("{}" if piece.startswith("{") else piece for piece in pattern.split("/"))


def test_the_strangers_own_credentials_are_good(tenants: Tenants) -> None:
    """What is refused above is not refused for a reason of its own."""
    for token in tenants.tokens:
        answer = tenants.get(f"{PRESENCE}/uuid/strange-instance", token)
        assert answer.status_code == (403 if token in ("none", "nonsense") else 200), token
    own = f"/v3/history/sub-key/{{sub}}/channel/u.org_stranger.{tenants.task_id}"
    assert tenants.get(own, "reader of a task").status_code == 200
    assert tenants.get(own, "instance's of a task").status_code == 200
    group = {"channel-group": tenants.group, "tt": "0"}
    assert tenants.get("/v2/subscribe/{sub}/,/0", "sessions", **group).status_code == 200


def test_a_message_in_a_batch_needs_its_own_permission(tenants: Tenants) -> None:
    before = tenants.owned()
    keys = f"{tenants.keyset.publish_key}/{tenants.keyset.subscribe_key}"
    channels = tenants.owner.channels.values()
    for token, whole in product(tenants.tokens, (True, False)):
        own = {} if whole or tenants.tokens[token] is None else {"auth": tenants.tokens[token]}
        messages = [
            {"channel": channel, "message": {"type": "terminal", "state": "failed"}, **own} for channel in channels
        ]
        query = tenants.query(token if whole else "none")
        answer = tenants.net.http.post(f"/v1/publish-batch/{keys}", params=query, json={"messages": messages})
        assert answer.status_code == 200
        assert {each["status"] for each in answer.json()["results"]} <= DENIED
    assert tenants.owned() == before


def test_a_form_for_an_upload_takes_files_for_its_own_channel_alone(tenants: Tenants) -> None:
    before = tenants.owned()
    asked = {"role": "consumer-input", "fileName": "a.txt", "fileSize": 5, "mimeType": "text/plain"}
    asked |= {"agentName": "strange", "partId": "file"}
    form = tenants.net.post("/api/v1/files/request-upload", asked, bearer=tenants.stranger).json()
    fields = {each["key"]: each["value"] for each in form["formFields"]}
    terms = base64.urlsafe_b64decode(fields["policy"] + "==").decode()
    assert "org_stranger" in terms
    foreign = terms.replace(_channel_of(terms), tenants.owner.channels["upload"])
    forged = base64.urlsafe_b64encode(foreign.encode()).decode().rstrip("=")
    owners_key = fields["key"].replace(_channel_of(terms), tenants.owner.channels["upload"])
    assert _upload(form, {**fields, "policy": forged}) == 403
    assert _upload(form, {**fields, "key": owners_key}) == 204  # its name for the file says nothing
    assert tenants.owned() == before


def _channel_of(terms: str) -> str:
    channel: str = json.loads(terms)["channel"]
    return channel


def _upload(form: dict[str, Any], fields: dict[str, str]) -> int:
    return httpx.post(form["uploadUrl"], data=fields, files={"file": b"hello"}).status_code


def test_a_task_that_names_the_owners_upload_opens_it_for_nobody(tenants: Tenants) -> None:
    """The instance of a task may read its inputs: those that its sender has uploaded, not those that he names."""
    channel = tenants.owner.channels["upload"]
    listening = f"/v2/subscribe/{{sub}}/{tenants.control}/0"
    cursor = tenants.get(listening, "control", tt="0").json()["t"]["t"]
    ref = {"kind": "file", "channel": channel, "fileId": "x", "mimeType": "text/plain", "size": 5, "fileName": "a.txt"}
    part = {"partId": "file", "artifactRef": ref}
    sent = tenants.net.send("strange", bearer=tenants.stranger, requestParts=[part])
    token = _write_token(tenants, listening, cursor, sent["taskId"])
    tenants.tokens["of a foreign input"] = token
    for path in (f"{FILES}/{channel}/files", f"{FILES}/{channel}/files/{FILE}"):
        assert tenants.get(path, "of a foreign input").status_code == 403


def _write_token(tenants: Tenants, listening: str, cursor: str, task_id: str) -> str:
    """Of the StartTask for this task."""
    for _ in range(10):
        news = tenants.get(listening, "control", tt=cursor).json()
        for each in news["m"]:
            if each["d"].get("type") == "StartTask" and each["d"]["taskId"] == task_id:
                token: str = each["d"]["writeToken"]
                return token
        cursor = news["t"]["t"]
    raise AssertionError("the task was not started")
