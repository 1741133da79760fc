"""Making a client: what decides where it goes and who it is, and what is refused before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from blocks_network import BlocksError, SendMessageParams, TaskClient, create_task_client
from blocks_network.errors import ConfigurationError, CredentialsMissingError, RpcError

TOKEN = "/api/v1/auth/agent/consumer-token"
RPC = "/api/v1/rpc"


@pytest.fixture
def cdm(platform: Any) -> str:
    platform.answer(TOKEN, (200, {"accessToken": "jwt-1", "refreshToken": "r-1", "expiresIn": 600, "userId": "ada"}))
    platform.answer(RPC, (200, {"result": {"tasks": []}}))
    return str(platform.document())


@pytest.mark.parametrize("mode", ["", "Free", "gratis", None])
def test_a_billing_mode_is_free_or_paid(mode: Any, platform: Any) -> None:
    with pytest.raises(ValueError, match="billing_mode"):
        TaskClient.create(mode, cdm_url=platform.url)
    assert not platform.calls


@pytest.mark.parametrize(
    "modes",
    [
        {"api_key": "k", "token_endpoint": "http://x"},
        {"api_key": "k", "anon_fingerprint": "f"},
        {"token_endpoint": "http://x", "token_provider": lambda: None},
    ],
)
def test_two_identities_are_refused_before_anything_is_sent(modes: dict[str, Any], platform: Any) -> None:
    with pytest.raises(ValueError, match="not several"):
        TaskClient.create("free", cdm_url=platform.url, **modes)
    assert not platform.calls


def test_empty_values_are_no_identities(cdm: str) -> None:
    with TaskClient.create("free", cdm, api_key="bk_1", token_endpoint="", anon_fingerprint="") as client:
        assert client.get_user_id() == "ada"


def test_an_anonymous_client_cannot_be_paid(platform: Any) -> None:
    with pytest.raises(ValueError, match="anon_fingerprint"):
        TaskClient.create("paid", cdm_url=platform.url, anon_fingerprint="f")
    assert not platform.calls


def test_a_client_without_credentials_sends_no_identity(cdm: str, platform: Any) -> None:
    with TaskClient.create("free", cdm) as client:
        assert client.get_user_id() is None
        client.list_tasks()
    assert platform.to(RPC)[0].headers["Authorization"] is None
    assert not platform.to(TOKEN)


def test_argument_beats_environment_beats_document(cdm: str, platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with TaskClient.create("paid", cdm) as client:
        assert client._keys.subscribe_key == "sub-paid"
    monkeypatch.setenv("BLOCKS_SUBSCRIBE_KEY", "sub-env")
    monkeypatch.setenv("BLOCKS_PUBLISH_KEY", "pub-env")
    monkeypatch.setenv("BLOCKS_BACKEND_URL", "http://env.invalid")
    with TaskClient.create("free", cdm, None, "pub-arg", platform.url) as client:
        assert (client._keys.subscribe_key, client._keys.publish_key) == ("sub-env", "pub-arg")
        client.list_tasks()
    assert platform.to(RPC)


def test_with_every_value_given_no_document_is_fetched(platform: Any) -> None:
    with TaskClient.create("free", None, "sub", "pub", platform.url) as client:
        assert client.billing_mode == "free"
    assert not platform.calls


def test_a_base_url_that_nobody_gives_is_named_with_its_sources(platform: Any) -> None:
    with pytest.raises(ValueError, match=r"base_url.*argument.*BLOCKS_BACKEND_URL.*CDM"):
        TaskClient.create("free", platform.document(api={}))


def test_a_key_that_the_network_refuses_is_said_by_create(platform: Any) -> None:
    platform.answer(TOKEN, (401, {"code": "API_KEY_INVALID", "error": "no such key"}))
    with pytest.raises(RuntimeError, match="API_KEY_INVALID") as caught:
        TaskClient.create("free", platform.document(), api_key="bk_wrong")
    assert isinstance(caught.value, BlocksError)
    assert "bk_wrong" not in str(caught.value)


def test_the_default_owner_is_who_the_token_is_for(cdm: str, platform: Any) -> None:
    platform.answer(RPC, (200, {"error": {"code": -32000, "message": "enough"}}))
    with TaskClient.create("free", cdm, api_key="bk_1") as client, pytest.raises(RpcError, match="enough"):
        client.send_message(agent_name="a")
    assert platform.to(RPC)[0].body["params"]["ownerId"] == "ada"


def test_create_task_client_takes_the_key_of_the_callers_env_file(
    cdm: str, platform: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"BLOCKS_API_KEY=bk_file\nBLOCKS_CDM_URL={cdm}\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.setenv("BLOCKS_API_KEY", "kept")  # so that monkeypatch removes what the file sets
    monkeypatch.setenv("BLOCKS_CDM_URL", "kept")
    del os.environ["BLOCKS_API_KEY"], os.environ["BLOCKS_CDM_URL"]
    with create_task_client() as client:
        assert client.billing_mode == "free"
    assert platform.to(TOKEN)[0].body == {"apiKey": "bk_file"}
    monkeypatch.setenv("BLOCKS_API_KEY", "bk_set")
    with create_task_client("paid"):
        pass
    assert platform.to(TOKEN)[1].body == {"apiKey": "bk_set"}


def test_create_task_client_without_any_credential_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="BLOCKS_API_KEY") as caught:
        create_task_client()
    assert isinstance(caught.value, BlocksError)


def test_create_task_client_with_a_fingerprint_needs_no_key(cdm: str) -> None:
    with create_task_client(anon_fingerprint="f", cdm_url=cdm) as client:
        assert client.get_user_id() is None


@pytest.mark.parametrize(("env", "mode"), [("playground", "free"), ("network", "paid")])
def test_env_names_a_billing_mode(cdm: str, env: Any, mode: str) -> None:
    with create_task_client(env=env, api_key="bk_1", cdm_url=cdm) as client:
        assert client.billing_mode == mode


def test_the_construction_of_older_examples_works_and_says_what_to_write_instead(platform: Any) -> None:
    platform.answer(RPC, (200, {"result": {"tasks": []}}))
    with (
        pytest.warns(DeprecationWarning, match="auth_provider"),
        pytest.warns(DeprecationWarning, match="billing_mode"),
    ):
        client = TaskClient(subscribe_key="s", publish_key="p", base_url=platform.url, auth_token="t-1")
    client.list_tasks()
    assert platform.to(RPC)[0].headers["Authorization"] == "Bearer t-1"


def test_an_anonymous_client_does_not_send(cdm: str, platform: Any) -> None:
    with TaskClient.create("free", cdm, anon_fingerprint="f") as client, pytest.raises(ValueError, match="anonymous"):
        client.send_message(agent_name="a")
    assert not platform.to(RPC)


def test_connect_without_an_identity_names_the_ways_to_one(cdm: str) -> None:
    with TaskClient.create("free", cdm) as client:
        with pytest.raises(RuntimeError, match=r"api_key.*token_endpoint.*token_provider") as caught:
            client.connect("task-1")
        assert isinstance(caught.value, CredentialsMissingError)


@pytest.mark.parametrize("duration", [None, 0, 43_201, 1.5, True, "5"])
def test_a_pipe_task_needs_whole_minutes(cdm: str, platform: Any, duration: Any) -> None:
    with TaskClient.create("free", cdm, api_key="bk_1") as client, pytest.raises(ValueError, match="duration"):
        client.send_message(agent_name="a", task_kind="pipe", duration=duration)
    assert not platform.to(RPC)


def test_only_pipe_tasks_have_a_duration(cdm: str) -> None:
    with TaskClient.create("free", cdm, api_key="bk_1") as client, pytest.raises(ValueError, match="pipe"):
        client.send_message(agent_name="a", duration=5)


def test_parameters_come_as_an_object_or_as_keywords_but_not_both(cdm: str, platform: Any) -> None:
    platform.answer(RPC, (200, {"error": {"code": -32000, "message": "enough"}}))
    with TaskClient.create("free", cdm, api_key="bk_1") as client:
        with pytest.raises(RpcError):
            client.send_message(SendMessageParams(agent_name="from_params", idempotency_key="k-1"))
        with pytest.raises(ConfigurationError, match="both"):
            client.send_message(SendMessageParams(agent_name="a"), agent_name="b")
        with pytest.raises(TypeError, match="str"):
            client.send_message("a")  # type: ignore[arg-type]
    (call,) = platform.to(RPC)
    assert (call.body["params"]["agentName"], call.body["params"]["idempotencyKey"]) == ("from_params", "k-1")


def test_only_what_was_said_travels_as_extension(cdm: str, platform: Any) -> None:
    platform.answer(RPC, (200, {"error": {"code": -32000, "message": "enough"}}))
    with TaskClient.create("free", cdm, api_key="bk_1") as client:
        for given in ({}, {"stream": False}, {"task_kind": "pipe", "duration": 5, "consumer_public_key": "pk"}):
            with pytest.raises(RpcError):
                client.send_message(agent_name="a", **given)
    sent = [call.body["params"].get("extensions") for call in platform.to(RPC)]
    assert sent == [
        None,
        {"blocks": {"stream": False}},
        {"blocks": {"taskKind": "pipe", "duration": 5, "consumerPublicKey": "pk"}},
    ]


def test_own_headers_cannot_be_overridden_in_any_letter_case(cdm: str, platform: Any) -> None:
    theirs = {"X-Mine": "1", "AUTHORIZATION": "Bearer stolen", "blocks-Protocol-version": "1999-01-01"}
    with TaskClient.create("free", cdm, api_key="bk_1", rpc_headers=theirs) as client:
        client.list_tasks()
    headers = platform.to(RPC)[0].headers
    assert headers["X-Mine"] == "1"
    assert headers.get_all("Authorization") == ["Bearer jwt-1"]
    assert headers.get_all("Blocks-Protocol-Version") == ["2026-05-01"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_client_does_not_survive_a_fork_and_says_so(cdm: str) -> None:
    with TaskClient.create("free", cdm, api_key="bk_1") as client:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.list_tasks()
                said = "no error"
            except BaseException as fault:  # noqa: BLE001 - a child must not run on into pytest
                said = f"{type(fault).__name__}: {fault}"
            client.destroy()
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        assert said.startswith("SessionClosedError")
        assert "after the fork" in said
        client.list_tasks()  # the parent's is as it was
