"""A consumer's token: where it comes from, how it is renewed, and what happens when it cannot be."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from blocks_network import AuthRefreshFailedError, BlocksError, ConsumerAuth, TaskClient, TokenResult
from blocks_network.api.caller import AuthProvider
from blocks_network.auth import keeper
from blocks_network.errors import RpcError

TOKEN = "/api/v1/auth/agent/consumer-token"
REFRESH = "/api/v1/auth/agent/refresh"
RPC = "/api/v1/rpc"
OWN = "/own/token"


@pytest.fixture(autouse=True)
def _no_renewal_counts_as_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests renew faster than people do."""
    monkeypatch.setattr(keeper, "FRESH_S", 0.0)


def only_for(token: str, result: dict[str, Any]) -> Any:
    """A platform's answer that lets one bearer in."""

    def answer(call: Any) -> tuple[int, Any]:
        if call.headers["Authorization"] != f"Bearer {token}":
            return 401, {"error": "token expired"}
        return 200, {"result": result}

    return answer


def test_an_api_key_becomes_a_token_and_later_a_renewed_one(platform: Any) -> None:
    platform.answer(TOKEN, (200, {"accessToken": "t-1", "refreshToken": "r-1", "expiresIn": 600, "userId": "ada"}))
    platform.answer(REFRESH, (200, {"accessToken": "t-2", "refreshToken": "r-2", "expiresIn": 600}))
    auth = ConsumerAuth(api_key="bk_1", base_url=platform.url)
    auth.init()
    assert platform.to(TOKEN)[0].headers["Authorization"] is None
    assert auth.on_auth_failure()
    assert auth.on_auth_failure()
    assert (auth.get_auth_header(), auth.get_user_id()) == ("Bearer t-2", "ada")  # an answer without user keeps it
    assert [call.body for call in platform.to(REFRESH)] == [{"refreshToken": "r-1"}, {"refreshToken": "r-2"}]
    assert platform.to(REFRESH)[0].headers["Authorization"] == "Bearer bk_1"
    auth.destroy()


def test_a_refresh_token_that_is_not_taken_means_to_begin_again(platform: Any) -> None:
    platform.answer(
        TOKEN,
        (200, {"accessToken": "t-1", "refreshToken": "r-1", "expiresIn": 600}),
        (200, {"accessToken": "t-2", "refreshToken": "r-9", "expiresIn": 600}),
    )
    platform.answer(REFRESH, (401, {"code": "REFRESH_TOKEN_INVALID", "error": "used"}))
    auth = ConsumerAuth(api_key="bk_1", base_url=platform.url)
    auth.init()
    assert auth.on_auth_failure()
    assert auth.get_auth_header() == "Bearer t-2"
    auth.destroy()


def test_a_token_endpoint_gets_its_headers_and_body_and_nothing_of_the_platforms(platform: Any) -> None:
    platform.answer(OWN, (200, {"token": "t-1", "expiresIn": 600, "userId": "bob"}))
    config: Any = {"url": f"{platform.url}{OWN}", "headers": {"X-Session": "s", "Content-Type": "text/x"}, "body": [1]}
    with TaskClient.create("free", platform.document(), token_endpoint=config) as client:
        assert client.get_user_id() == "bob"
    (call,) = platform.to(OWN)
    assert (call.body, call.headers["X-Session"], call.headers["Content-Type"]) == ([1], "s", "text/x")
    assert not {"authorization", "x-write-affinity", "blocks-protocol-version"} & {
        name.lower() for name in call.headers
    }


def test_a_token_endpoint_may_be_an_address_alone(platform: Any) -> None:
    platform.answer(OWN, (200, {"token": "t-1"}))
    auth = ConsumerAuth(token_endpoint=f"{platform.url}{OWN}")
    auth.init()
    assert (auth.get_auth_header(), platform.to(OWN)[0].body) == ("Bearer t-1", {})
    auth.destroy()


