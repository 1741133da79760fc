"""A network with several tenants on a real port, and what tests of its platform API ask of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx

from blocks_network.server.access.apikeys import ALL_SCOPES, ApiKeys
from blocks_network.server.app import OWNER_ORG
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import DataDirectory
from blocks_network.server.limits import Limits
from blocks_network.server.node import Node
from blocks_network.server.store.database import Database

T = TypeVar("T")
LIMITS = Limits(body_bytes=64 * 1024, card_bytes=16 * 1024, agents_per_org=40, agents_per_page=5)
AUTH = "/api/v1/auth"
AGENTS = "/api/v1/registry/agents"
RPC = "/api/v1/rpc"


def card(name: str, **sections: Any) -> dict[str, Any]:
    return {"identity": {"agentName": name, "displayName": f"The {name}"}, "runtime": {"handler": "x.py"}, **sections}


class PlatformNode:
    """`own` is the node's key, `other` another tenant's; `provider` and `consumer` are of the node's org, narrower."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(NodeConfig(data_dir=directory, limits=LIMITS)).start()
        self._url = DataDirectory(directory).database_url
        self.http = httpx.Client(base_url=self.node.base_url, timeout=10)
        self.own = self.node.api_key
        self.other = self.key("org_other", "user_other")
        self.provider = self.key(OWNER_ORG, "user_provider", {"provider"})
        self.consumer = self.key(OWNER_ORG, "user_consumer", {"consumer"})

    def close(self) -> None:
        self.http.close()
        self.node.stop()

    # --- beside the network, on its database: what its operator does ---

    def operate(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            database = Database(self._url)
            await database.start()
            try:
                return await work(database)
            finally:
                await database.stop()

        return asyncio.run(run())

    def key(self, org_id: str, user_id: str, scopes: Any = ALL_SCOPES) -> str:
        async def create(database: Database) -> str:
            _, secret = await ApiKeys(database).create(org_id=org_id, user_id=user_id, scopes=scopes)
            return secret

        return self.operate(create)

    def revoke(self, secret: str) -> None:
        async def revoke(database: Database) -> None:
            keys = ApiKeys(database)
            principal = await keys.verify(secret)
            assert principal is not None
            assert await keys.revoke(principal.key_id)

        self.operate(revoke)

    # --- its clients ---

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """`body` as JSON, or as it is when it is bytes."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.request(method, path, content=content, headers=sent)

    def post(self, path: str, body: Any = None, *, bearer: str | None = None) -> httpx.Response:
        return self.ask("POST", path, body, bearer=bearer)

    def register(self, name: str, *, bearer: str | None = None, sections: Any = None, **terms: Any) -> httpx.Response:
        body = {"card": card(name, **(sections or {})), "listing": "private", "billingMode": "free", **terms}
        return self.post(AGENTS, body, bearer=bearer or self.own)

    def connect(self, name: str, instance_id: str, *, bearer: str | None = None, **more: Any) -> httpx.Response:
        body = {"agentName": name, "instanceId": instance_id, "billingMode": "free", **more}
        return self.post(f"{AUTH}/agent/connect", body, bearer=bearer or self.own)

    def consumer_token(self, secret: str) -> httpx.Response:
        return self.post(f"{AUTH}/agent/consumer-token", {"apiKey": secret})

    def refresh(self, secret: str, token: str) -> httpx.Response:
        return self.post(f"{AUTH}/agent/refresh", {"refreshToken": token}, bearer=secret)

    def call(self, method: str, params: Any = None, *, bearer: str | None = None) -> dict[str, Any]:
        """The envelope that answers."""
        envelope = {"jsonrpc": "2.0", "id": "1", "method": method, "params": params}
        answer = self.post(RPC, envelope, bearer=bearer or self.own)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["jsonrpc"], said["id"]) == ("2.0", "1")
        assert isinstance(said, dict)
        return said

    def send(self, name: str, *, bearer: str | None = None, **more: Any) -> dict[str, Any]:
        """SendMessage's result."""
        said = self.call("SendMessage", {"agentName": name, "billingMode": "free", **more}, bearer=bearer)
        result = said["result"]
        assert isinstance(result, dict)
        return result


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which also has a sentence."""
    said = answer.json()
    assert isinstance(said["error"], str)
    assert said["error"]
    return answer.status_code, said["code"]
