"""Two tenants on one network: what the one has, and everything that the other can show to get at it."""

from __future__ import annotations

import base64
import hmac
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from platform_node import AGENTS, AUTH, PlatformNode

from blocks_network.server.access.keysets import Keyset
from blocks_network.wire.channels import control_channel, setup_channel, task_channel, upload_channel
from blocks_network.wire.setup import StreamSetup, stream_channel

THE_SAME_USER = "user_same"
"""Users are named by whoever runs the network: two organisations may have one of the same id."""
FINGERPRINT = "of-the-owners-browser"
WATCHER = "own-watcher"
"""A uuid on the owner's control channel, not of an instance: it gets no work."""
READER, KEY = "reader-name", "idempotency-key"
STREAMING = {"streams": {"out": {"direction": "outbound", "format": "bytes"}}, "tags": [{"id": "own_tag", "name": "x"}]}


def blocks_of(sent: dict[str, Any]) -> dict[str, Any]:
    """What SendMessage's result has for the task's reader."""
    found: dict[str, Any] = sent["extensions"]["blocks"]
    return found


@dataclass
class Owned:
    """What the owner has. `secrets` are the words that must reach nobody else."""

    api_key: str
    key_id: str
    refresh_token: str
    control: str
    task_id: str
    public_task_id: str
    upload_session: str
    upload_id: str
    group: str
    channels: dict[str, str] = field(default_factory=dict)
    """A channel of each kind, by the kind's name."""
    secrets: set[str] = field(default_factory=set)


