"""What the platform API does with what happens inside its own node: keys revoked there, and no room for tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx
from platform_node import AGENTS, AUTH, RPC, card, refused
from sqlalchemy import Connection

from blocks_network.server.app import OWNER_ORG, OWNER_USER, Network
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import Identity
from blocks_network.server.limits import Limits
from blocks_network.server.store.instances import note_instance
from blocks_network.server.store.providers import instance_concurrency


def with_network(work: Callable[[Network, httpx.AsyncClient], Awaitable[None]], limits: Limits | None = None) -> None:
    """Runs `work` in the loop of a whole network, which it calls without sockets, as an owner of a fresh API key."""

    async def run() -> None:
        config = NodeConfig(limits=limits or Limits())
        network = Network(
            config, Identity.generate(None), directory=None, base_url="http://network", origin="network:80"
        )
        await network.start()
        try:
            transport = httpx.ASGITransport(network)
            async with httpx.AsyncClient(transport=transport, base_url="http://network") as http:
                await work(network, http)
        finally:
            await network.release()
            await network.stop()

    asyncio.run(run())


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def test_the_tokens_of_a_key_end_with_it() -> None:
    async def work(network: Network, http: httpx.AsyncClient) -> None:
        key_id, secret = await network.api_keys.create(org_id=OWNER_ORG, user_id=OWNER_USER)
        token = (await http.post(f"{AUTH}/agent/consumer-token", json={"apiKey": secret})).json()["accessToken"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert "result" in (await http.post(RPC, json=call("ListTasks"), headers=bearer)).json()
        await network.api_keys.revoke(key_id)
        assert refused(await http.post(RPC, json=call("ListTasks"), headers=bearer)) == (401, "TOKEN_REVOKED")

    with_network(work)


def test_a_network_without_room_says_when_to_come_back() -> None:
    async def work(network: Network, http: httpx.AsyncClient) -> None:
        _, secret = await network.api_keys.create(org_id=OWNER_ORG, user_id=OWNER_USER)
        bearer = {"Authorization": f"Bearer {secret}"}
        await http.post(AGENTS, json={"card": card("sum"), "billingMode": "free"}, headers=bearer)
        params = {"agentName": "sum", "billingMode": "free"}
        assert "result" in (await http.post(RPC, json=call("SendMessage", **params), headers=bearer)).json()
        answer = await http.post(RPC, json=call("SendMessage", **params), headers=bearer)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["error"]["data"]["code"] == "NetworkBusy"

    with_network(work, Limits(living_tasks=1))


def test_only_the_instances_that_connected_last_are_remembered() -> None:
    async def work(network: Network, http: httpx.AsyncClient) -> None:
        _, secret = await network.api_keys.create(org_id=OWNER_ORG, user_id=OWNER_USER)
        bearer = {"Authorization": f"Bearer {secret}"}
        await http.post(AGENTS, json={"card": card("sum"), "billingMode": "free"}, headers=bearer)
        connect = {"agentName": "sum", "instanceId": "i0", "billingMode": "free", "concurrency": 1}
        agent_id = (await http.post(f"{AUTH}/agent/connect", json=connect, headers=bearer)).json()["agentId"]
        later_ms = int(time.time() * 1000) + 1_000
        for number in (1, 2, 3, 2):
            noted = partial(note_instance, agent_id=agent_id, concurrency=number, scaling={}, keep=2)
            at_ms = later_ms = later_ms + 1
            assert await network.database.write(partial(noted, instance_id=f"i{number}", at_ms=at_ms))

        def known(connection: Connection) -> list[int | None]:
            return [instance_concurrency(connection, agent_id, f"i{number}") for number in range(4)]

        assert await network.database.read(known) == [None, None, 2, 3]

    with_network(work, Limits(instances_per_agent=2))
