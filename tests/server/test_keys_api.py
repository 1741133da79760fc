"""API keys over the platform API: what a key may give, see and end, and what another tenant may not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from blocks_network.testing.network import Network


class As:
    """Calls the platform as one API key."""

    def __init__(self, network: Network, api_key: str) -> None:
        self._base, self._headers = network.base_url, {"Authorization": f"Bearer {api_key}"}

    def create(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self._base}/api/v1/keys", json=body, headers=self._headers)

    def made(self, **body: Any) -> dict[str, Any]:
        answer = self.create(**body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def seen(self) -> list[str]:
        answer = httpx.get(f"{self._base}/api/v1/keys", headers=self._headers)
        assert answer.status_code == 200, answer.text
        return [key["keyId"] for key in answer.json()["keys"]]

    def revoke(self, key_id: str) -> httpx.Response:
        return httpx.delete(f"{self._base}/api/v1/keys/{key_id}", headers=self._headers)

    def offline(self, agent_name: str, offline: bool) -> httpx.Response:
        body = {"agentName": agent_name, "offline": offline}
        return httpx.post(f"{self._base}/api/v1/admin/agents/offline", json=body, headers=self._headers)

    def connect(self, agent_name: str) -> httpx.Response:
        body = {"agentName": agent_name, "instanceId": "one", "billingMode": "free"}
        return httpx.post(f"{self._base}/api/v1/auth/agent/connect", json=body, headers=self._headers)


@pytest.fixture
def operator(blocks: Network) -> As:
    return As(blocks, blocks.api_key)


def test_a_tenant_sees_and_ends_its_own_keys_alone(blocks: Network, operator: As) -> None:
    first = operator.made(orgId="org_one")
    other = operator.made(orgId="org_two")
    one = As(blocks, first["apiKey"])
    assert first["userId"] == "user_one"
    further = one.made(label="second")
    assert (further["orgId"], further["userId"]) == ("org_one", "user_one")
    assert one.seen() == [first["keyId"], further["keyId"]]
    assert one.revoke(other["keyId"]).status_code == 404
    assert {first["keyId"], further["keyId"], other["keyId"]} < set(operator.seen())

    assert one.revoke(further["keyId"]).status_code == 200
    assert As(blocks, further["apiKey"]).create().status_code == 401
    assert As(blocks, further["apiKey"]).create().json()["code"] == "API_KEY_INVALID"
    assert one.revoke(further["keyId"]).status_code == 200  # again, after an answer that was lost


def test_only_the_operator_makes_keys_for_others(blocks: Network, operator: As) -> None:
    one = As(blocks, operator.made()["apiKey"])
    assert one.create(orgId="org_two").status_code == 403
    assert one.create(userId="user_else").status_code == 403
    assert operator.made()["scopes"] == ["consumer", "provider"]  # the operator's own scope is not handed on
    assert operator.create(scopes=["operator"]).status_code == 400


def test_a_key_gives_and_ends_no_more_than_it_may(blocks: Network, operator: As) -> None:
    own = operator.made(scopes=["consumer"])
    consumer = As(blocks, own["apiKey"])
    provider = operator.made(scopes=["provider"])
    assert consumer.create(scopes=["provider"]).status_code == 403
    assert consumer.made()["scopes"] == ["consumer"]
    assert consumer.revoke(provider["keyId"]).status_code == 403
    assert consumer.revoke(own["keyId"]).status_code == 409
    assert consumer.made()["scopes"] == ["consumer"]  # it still holds


def test_a_token_manages_no_keys(blocks: Network) -> None:
    token = httpx.post(f"{blocks.base_url}/api/v1/auth/agent/consumer-token", json={"apiKey": blocks.api_key})
    bearer = As(blocks, token.json()["accessToken"])
    assert bearer.create().status_code == 401
    assert bearer.offline("anybody", True).status_code == 401


@pytest.mark.parametrize(
    "body",
    [{"scopes": []}, {"scopes": "consumer"}, {"scopes": [1]}, {"scopes": [[]]}, {"orgId": "org two"}, {"label": 7}],
)
def test_what_cannot_be_a_key_is_refused(operator: As, body: dict[str, Any]) -> None:
    assert operator.create(**body).status_code == 400


def test_an_agent_that_is_forced_offline_does_not_connect(blocks: Network, operator: As) -> None:
    blocks.agent(lambda task: None, name="banned_agent").stop(0)
    owner = As(blocks, operator.made()["apiKey"])
    assert owner.offline("banned_agent", True).status_code == 403
    assert owner.connect("banned_agent").status_code == 200
    assert operator.offline("banned_agent", True).json() == {"agentName": "banned_agent", "offline": True}
    refused = owner.connect("banned_agent")
    assert (refused.status_code, refused.json()["code"]) == (403, "AGENT_FORCED_OFFLINE")
    assert operator.offline("banned_agent", False).status_code == 200
    assert owner.connect("banned_agent").status_code == 200
    assert operator.offline("no_such_agent", True).status_code == 404