class Tenants:
    """`owner` is one tenant's, `bearers` and `tokens` are the stranger's, each by the name of its kind."""

    def __init__(self, directory: Path) -> None:
        self.net = net = PlatformNode(directory)
        self.keyset: Keyset = net.node.keysets.by_name("playground")
        self.owner = self._own(net.key("org_owner", THE_SAME_USER))
        self.stranger = net.key("org_stranger", THE_SAME_USER)
        self.bearers: dict[str, str] = {}
        self.tokens: dict[str, str | None] = {"none": None, "nonsense": "qEF2AkF0Gg"}
        self._arm()

    def close(self) -> None:
        self.net.close()

    # --- the owner ---

    def _own(self, api_key: str) -> Owned:
        net = self.net
        assert net.register("own_private", bearer=api_key, sections=STREAMING).status_code == 201
        assert net.register("own_public", bearer=api_key, sections=STREAMING, listing="public").status_code == 201
        instance = net.connect("own_private", "own-instance", bearer=api_key).json()
        here = f"/v2/presence/sub-key/{self.keyset.subscribe_key}/channel/{instance['controlChannel']}/heartbeat"
        joined = net.http.get(here, params={"uuid": WATCHER, "auth": instance["pamToken"], "heartbeat": "3600"})
        assert joined.status_code == 200
        task_id = net.send("own_private", bearer=api_key)["taskId"]
        blocks = {"stream": True, "reader": READER, "anonFingerprint": FINGERPRINT}
        sent = net.send("own_public", bearer=api_key, idempotencyKey=KEY, extensions={"blocks": blocks})
        asked = {"role": "consumer-input", "fileName": "a.txt", "fileSize": 5, "mimeType": "text/plain"}
        asked |= {"agentName": "own_public", "partId": "file"}
        upload = net.post("/api/v1/files/request-upload", asked, bearer=api_key).json()
        fields = {each["key"]: each["value"] for each in upload["formFields"]}
        assert httpx.post(upload["uploadUrl"], data=fields, files={"file": b"hello"}).status_code == 204
        session = upload["uploadSessionId"].split("_")[3]
        key_id = next(key["keyId"] for key in net.ask("GET", "/api/v1/keys", bearer=api_key).json()["keys"])
        group = blocks_of(sent)["sessionGroup"]
        owned = Owned(
            api_key=api_key,
            key_id=key_id,
            refresh_token=instance["refreshToken"],
            control=control_channel(instance["agentId"]),
            task_id=task_id,
            public_task_id=sent["taskId"],
            upload_session=upload["uploadSessionId"],
            upload_id=upload["uploadId"],
            group=group,
        )
        owned.channels = {
            "task": task_channel(task_id, "org_owner"),
            "setup": setup_channel(task_id, "org_owner"),
            "stream": stream_channel("own_private", f"{task_id}-1"),
            "stream of a public agent": stream_channel("own_public", f"{sent['taskId']}-1"),
            "control": owned.control,
            "presence of control": f"{owned.control}-pnpres",
            "registry": "registry.private",
            "registry of all": "registry.all",
            "registry by tag": "registry.tag.own_tag",
            "upload": upload_channel("org_owner", session),
            "sessions": group,
            "all tasks": "u.org_owner.*",
            "all sessions": "sessions.org_owner.*",
        }
        owned.secrets = {
            task_id,
            sent["taskId"],
            group,
            key_id,
            instance["agentId"],
            "own_private",
            "own-instance",
            WATCHER,
        }
        owned.secrets |= {"org_owner", session}
        return owned

    # --- the stranger ---

    def _arm(self) -> None:
        """One of each credential that a tenant can come to, all of them valid."""
        net, key = self.net, self.stranger
        assert net.register("strange", bearer=key, sections=STREAMING, listing="public").status_code == 201
        connected = net.connect("strange", "strange-instance", bearer=key, concurrency=0).json()
        self.control = connected["controlChannel"]
        consumer = net.consumer_token(key).json()
        self.bearers = {"key": key, "jwt": consumer["accessToken"], "instance": connected["accessToken"]}
        self.tokens["control"] = connected["pamToken"]
        listening = self.get(f"/v2/subscribe/{{sub}}/{self.control}/0", "control", tt="0")
        cursor = listening.json()["t"]["t"]
        blocks = {"stream": True, "reader": READER}
        sent = net.send("strange", bearer=key, extensions={"blocks": blocks})
        self.task_id = sent["taskId"]
        self.tokens["reader of a task"] = blocks_of(sent)["readToken"]
        visited = net.send("own_public", bearer=key, extensions={"blocks": {"stream": True}})
        self.tokens["reader of a task of the owner's agent"] = blocks_of(visited)["readToken"]
        asked = net.post(f"{AUTH}/reader-token", {"reader": READER, "billingMode": "free"}, bearer=key).json()
        self.tokens["sessions"], self.group = asked["pamToken"], asked["channel"]
        news = self.get(f"/v2/subscribe/{{sub}}/{self.control}/0", "control", tt=cursor).json()
        start = next(each["d"] for each in news["m"] if each["d"]["type"] == "StartTask")
        self.tokens["instance's of a task"] = start["writeToken"]
        stream_id = f"{self.task_id}-1"
        setup = StreamSetup(
            task_id=self.task_id,
            org_id="org_stranger",
            agent_name="strange",
            stream_id=stream_id,
            channel=stream_channel("strange", stream_id),
            direction="outbound",
            task_kind="request",
            duration_minutes=5,
            format="bytes",
            affinity="dedicated",
            phase="embedded",
        )
        self.setup = setup.to_wire()
        answered = self.publish(setup_channel(self.task_id, "org_stranger"), self.setup, "instance's of a task")
        self.tokens["stream"] = json.loads(answered.text)["message"]["streamSetupResponse"]["token"]

    def query(self, token: str, **more: str) -> dict[str, str]:
        """The parameters of a request of the PubNub protocol under one of the stranger's tokens."""
        text = self.tokens[token]
        return {"uuid": "strange-instance", **({} if text is None else {"auth": text}), **more}

    def get(self, path: str, token: str, **query: str) -> httpx.Response:
        path = path.replace("{sub}", self.keyset.subscribe_key)
        return self.net.http.get(path, params=self.query(token, **query))

    def publish(self, channel: str, message: Any, token: str) -> httpx.Response:
        keys = f"{self.keyset.publish_key}/{self.keyset.subscribe_key}"
        path = f"/publish/{keys}/0/{quote(channel, safe='')}/0"
        return self.net.http.post(path, params=self.query(token, store="0"), json=message)

    # --- what must stay as it is ---

    def owned(self) -> Any:
        """Everything that the owner can see of his own, and what the network knows of his instance."""
        net, key = self.net, self.owner.api_key
        ids = (self.owner.task_id, self.owner.public_task_id)
        tasks = [net.call("GetTask", {"taskId": task_id}, bearer=key)["result"] for task_id in ids]
        files = f"/v1/files/{self.keyset.subscribe_key}/channels/{self.owner.channels['upload']}/files"
        return (
            tasks,
            net.ask("GET", f"{AGENTS}?include=full&listing=private", bearer=key).json()["agents"],
            [net.ask("GET", f"{AGENTS}?agentName={name}", bearer=key).json() for name in ("own_private", "own_public")],
            net.ask("GET", "/api/v1/keys", bearer=key).json(),
            self.signed("GET", files),
            [self.history(channel) for channel in self.owner.channels.values() if not channel.endswith("*")],
            self.signed("GET", f"/v2/presence/sub-key/{self.keyset.subscribe_key}/uuid/{WATCHER}"),
        )

    def history(self, channel: str) -> Any:
        return self.signed("GET", f"/v3/history/sub-key/{self.keyset.subscribe_key}/channel/{channel}")

    def signed(self, method: str, path: str) -> Any:
        """What the network itself sees there: a request that its secret has signed."""
        query = f"timestamp={int(time.time())}&uuid=operator"
        said = f"{method}\n{self.keyset.publish_key}\n{path}\n{query}\n".encode()
        digest = hmac.digest(self.keyset.secret_key.encode(), said, "sha256")
        signature = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        answer = self.net.http.request(method, f"{path}?{query}&signature=v2.{signature}")
        assert answer.status_code == 200, answer.text
        return answer.json()