@pytest.mark.parametrize("config", [{"url": ""}, {"headers": {}}, {"url": 7}])
def test_a_token_endpoint_without_address_is_a_value_error(config: Any) -> None:
    with pytest.raises(ValueError, match="url"):
        ConsumerAuth(token_endpoint=config).init()


def test_what_a_token_provider_raises_is_what_create_raises(platform: Any) -> None:
    def provider() -> TokenResult:
        raise LookupError("vault is sealed")

    with pytest.raises(LookupError, match="vault is sealed"):
        TaskClient.create("free", platform.document(), token_provider=provider)


def test_five_threads_with_a_401_share_one_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def provider() -> TokenResult:
        if given:
            monkeypatch.setattr(keeper, "FRESH_S", 60.0)  # whoever comes late shares this one
        given.append(f"t-{len(given) + 1}")
        return TokenResult(given[-1], 600)

    auth = ConsumerAuth(token_provider=provider)
    auth.init()
    together = threading.Barrier(5)
    outcomes: list[bool] = []

    def meet_401() -> None:
        together.wait(10)
        outcomes.append(auth.on_auth_failure())

    threads = [threading.Thread(target=meet_401) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (outcomes, given) == ([True] * 5, ["t-1", "t-2"])
    auth.destroy()


def test_the_token_in_hand_is_readable_while_the_next_one_is_on_its_way() -> None:
    asked, release = threading.Event(), threading.Event()

    def provider() -> TokenResult:
        if not auth.get_auth_header():
            return TokenResult("t-1", 600)
        asked.set()
        assert release.wait(10)
        return TokenResult("t-2", 600)

    auth = ConsumerAuth(token_provider=provider)
    auth.init()
    renewing = threading.Thread(target=auth.on_auth_failure)
    renewing.start()
    assert asked.wait(10)
    assert auth.get_auth_header() == "Bearer t-1"
    release.set()
    renewing.join(10)
    assert auth.get_auth_header() == "Bearer t-2"
    auth.destroy()


def test_a_call_with_an_ended_token_is_renewed_and_made_again(platform: Any) -> None:
    tokens = iter(["t-1", "t-2"])
    platform.answer(RPC, only_for("t-2", {"tasks": [{"taskId": "task-1"}]}))
    with TaskClient.create(
        "free", platform.document(), token_provider=lambda: TokenResult(next(tokens), 600)
    ) as client:
        assert [task.task_id for task in client.list_tasks().tasks] == ["task-1"]
    assert len(platform.to(RPC)) == 2


@pytest.mark.parametrize("code", ["EMBEDDED_JWT_REVOKED", "EMBEDDED_JWT_SCOPE_DRIFT", "AGENT_OUT_OF_SCOPE"])
def test_an_identity_that_is_out_of_date_is_renewed_too(platform: Any, code: str) -> None:
    platform.answer(
        RPC,
        (200, {"error": {"code": -32000, "message": "no", "data": {"code": code}}}),
        (200, {"result": {"tasks": []}}),
    )
    asked: list[int] = []

    def provider() -> TokenResult:
        asked.append(1)
        return TokenResult("t", 600)

    with TaskClient.create("free", platform.document(), token_provider=provider) as client:
        client.list_tasks()
    assert len(asked) == 2


def test_a_recorded_failure_is_raised_before_any_request_and_heals(platform: Any) -> None:
    sealed = threading.Event()

    def provider() -> TokenResult:
        if sealed.is_set():
            raise LookupError("vault is sealed")
        return TokenResult("t-1", 600)

    platform.answer(RPC, (401, {"error": "ended"}), (200, {"result": {"tasks": []}}))
    with TaskClient.create("free", platform.document(), token_provider=provider) as client:
        sealed.set()
        with pytest.raises(RpcError) as refused:
            client.list_tasks()
        assert refused.value.code == 401
        sent = len(platform.to(RPC))
        with pytest.raises(AuthRefreshFailedError, match="vault is sealed") as caught:
            client.list_tasks()
        assert isinstance(caught.value.__cause__, LookupError)
        assert isinstance(caught.value, BlocksError)
        assert len(platform.to(RPC)) == sent
        sealed.clear()
        client.list_tasks()
        assert len(platform.to(RPC)) == sent + 1


def test_after_destroy_the_token_is_readable_and_never_renewed(platform: Any) -> None:
    asked: list[int] = []

    def provider() -> TokenResult:
        asked.append(1)
        return TokenResult("t-1", 600)

    platform.answer(RPC, (200, {"result": {"tasks": []}}))
    client = TaskClient.create("free", platform.document(), token_provider=provider)
    client.destroy()
    client.destroy()
    client.list_tasks()
    assert platform.to(RPC)[0].headers["Authorization"] == "Bearer t-1"
    assert client._auth_provider is not None
    assert client._auth_provider.on_auth_failure() is False
    assert len(asked) == 1


def test_on_auth_error_hears_the_cause_when_a_token_could_not_be_renewed_in_time(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(keeper, "RETRY", keeper.Backoff(first_s=0.0))
    asked: list[int] = []
    heard: list[Exception] = []
    told = threading.Event()

    def provider() -> TokenResult:
        asked.append(1)
        if len(asked) > 1:
            raise LookupError(f"no {len(asked)}")
        return TokenResult("t-1", 0)

    def on_auth_error(fault: Exception) -> None:
        heard.append(fault)
        told.set()
        raise RuntimeError("a fault in here changes nothing")

    with TaskClient.create("free", platform.document(), token_provider=provider, on_auth_error=on_auth_error):
        assert told.wait(10)
    assert [str(fault) for fault in heard] == ["no 4"]
    assert len(asked) == 4


class Bare:
    """The two methods that the protocol demands, and no other."""

    def __init__(self, *headers: str) -> None:
        self.headers = list(headers)

    def get_auth_header(self) -> str:
        return self.headers[0]

    def on_auth_failure(self) -> bool:
        if len(self.headers) == 1:
            return False
        self.headers.pop(0)
        return True


def test_a_provider_with_the_two_methods_alone_works(platform: Any) -> None:
    provider = Bare("Bearer t-1", "Bearer t-2")
    assert isinstance(provider, AuthProvider)
    platform.answer(RPC, only_for("t-2", {"tasks": []}))
    client = TaskClient("sub", "free", base_url=platform.url, auth_provider=provider)
    client.list_tasks()
    assert client.get_user_id() is None


REGISTRY = "/api/v1/registry/agents"


def card_for(token: str) -> Any:
    """The registry answers an ended bearer as it answers strangers: 404."""

    def answer(call: Any) -> tuple[int, Any]:
        if call.headers["Authorization"] != f"Bearer {token}":
            return 404, {"error": "unknown agent"}
        return 200, {"agent": {"agentName": "a", "card": {"identity": {"agentName": "a"}}}}

    return answer


def test_a_card_behind_an_ended_token_is_found_after_a_renewal(platform: Any) -> None:
    platform.answer(REGISTRY, card_for("t-2"))
    client = TaskClient("sub", "free", base_url=platform.url, auth_provider=Bare("Bearer t-1", "Bearer t-2"))
    assert client.get_agent_card("a") == {"identity": {"agentName": "a"}}
    assert [call.headers["Authorization"] for call in platform.to(REGISTRY)] == ["Bearer t-1", "Bearer t-2"]


def test_no_card_means_no_agent_and_never_an_ended_token(platform: Any) -> None:
    sealed = threading.Event()

    def provider() -> TokenResult:
        if sealed.is_set():
            raise LookupError("vault is sealed")
        return TokenResult("t-1", 600)

    with TaskClient.create("free", platform.document(), token_provider=provider) as client:
        assert client.get_agent_card("nobody") is None
        sealed.set()
        with pytest.raises(AuthRefreshFailedError):
            client.get_agent_card("nobody")
    anonymous = TaskClient("sub", "free", base_url=platform.url)
    assert anonymous.get_agent_card("nobody") is None
