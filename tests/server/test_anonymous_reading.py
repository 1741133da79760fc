"""Tasks that are read without an identity, by whoever has the fingerprint that they were sent with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import httpx
import pytest

from blocks_network import (
    AnonTaskAccessDenied,
    RpcError,
    SendMessageParams,
    text_part,
)
from blocks_network.agent.loading import derive_card
from blocks_network.api.registry import register_agent
from blocks_network.testing.network import Network

FINGERPRINT, ANOTHER = "of-this-browser-0", "of-that-browser-1"
S = 10


def anon_shout(task: Any) -> str:
    return str(task.request_parts[0].text).upper()


@pytest.fixture
def network(blocks: Network) -> Network:
    """With a public and free agent `anon_shout`, a private one, and a paid one."""
    for name, listing, mode, price in (
        ("anon_shout", "public", "free", None),
        ("anon_hidden", "private", "free", None),
        ("anon_dear", "public", "paid", 1.0),
    ):
        card = derive_card(name, None, None, None)
        register_agent(blocks.base_url, blocks.api_key, card, listing=listing, billing_mode=mode, price_per_task=price)
    blocks.agent(anon_shout, register=False)
    return blocks


def send(network: Network, fingerprint: str | None = FINGERPRINT) -> str:
    request: Any = {"agent_name": "anon_shout", "request_parts": [text_part("quiet")]}
    with network.client().send_message(**request, anon_fingerprint=fingerprint) as session:
        session.wait_for_terminal(timeout=S)
        return session.task_id


def rpc(network: Network, method: str, **params: Any) -> httpx.Response:
    envelope = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return httpx.post(f"{network.base_url}/api/v1/rpc", json=envelope, timeout=S)


def test_whoever_has_the_fingerprint_reads_the_task_and_its_result(network: Network) -> None:
    task_id = send(network)
    with network.client(anon_fingerprint=FINGERPRINT) as reader, reader.connect(task_id) as session:
        assert session.result(S).text == "QUIET"


def test_it_follows_a_task_that_runs(network: Network) -> None:
    with network.client() as client:
        params = SendMessageParams(
            agent_name="anon_shout", request_parts=[text_part("now")], anon_fingerprint=FINGERPRINT
        )
        with client.send_message(params) as sent, network.client(anon_fingerprint=FINGERPRINT) as reader:
            assert reader.connect(sent.task_id).wait_for_terminal(timeout=S).state == "completed"


def test_nobody_else_reads_it(network: Network) -> None:
    with_one, without = send(network), send(network, None)
    with network.client(anon_fingerprint=ANOTHER) as stranger:
        with pytest.raises(AnonTaskAccessDenied, match="403"):
            stranger.connect(with_one)
        for task_id in (without, "task-none"):
            with pytest.raises(RpcError, match="no task"):
                stranger.connect(task_id)
    for task_id, fingerprint in ((without, FINGERPRINT), ("task-none", FINGERPRINT), (with_one, ANOTHER)):
        body = {"taskId": task_id, "fingerprint": fingerprint}
        answer = httpx.post(f"{network.base_url}/api/v1/auth/anon-task-read-token", json=body, timeout=S)
        assert (answer.status_code, answer.json()["code"]) == (403, "ANON_ACCESS_DENIED")


def test_without_the_fingerprint_nothing_is_told_but_how_far_it_is(network: Network) -> None:
    task_id = send(network)
    told = rpc(network, "GetTask", taskId=task_id).json()["result"]["task"]
    assert (told["taskId"], told["agentName"], told["state"]) == (task_id, "anon_shout", "completed")
    assert not {"owner", "orgId", "instanceId", "error", "warnings"} & set(told)


@pytest.mark.parametrize("method", ["SendMessage", "ListTasks", "CancelTask", "TerminateTask", "RetryTask", "Nothing"])
def test_nothing_else_is_called_without_an_identity(network: Network, method: str) -> None:
    answer = rpc(network, method, taskId=send(network))
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"method": "GetTask", "x": "%s"}' % (b"x" * 5_000)])
def test_what_cannot_be_read_is_nobodys_call(network: Network, body: bytes) -> None:
    assert httpx.post(f"{network.base_url}/api/v1/rpc", content=body, timeout=S).status_code == 401


def test_only_tasks_of_public_and_free_agents_take_a_fingerprint(network: Network) -> None:
    for name, mode in (("anon_hidden", "free"), ("anon_dear", "paid")):
        with network.client(mode) as client, pytest.raises(RpcError, match="public and free") as caught:  # type: ignore[arg-type]
            client.send_message(agent_name=name, request_parts=[text_part("x")], anon_fingerprint=FINGERPRINT)
        assert (caught.value.data or {})["code"] == "AnonymousReadNotAllowed"


@pytest.mark.parametrize("fingerprint", ["short", "x" * 256, f"nul \x00 {FINGERPRINT}"])
def test_a_fingerprint_has_a_length_that_nobody_guesses(network: Network, fingerprint: str) -> None:
    with network.client() as client, pytest.raises(RpcError, match="anonFingerprint"):
        client.send_message(agent_name="anon_shout", request_parts=[text_part("x")], anon_fingerprint=fingerprint)


def test_the_fingerprint_reaches_neither_the_agent_nor_the_answers(network: Network) -> None:
    seen: list[str] = []

    def anon_look(task: Any) -> str:
        seen.append(repr(asdict(task)))
        return "done"

    register_agent(network.base_url, network.api_key, derive_card("anon_look", None, None, None), listing="public")
    network.agent(anon_look, register=False)
    with network.client() as client:
        session = client.send_message(
            agent_name="anon_look", request_parts=[text_part("x")], anon_fingerprint=FINGERPRINT
        )
        session.wait_for_terminal(timeout=S)
        told = repr(client.get_task(session.task_id)) + repr([event.raw for event in session.list_events()])
    assert len(seen) == 1
    assert FINGERPRINT not in seen[0] + told
