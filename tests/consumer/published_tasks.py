"""A task whose every event a test publishes itself, through a real gateway."""

from __future__ import annotations

import base64
import itertools
import sys
from pathlib import Path
from typing import Any

from blocks_network import TaskClient, TokenResult
from blocks_network.consumer.session import TaskSession
from blocks_network.server.access.permissions import Bits

sys.path.append(str(Path(__file__).parent.parent / "protocol"))  # the gateway's own harness
from gateway_harness import GatewayNode

RPC = "/api/v1/rpc"
READ_TOKEN = "/api/v1/auth/task-read-token"
S = 10.0
"""The deadline of each wait; what is waited for comes within milliseconds."""


NUMBERS = itertools.count(1)
"""Of tasks: the gateway keeps what the test before has published."""


class World:
    """A client, the platform behind its calls, and the gateway behind its sessions."""

    def __init__(self, platform: Any, gateway: GatewayNode) -> None:
        self.platform, self.gateway = platform, gateway
        self.sessions: list[TaskSession] = []
        self._publisher = gateway.client("the-agent", secret=True)
        self.document = platform.document(
            playground={"publishKey": gateway.keyset.publish_key, "subscribeKey": gateway.keyset.subscribe_key},
            network={"publishKey": gateway.open_keyset.publish_key, "subscribeKey": gateway.open_keyset.subscribe_key},
            transport={"origin": gateway.origin, "ssl": False},
        )
        self.tokens = itertools.count(1)
        self.client = TaskClient.create(
            "free", self.document, token_provider=lambda: TokenResult(f"t-{next(self.tokens)}", 600, "ada")
        )

    def token(self, channel: str) -> str:
        return self.gateway.mint(channels={channel: Bits.READ})

    def tell(self, task_id: str, *events: dict[str, Any]) -> None:
        """Publishes events of a task, one after another."""
        for event in events:
            self._publisher.publish().channel(f"u.org.{task_id}").message({"taskId": task_id, **event}).sync()

    def send(
        self,
        *,
        task_id: str | None = None,
        before: tuple[dict[str, Any], ...] = (),
        cursor: bool = False,
        blocks: dict[str, Any] | None = None,
        arguments: dict[str, Any] | None = None,
        **answer: Any,
    ) -> TaskSession:
        """Sends a message; `before` was published when the answer came."""
        task_id = task_id or f"task-{next(NUMBERS)}"
        channel = f"u.org.{task_id}"
        given: dict[str, Any] = {"readToken": self.token(channel), "streamChannels": {"status": channel}}
        if cursor:
            given["cursor"] = "16000000000000000"
        given |= blocks or {}
        self.tell(task_id, *before)
        self.platform.answer(RPC, rpc({"taskId": task_id, "extensions": {"blocks": given}, **answer}))
        self.sessions.append(self.client.send_message(agent_name="writer", **(arguments or {})))
        return self.sessions[-1]

    def connect(self, *events: dict[str, Any], state: str = "running", **arguments: Any) -> TaskSession:
        task_id = f"task-{next(NUMBERS)}"
        self.tell(task_id, *events)
        self.knows(task_id, state=state)
        self.sessions.append(self.client.connect(task_id, **arguments))
        return self.sessions[-1]

    def knows(self, task_id: str, **fields: Any) -> None:
        channel = f"u.org.{task_id}"
        self.platform.answer(
            RPC, rpc({"task": {"taskId": task_id, "agentName": "writer", "owner": "ada", "state": "running", **fields}})
        )
        self.platform.answer(READ_TOKEN, (200, {"pamToken": self.token(channel), "channel": channel, "ttlMinutes": 60}))


def rpc(result: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 200, {"jsonrpc": "2.0", "id": "1", "result": result}


def said(text: str) -> dict[str, Any]:
    return {"type": "progress", "message": text}


def artifact(text: str, output_id: str | None = None, **more: Any) -> dict[str, Any]:
    ref = {
        "kind": "inline",
        "mimeType": "text/plain",
        "size": len(text),
        "data": base64.b64encode(text.encode()).decode(),
    }
    return {"type": "artifact", "artifactRef": {**ref, **more}, "outputId": output_id}


def announced(*stream_ids: str, declared: str | None = None, direction: str = "outbound") -> dict[str, Any]:
    entry = {"token": "t", "direction": direction, "format": "events", "affinity": "dedicated"}
    return {
        "type": "progress",
        "streamEvent": "stream_started",
        "streams": {each: {**entry, "channel": f"stream.writer.{each}"} for each in stream_ids},
        "declaredStream": declared,
    }


DONE = {"type": "terminal", "state": "completed"}
FAILED = {"type": "terminal", "state": "failed", "error": "page 3 is torn"}
CANCELED = {"type": "terminal", "state": "canceled", "reason": "user"}
CANCEL_REQUESTED = {"type": "cancel_requested", "ts": 1}


def messages(events: list[Any]) -> list[Any]:
    return [event.message for event in events if event.message is not None]
