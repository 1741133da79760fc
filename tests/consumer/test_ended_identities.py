"""Tokens and keys that end, are revoked, or are refused to many at once: while sessions wait and calls are made."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from published_tasks import DONE, READ_TOKEN, RPC, GatewayNode, S, World, messages, rpc, said

from blocks_network import TaskClient
from blocks_network.errors import BlocksError
from blocks_network.server.access.permissions import Bits
from blocks_network.testing.network import Network


def test_a_bearer_and_a_read_token_that_end_while_a_session_waits_are_both_renewed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network refuses the read token; asked for another, it refuses the bearer; with a new one all goes on."""
    monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 0.0)  # the bearer was acquired a moment ago
    elsewhere = world.token("u.org.somewhere-else")
    task_id = "task-both-ended"
    channel = f"u.org.{task_id}"
    fresh = world.token(channel)

    def read_token(call: Any) -> tuple[int, dict[str, Any]]:
        if call.headers["Authorization"] == "Bearer t-1":
            return 401, {"error": "the token has expired", "code": "TOKEN_EXPIRED"}
        return 200, {"pamToken": fresh, "channel": channel, "ttlMinutes": 60}

    world.platform.answer(READ_TOKEN, read_token)
    session = world.send(task_id=task_id, cursor=True, before=(said("a"),), blocks={"readToken": elsewhere})
    world.tell(task_id, said("b"), DONE)
    assert session.wait_for_terminal(S).state == "completed"
    assert messages(session.list_events()) == ["a", "b"]
    assert session.read_token == fresh


def test_a_read_token_that_ends_during_a_poll_is_renewed_without_a_gap(world: World, gateway: GatewayNode) -> None:
    """Revoked in the middle of a held poll, as an expiry is; the session asks for another and misses nothing."""
    task_id = "task-revoked-midway"
    channel = f"u.org.{task_id}"
    another = gateway.mint(ttl_minutes=30, channels={channel: Bits.READ})
    world.platform.answer(READ_TOKEN, (200, {"pamToken": another, "channel": channel, "ttlMinutes": 30}))
    session = world.send(task_id=task_id, cursor=True, before=(said("a"),))
    token = session.read_token
    assert token is not None
    assert next(iter(session)).message == "a"
    sender = gateway.client("the-owner", secret=True)
    sender.revoke_token(token).sync()
    world.tell(task_id, said("b"), DONE)
    assert session.wait_for_terminal(S).state == "completed"
    assert messages(session.list_events()) == ["a", "b"]
    assert session.read_token == another


def test_a_storm_of_401_from_fifty_threads_is_one_renewal(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 0.0)  # the first token was acquired a moment ago
    document = platform.document()
    platform.answer(
        "/api/v1/auth/agent/consumer-token",
        (200, {"accessToken": "old", "refreshToken": "r-1", "expiresIn": 600, "userId": "ada"}),
    )

    def renewed(call: Any) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr("blocks_network.auth.keeper.FRESH_S", 60.0)  # whoever comes late shares this one
        return 200, {"accessToken": "new", "refreshToken": "r-2", "expiresIn": 600}

    platform.answer("/api/v1/auth/agent/refresh", renewed)

    def listed(call: Any) -> tuple[int, dict[str, Any]]:
        return rpc({"tasks": []}) if call.headers["Authorization"] == "Bearer new" else (401, {"error": "expired"})

    platform.answer(RPC, listed)
    with TaskClient.create("free", document, api_key="bk_1") as client:
        together = threading.Barrier(50)
        outcomes: list[int] = []

        def call() -> None:
            together.wait(S)
            outcomes.append(len(client.list_tasks().tasks))

        threads = [threading.Thread(target=call) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(S)
        assert outcomes == [0] * 50
    assert len(platform.to("/api/v1/auth/agent/refresh")) == 1
    assert len(platform.to("/api/v1/auth/agent/consumer-token")) == 1


def test_a_key_that_is_revoked_ends_the_calls_with_its_reason_and_not_the_sessions(blocks: Network) -> None:
    from blocks_network.api.caller import Caller
    from blocks_network.api.keys import create_key, revoke_key

    release = threading.Event()
    blocks.agent(lambda task: release.wait(S) and "late", name="outlives_its_key")
    platform = Caller(blocks.base_url)
    key = create_key(platform, blocks.api_key, label="soon revoked")
    with blocks.client(api_key=key.api_key) as client:
        session = client.send_message(agent_name="outlives_its_key")
        revoke_key(platform, blocks.api_key, key.info.key_id)
        with pytest.raises(BlocksError, match="API key"):
            client.list_tasks()
        with pytest.raises(BlocksError, match="API key"):
            client.send_message(agent_name="outlives_its_key")
        with pytest.raises(RuntimeError, match="API_KEY_INVALID"):
            blocks.client(api_key=key.api_key)
        release.set()
        assert session.wait_for_terminal(S).state == "completed"
