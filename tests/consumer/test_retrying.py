"""What a client does when the network has no time: it comes back, when it was told to, for as long as is sensible."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from blocks_network import TaskClient
from blocks_network.api.caller import retry_after_s
from blocks_network.errors import RpcError

RPC = "/api/v1/rpc"
AT_ONCE = {"Retry-After": "0"}


@pytest.fixture
def client(platform: Any) -> TaskClient:
    return TaskClient("sub", "free", base_url=platform.url)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_call_comes_back_when_it_was_told_to(client: TaskClient, platform: Any, status: int) -> None:
    busy = (status, {"error": "later"}, AT_ONCE)
    platform.answer(RPC, busy, busy, (200, {"result": {"tasks": []}}))
    client.list_tasks()
    assert len(platform.to(RPC)) == 3


def test_a_message_is_sent_again_under_the_same_key(client: TaskClient, platform: Any) -> None:
    refusal = (200, {"error": {"code": -32000, "message": "enough"}})
    platform.answer(RPC, (504, {"error": "gateway"}, AT_ONCE), refusal)
    with pytest.raises(RpcError, match="enough"):
        client.send_message(agent_name="a")
    first, second = platform.to(RPC)
    assert first.body["params"]["idempotencyKey"] == second.body["params"]["idempotencyKey"] != ""


def test_a_wait_longer_than_our_patience_is_an_error_at_once(client: TaskClient, platform: Any) -> None:
    platform.answer(RPC, (503, {"error": "maintenance until noon"}, {"Retry-After": "7200"}))
    with pytest.raises(RpcError, match="maintenance until noon") as caught:
        client.list_tasks()
    assert caught.value.code == 503
    assert len(platform.to(RPC)) == 1


def test_the_tries_have_an_end(client: TaskClient, platform: Any) -> None:
    platform.answer(RPC, (429, {"error": "too many"}, AT_ONCE))
    with pytest.raises(RpcError, match="too many"):
        client.list_tasks()
    assert len(platform.to(RPC)) == 8


def test_other_errors_are_final(client: TaskClient, platform: Any) -> None:
    platform.answer(RPC, (500, {"error": "broken"}))
    with pytest.raises(RpcError, match="broken"):
        client.list_tasks()
    assert len(platform.to(RPC)) == 1


def test_a_network_that_is_not_there_is_said_with_a_hint() -> None:
    client = TaskClient("sub", "free", base_url="http://127.0.0.1:9")
    with pytest.raises(RpcError, match="base URL"):
        client.get_task("task-1")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("2") == 2.0
    assert retry_after_s("-5") == 0.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    assert retry_after_s("inf") is None
    in_a_minute = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=60), usegmt=True)
    assert 55 < (retry_after_s(in_a_minute) or 0) <= 60
