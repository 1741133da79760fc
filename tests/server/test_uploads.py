"""Large files by way of the platform: request, post, confirm, over real sockets and with the SDK's own calls."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy import Connection, insert
from starlette.applications import Starlette

from blocks_network.api.files import presigned_upload_flow
from blocks_network.auth.static import StaticAuthProvider
from blocks_network.errors import ConfigurationError, FileUploadError
from blocks_network.server.access.apikeys import ApiKeys
from blocks_network.server.access.authorizer import Authorizer
from blocks_network.server.access.jwts import AccessTokens
from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.access.principal import CONSUMER, PROVIDER, Principal
from blocks_network.server.access.refresh import RefreshTokens
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.api import files as api
from blocks_network.server.api.errors import ApiRefusal, answer_refusal
from blocks_network.server.api.services import Services
from blocks_network.server.blobs.directory import DirectoryBlobs
from blocks_network.server.blobs.sessions import UploadSessions
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.gateway import files as gateway_files
from blocks_network.server.gateway.app import Gateway
from blocks_network.server.http.listener import Listener, bind
from blocks_network.server.limits import Limits
from blocks_network.server.presence.embedded import EmbeddedPresence
from blocks_network.server.store.database import Database
from blocks_network.server.store.orgs import ensure_org
from blocks_network.server.store.schema import agents
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.server.tasks.service import TaskService
from blocks_network.transport.files import download_file
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.wire.artifacts import ArtifactRef
from blocks_network.wire.channels import task_channel

T = TypeVar("T")
DEADLINE_S = 10.0
MIB = 1024 * 1024
CALLER = Principal("user1", "org_caller", frozenset({CONSUMER}), "key1")
STRANGER = Principal("user2", "org_stranger", frozenset({CONSUMER, PROVIDER}), "key2")
OWNER = Principal("user3", "org_owner", frozenset({PROVIDER}), "key3")


class UploadNode:
    """The gateway's files and the platform's uploads over the parts that they need, each the real one."""

    def __init__(self) -> None:
        self.limits = Limits(upload_bytes=3 * MIB)
        self.base_url = ""
        self.keys: dict[str, str] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="upload-node")

    def __enter__(self) -> UploadNode:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(DEADLINE_S)

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        sock = bind("127.0.0.1", 0)
        self.origin = f"127.0.0.1:{sock.getsockname()[1]}"
        self.keyset = Keyset.generate("playground")
        keysets = Keysets([self.keyset, Keyset.generate("network")])
        self.bus, presence, database = EmbeddedBus(None, self.limits), EmbeddedPresence(), Database()
        self.blobs, tokens = DirectoryBlobs(), CapabilityTokens()
        self.tasks = TaskService(
            database=database,
            bus=self.bus,
            presence=presence,
            keysets=keysets,
            capability_tokens=tokens,
            limits=self.limits,
            uploads=UploadSessions(blobs=self.blobs, keysets=keysets),
        )
        gateway = Gateway(
            keysets=keysets,
            bus=self.bus,
            presence=presence,
            authorizer=Authorizer(tokens, skew_s=60),
            limits=self.limits,
        )
        gateway_files.routes(gateway, self.blobs)
        services = Services(
            keysets=keysets,
            limits=self.limits,
            database=database,
            bus=self.bus,
            presence=presence,
            capability_tokens=tokens,
            api_keys=ApiKeys(database),
            access_tokens=AccessTokens(database),
            refresh_tokens=RefreshTokens(database),
            tasks=self.tasks,
            blobs=self.blobs,
            public_base=f"http://{self.origin}",
            origin=self.origin,
        )
        platform = Starlette(routes=api.routes(services), exception_handlers={ApiRefusal: answer_refusal})

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (gateway if gateway.serves(scope["path"]) else platform)(scope, receive, send)

        parts = (database, self.bus, presence, self.blobs, self.tasks, gateway)
        for part in parts:
            await part.start()
        await database.write(_settle)
        for who in (CALLER, STRANGER, OWNER):
            _, self.keys[who.org_id] = await services.api_keys.create(
                org_id=who.org_id, user_id=who.user_id, scopes=who.scopes, label="test"
            )
        listener = Listener(app, sock, keep_alive_s=75)
        await listener.start()
        self.base_url = f"http://{self.origin}"
        self._ready.set()
        await self._ending.wait()
        await gateway.release()
        listener.refuse()
        await listener.drain(5)
        for part in reversed(parts):
            await part.stop()

    # -- what a test does with it --------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def auth(self, who: Principal) -> StaticAuthProvider:
        return StaticAuthProvider(self.keys[who.org_id])

    def ask(self, who: Principal, step: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[who.org_id]}"}
        return httpx.post(f"{self.base_url}/api/v1/files/{step}", json=body, headers=headers)

    def send_task(self, **params: Any) -> str:
        sent = self.run(self.tasks.send(CALLER, {"agentName": "worker", "billingMode": "free", **params}))
        return str(sent["taskId"])

    def events(self, task_id: str) -> list[dict[str, Any]]:
        channel = task_channel(task_id, CALLER.org_id)
        kept = self.run(self.bus.history(self.keyset.subscribe_key, channel, limit=100, newest=False))
        return [json.loads(message.draft.payload) for message in kept]

    def upload_input(self, data: Any, **more: Any) -> dict[str, Any]:
        about = {"role": "consumer-input", "file_name": "in put.bin", "mime_type": "x/y", "part_id": "file", **more}
        return presigned_upload_flow(self.base_url, data, auth_provider=self.auth(CALLER), **about)

    def upload_output(self, data: bytes, task_id: str, who: Principal = OWNER) -> dict[str, Any]:
        return presigned_upload_flow(
            self.base_url,
            data,
            role="provider-output",
            file_name="out.bin",
            mime_type="x/y",
            task_id=task_id,
            output_id="result",
            agent_auth=self.auth(who),
        )

    def read(self, token: str, ref: dict[str, Any]) -> bytes:
        keys = PubNubKeys(self.keyset.subscribe_key, None, self.origin, ssl=False)
        return download_file(make_client(keys, user_id="reader", token=token), ArtifactRef.from_dict(ref))


def _settle(connection: Connection) -> None:
    for who in (CALLER, STRANGER, OWNER):
        ensure_org(connection, who.org_id, 1)
    for name, listing in (("worker", "public"), ("other", "public"), ("hidden", "private")):
        connection.execute(
            insert(agents).values(
                agent_id=f"agent-{name}",
                agent_name=name,
                org_id=OWNER.org_id,
                user_id=OWNER.user_id,
                card=json.dumps({"identity": {"agentName": name}}),
                listing=listing,
                billing_mode="free",
                scaling="{}",
                forced_offline=False,
                registered_at_ms=1,
                updated_at_ms=1,
            )
        )


@pytest.fixture(scope="module")
def node() -> Iterator[UploadNode]:
    with UploadNode() as node:
        yield node


def start_message(node: UploadNode, task_id: str) -> dict[str, Any]:
    """The StartTask that an instance would get for this task."""
    from blocks_network.server.tasks.dispatch import start_draft

    async def make() -> bytes:
        return start_draft(node.tasks.running_for(OWNER, task_id), node.tasks._tokens).payload

    message = json.loads(node.run(make()))
    assert isinstance(message, dict)
    return message


def test_an_input_reaches_the_instance(node: UploadNode) -> None:
    data = b"0123456789" * 50_000
    first = node.upload_input(data, agent_name="worker")
    second = node.upload_input(b"", part_id="other", upload_session_id=first["uploadSessionId"])
    assert second["uploadSessionId"] == first["uploadSessionId"]
    parts = [{"partId": "file", "contentType": "x/y"}, {"partId": "other"}, {"partId": "text", "text": "hello"}]
    task_id = node.send_task(requestParts=parts, uploadSessionId=first["uploadSessionId"])
    message = start_message(node, task_id)
    refs = [part.get("artifactRef") for part in message["requestParts"]]
    assert [ref and ref["size"] for ref in refs] == [len(data), 0, None]
    assert refs[0]["fileName"] == "in put.bin"
    assert refs[0] == first["artifactRef"]
    assert node.read(message["writeToken"], refs[0]) == data
    assert node.read(message["writeToken"], refs[1]) == b""


def test_a_senders_own_reference_opens_no_other_channel(node: UploadNode) -> None:
    secret = node.send_task(requestParts=[])
    ref = {"kind": "file", "channel": task_channel(secret, CALLER.org_id), "fileId": "x", "fileName": "y"}
    foreign = {**ref, "channel": f"upload.{STRANGER.org_id}.abc"}
    task_id = node.send_task(
        requestParts=[{"partId": "a", "artifactRef": ref}, {"partId": "b", "artifactRef": foreign}]
    )
    keys = PubNubKeys(node.keyset.subscribe_key, None, node.origin, ssl=False)
    token = start_message(node, task_id)["writeToken"]
    channels = make_client(keys, user_id="u").parse_token(token)["resources"]["channels"]
    assert set(channels) == {task_channel(task_id, CALLER.org_id), f"setup.{CALLER.org_id}.{task_id}"}


def test_an_output_is_announced_once(node: UploadNode) -> None:
    task_id = node.send_task(requestParts=[])
    data = b"x" * MIB
    answer = node.upload_output(data, task_id)
    again = [node.ask(OWNER, "confirm-upload", uploadId=answer["uploadId"]) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        again += pool.map(lambda _: node.ask(OWNER, "confirm-upload", uploadId=answer["uploadId"]), range(8))
    assert {response.status_code for response in again} == {200}
    (event,) = [event for event in node.events(task_id) if event["type"] == "artifact"]
    assert event["artifactRef"] == answer["artifactRef"] == again[0].json()["artifactRef"]
    assert (event["outputId"], event["artifactRef"]["hash"]) == ("result", f"sha256:{hashlib.sha256(data).hexdigest()}")
    grant = node.run(node.tasks.read_grant(CALLER, task_id, "consumer"))
    assert node.read(grant.token, event["artifactRef"]) == data


def test_concurrent_first_confirmations_announce_once(node: UploadNode) -> None:
    task_id = node.send_task(requestParts=[])
    granted = node.ask(
        OWNER, "request-upload", role="provider-output", fileName="a", fileSize=1, mimeType="x/y", taskId=task_id
    ).json()
    fields = {field["key"]: field["value"] for field in granted["formFields"]}
    assert httpx.post(granted["uploadUrl"], data=fields, files={"file": ("a", b"x")}).status_code == 204
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: node.ask(OWNER, "confirm-upload", uploadId=granted["uploadId"]), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert [event["type"] for event in node.events(task_id)].count("artifact") == 1


ASK: dict[str, Any] = {"fileName": "a", "fileSize": 1, "mimeType": "x/y"}
IN: dict[str, Any] = {**ASK, "role": "consumer-input", "partId": "p", "agentName": "worker"}
OUT: dict[str, Any] = {**ASK, "role": "provider-output"}


@pytest.mark.parametrize(
    ("who", "change", "status", "code"),
    [
        (CALLER, {"role": "other"}, 400, "INVALID_REQUEST"),
        (CALLER, {"fileName": "../a"}, 400, "INVALID_REQUEST"),
        (CALLER, {"fileSize": -1}, 400, "INVALID_REQUEST"),
        (CALLER, {"fileSize": True}, 400, "INVALID_REQUEST"),
        (CALLER, {"fileSize": None}, 400, "INVALID_REQUEST"),
        (CALLER, {"fileSize": 3 * MIB + 1}, 413, "FILE_TOO_LARGE"),
        (CALLER, {"partId": None}, 400, "INVALID_REQUEST"),
        (CALLER, {"mimeType": "x/ü"}, 400, "INVALID_REQUEST"),
        (CALLER, {"agentName": "nobody"}, 404, "AGENT_NOT_FOUND"),
        (CALLER, {"agentName": "hidden"}, 404, "AGENT_NOT_FOUND"),
        (CALLER, {"uploadSessionId": "us_made_up"}, 404, "UPLOAD_SESSION_UNKNOWN"),
        (OWNER, {}, 403, "SCOPE_MISSING"),
        (CALLER, OUT, 403, "SCOPE_MISSING"),
        (OWNER, {**OUT, "taskId": "task-unknown"}, 404, "TASK_NOT_FOUND"),
    ],
)
def test_what_is_not_granted(node: UploadNode, who: Principal, change: dict[str, Any], status: int, code: str) -> None:
    answer = node.ask(who, "request-upload", **{**IN, **change})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_other_organisations_can_neither_add_nor_confirm(node: UploadNode) -> None:
    task_id = node.send_task(requestParts=[])
    assert node.ask(STRANGER, "request-upload", **OUT, taskId=task_id).status_code == 404
    mine = node.ask(CALLER, "request-upload", **IN).json()
    theirs = node.ask(STRANGER, "request-upload", **{**IN, "uploadSessionId": mine["uploadSessionId"]})
    assert theirs.json()["code"] == "UPLOAD_SESSION_UNKNOWN"
    assert node.ask(STRANGER, "confirm-upload", uploadId=mine["uploadId"]).json()["code"] == "UPLOAD_UNKNOWN"
    assert node.ask(CALLER, "confirm-upload", uploadId=mine["uploadId"]).json()["code"] == "UPLOAD_MISSING"
    for upload_id in ("x", "playground.x.y", mine["uploadId"][:-3] + "AAA", "ü"):
        assert node.ask(CALLER, "confirm-upload", uploadId=upload_id).json()["code"] == "UPLOAD_UNKNOWN"


def test_a_session_is_for_one_agent(node: UploadNode) -> None:
    session = node.upload_input(b"x", agent_name="worker")["uploadSessionId"]
    wanted = {"agentName": "other", "billingMode": "free", "uploadSessionId": session}
    with pytest.raises(TaskRefusal, match="no upload session"):
        node.run(node.tasks.send(CALLER, wanted))
    node.run(node.tasks.send(CALLER, {**wanted, "agentName": "worker"}))


def test_the_sdk_says_which_step_failed_and_how(node: UploadNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileUploadError, match=r"request-upload .*no agent 'nobody'") as caught:
        node.upload_input(b"x", agent_name="nobody")
    assert caught.value.status_code == 404
    with pytest.raises(FileUploadError) as caught:
        node.upload_input(b"x" * (3 * MIB + 1), agent_name="worker")
    assert caught.value.status_code == 413
    with pytest.raises(ConfigurationError):
        presigned_upload_flow(None, b"x", role="consumer-input", file_name="a")
    monkeypatch.setattr("blocks_network.api.files.BLOCKS_MAX_UPLOAD_BYTES", 10)
    with pytest.raises(FileUploadError, match=r"11 bytes.*not sent"):
        node.upload_input(b"x" * 11, agent_name="worker")


def test_the_sdk_streams_a_path(node: UploadNode, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"y" * (2 * MIB))
    answer = node.upload_input(path, agent_name="worker", file_name="grüße.bin")
    assert answer["artifactRef"]["hash"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert answer["artifactRef"]["fileName"] == "grüße.bin"
    with pytest.raises(FileNotFoundError):
        node.upload_input(tmp_path / "missing", agent_name="worker")
