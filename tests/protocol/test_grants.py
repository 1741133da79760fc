"""Granting and revoking tokens, as the unmodified sync client of `pubnub` does it with the keyset's secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from gateway_harness import GatewayNode, listen
from pubnub.enums import PNStatusCategory
from pubnub.exceptions import PubNubException
from pubnub.models.consumer.v3.channel import Channel
from pubnub.models.consumer.v3.group import Group
from pubnub.models.consumer.v3.uuid import UUID
from pubnub.pubnub import PubNub

from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.tokens import CapabilityTokens


def refusal(call: Callable[[], object]) -> tuple[int, dict[str, Any]]:
    """The status and the body of a call that must fail."""
    with pytest.raises(PubNubException) as caught:
        call()
    return int(caught.value.get_status_code()), json.loads(caught.value._errormsg)


def publish(client: PubNub, channel: str) -> int:
    return int(client.publish().channel(channel).message("hello").sync().result.timetoken)


def grant(client: PubNub, *channels: Channel, ttl: int = 60, **settings: Any) -> str:
    builder = client.grant_token().ttl(ttl).channels(list(channels))
    for name, value in settings.items():
        builder = getattr(builder, name)(value)
    return str(builder.sync().result.token)


def signed(node: GatewayNode, method: str, path: str, body: bytes = b"", *, keyset: Keyset | None = None) -> Any:
    """A request with a signature made by the protocol's rule, for what the client would not send."""
    keyset = keyset or node.keyset
    query = f"timestamp={int(time.time())}"
    text = f"{method}\n{keyset.publish_key}\n{path}\n{query}\n".encode() + body
    digest = hmac.digest(keyset.secret_key.encode(), text, hashlib.sha256)
    signature = "v2." + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return node.ask(f"{path}?{query}&signature={signature}", method=method, body=body)


# -- granting ----------------------------------------------------------------------------------------------------------


def test_a_granted_token_allows_what_it_names_and_nothing_else(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    token = grant(admin, Channel.id("room").write(), Channel.pattern("^open-[0-9]+$").write(), authorized_uuid="u1")
    client = gateway_node.client("u1", token=token)
    for channel in ("room", "open-12"):
        assert publish(client, channel) > 0
    for channel in ("other", "open-x"):
        status, body = refusal(lambda channel=channel: publish(client, channel))
        assert (status, body["payload"]) == (403, {"channels": [channel]})
    assert refusal(lambda: client.fetch_messages().channels("room").sync())[0] == 403
    stranger = gateway_node.client("u2", token=token)
    assert refusal(lambda: publish(stranger, "room"))[0] == 403


def test_the_client_reads_its_token(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    before = int(time.time())
    token = grant(
        admin,
        Channel.id("room").read().write(),
        Channel.pattern("^a.*$").manage().delete().get().update().join(),
        groups=[Group.id("grp").read().manage()],
        uuids=[UUID.id("u9").get().update()],
        meta={"role": "guest", "level": 3, "vip": False},
        authorized_uuid="u1",
        ttl=1440,
    )
    read = admin.parse_token(token)
    assert read["version"] == 2
    assert before <= read["timestamp"] <= time.time()
    assert (read["ttl"], read["authorized_uuid"]) == (1440, "u1")
    assert read["meta"] == {"role": "guest", "level": 3, "vip": False}

    def bits(entry: dict[str, bool]) -> set[str]:
        return {name for name, allowed in entry.items() if allowed}

    assert bits(read["resources"]["channels"]["room"]) == {"read", "write"}
    assert bits(read["resources"]["groups"]["grp"]) == {"read", "manage"}
    assert bits(read["resources"]["uuids"]["u9"]) == {"get", "update"}
    assert bits(read["patterns"]["channels"]["^a.*$"]) == {"manage", "delete", "get", "update", "join"}


def test_a_granted_group_can_be_managed(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    token = str(admin.grant_token().ttl(5).groups([Group.id("grp").manage()]).sync().result.token)
    client = gateway_node.client("u1", token=token)
    client.add_channel_to_channel_group().channels("room").channel_group("grp").sync()
    assert client.list_channels_in_channel_group().channel_group("grp").sync().result.channels == ["room"]
    other = client.add_channel_to_channel_group().channels("room").channel_group("other")
    assert refusal(other.sync)[0] == 403


@pytest.mark.parametrize("ttl", [43_201, 10**9, -1])
def test_a_ttl_out_of_range_is_refused_in_the_protocols_words(gateway_node: GatewayNode, ttl: int) -> None:
    admin = gateway_node.client("admin", secret=True)
    status, body = refusal(lambda: grant(admin, Channel.id("room").read(), ttl=ttl))
    assert status == 400
    assert body == {
        "error": {
            "message": "Invalid ttl",
            "source": "grant",
            "details": [
                {"message": "Range should be 1 to 43200 minute(s).", "location": "ttl", "locationType": "body"}
            ],
        },
        "service": "Access Manager",
        "status": 400,
    }


@pytest.mark.parametrize("pattern", ["(", "a{9999}", "(?=a)", r"(a)\1", "a" * 600])
def test_an_expression_that_cannot_be_kept_bounded_is_refused(gateway_node: GatewayNode, pattern: str) -> None:
    admin = gateway_node.client("admin", secret=True)
    status, body = refusal(lambda: grant(admin, Channel.pattern(pattern).read()))
    assert (status, body["error"]["source"]) == (400, "grant")


def body_of(**permissions: Any) -> bytes:
    return json.dumps({"ttl": 5, "permissions": permissions}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b"{",
        b"{}",
        b'{"ttl":"five","permissions":{}}',
        b'{"ttl":true,"permissions":{}}',
        b'{"ttl":1.5,"permissions":{}}',
        b'{"ttl":5,"permissions":[]}',
        b'{"ttl":' + b"1" * 5_000 + b',"permissions":{}}',
        b'{"ttl":5,"permissions":' + b"[" * 50_000,
        body_of(resources=[]),
        body_of(resources={"channels": ["room"]}),
        body_of(resources={"channels": {"room": "3"}}),
        body_of(resources={"channels": {"room": True}}),
        body_of(resources={"channels": {"room": -1}}),
        body_of(resources={"channels": {"room": 256}}),
        body_of(resources={"channels": {"": 1}}),
        body_of(resources={"channels": {"c" * 600: 1}}),
        body_of(resources={"channels": {"\ud800": 1}}),
        body_of(resources={"channels": {f"c{number}": 1 for number in range(1_001)}}),
        body_of(patterns={"channels": {f"c{number}": 1 for number in range(101)}}),
        body_of(meta="x"),
        body_of(meta={"a": {"b": 1}}),
        body_of(meta={"a": "x" * 40_000}),
        body_of(uuid=""),
        body_of(uuid=7),
    ],
    ids=lambda body: body[:60].decode(),
)
def test_what_is_no_grant_is_refused(gateway_node: GatewayNode, body: bytes) -> None:
    status, answer = signed(gateway_node, "POST", f"/v3/pam/{gateway_node.keyset.subscribe_key}/grant", body)
    assert (status, answer["status"], answer["service"]) == (400, 400, "Access Manager")
    assert answer["error"]["source"] == "grant"


def test_older_names_count_as_the_new_ones(gateway_node: GatewayNode) -> None:
    body = body_of(resources={"spaces": {"room": 1}, "channels": {"room": 2, "hall": 1}, "users": {"u": 32}})
    _, answer = signed(gateway_node, "POST", f"/v3/pam/{gateway_node.keyset.subscribe_key}/grant", body)
    token = gateway_node.tokens.verify(gateway_node.keyset, answer["data"]["token"])
    assert (token.bits_on("room"), token.bits_on("hall"), token.bits_on("u")) == (3, 1, 0)
    assert token.uuid is None


def test_a_ttl_may_be_a_text_and_categories_are_tolerated(gateway_node: GatewayNode) -> None:
    body = json.dumps({"ttl": "7", "permissions": {"categories": {"channels": 32}}}).encode()
    status, answer = signed(gateway_node, "POST", f"/v3/pam/{gateway_node.keyset.subscribe_key}/grant", body)
    assert status == 200
    assert gateway_node.client("u1").parse_token(answer["data"]["token"])["ttl"] == 7


# -- who may -----------------------------------------------------------------------------------------------------------


def test_only_the_secret_may_grant_and_revoke(gateway_node: GatewayNode) -> None:
    everything = gateway_node.mint(patterns={".*": 255}, group_patterns={".*": 255})
    base = f"/v3/pam/{gateway_node.keyset.subscribe_key}/grant"
    body = body_of(resources={"channels": {"room": 1}})
    for query in ("", f"?auth={everything}", "?signature=v2.x&timestamp=1"):
        assert gateway_node.ask(base + query, method="POST", body=body)[0] == 403
        assert gateway_node.ask(f"{base}/{quote(everything)}{query}", method="DELETE")[0] == 403
    key = gateway_node.keyset
    impostor = Keyset("network", key.publish_key, key.subscribe_key, "sec-c-guessed")
    client = gateway_node.client("admin", secret=True, keyset=impostor)
    assert refusal(lambda: grant(client, Channel.id("room").read()))[0] == 403
    assert refusal(lambda: client.revoke_token(everything).sync())[0] == 403
    assert publish(gateway_node.client("u1", token=everything), "room") > 0


def test_a_keyset_without_access_control_grants_to_its_secret_alone(gateway_node: GatewayNode) -> None:
    key = gateway_node.open_keyset
    body = body_of(resources={"channels": {"room": 1}})
    path = f"/v3/pam/{key.subscribe_key}/grant"
    assert gateway_node.ask(path, method="POST", body=body)[0] == 403
    status, answer = signed(gateway_node, "POST", path, body, keyset=key)
    assert status == 200
    assert gateway_node.tokens.verify(key, answer["data"]["token"]).bits_on("room") == Bits.READ


def test_the_body_takes_part_in_the_signature(gateway_node: GatewayNode) -> None:
    path = f"/v3/pam/{gateway_node.keyset.subscribe_key}/grant"
    body = body_of(resources={"channels": {"room": 1}})
    ask = gateway_node.ask
    altered: list[int] = []

    def ask_altered(address: str, *, method: str, body: bytes) -> Any:
        answer = ask(address, method=method, body=body.replace(b'"room"', b'"safe"'))
        altered.append(answer[0])
        return answer

    gateway_node.ask = ask_altered  # type: ignore[method-assign]
    signed(gateway_node, "POST", path, body)
    assert altered == [403]


# -- revoking ----------------------------------------------------------------------------------------------------------


def test_a_revoked_token_is_refused_and_its_waiting_poll_ends(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    token, other = (grant(admin, Channel.id("room").read().write(), meta={"n": n}) for n in (1, 2))
    client, neighbour = gateway_node.client("u1", token=token), gateway_node.client("u2", token=other)
    ear, near = listen(client, ["room"]), listen(neighbour, ["room"])
    gateway_node.wait_held(2)
    admin.revoke_token(token).sync()
    assert ear.wait_status(PNStatusCategory.PNAccessDeniedCategory).status_code == 403
    status, body = refusal(lambda: publish(client, "room"))
    assert (status, body["message"]) == (403, "Token is revoked")
    publish(neighbour, "room")
    assert near.next_message().message == "hello"
    admin.revoke_token(token).sync()  # again is allowed


def test_a_token_with_every_character_of_its_alphabet_is_revoked(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    wanted = set("-_=")
    tokens = (grant(admin, Channel.id("room").write(), meta={"n": "?>" * n}) for n in range(1, 60))
    token = next(token for token in tokens if wanted <= set(token))
    admin.revoke_token(token).sync()
    assert refusal(lambda: publish(gateway_node.client("u1", token=token), "room"))[0] == 403


def test_an_expired_token_is_not_revoked(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    old = CapabilityTokens(clock=lambda: time.time() - 120).mint(gateway_node.keyset, ttl_minutes=1)
    status, body = refusal(lambda: admin.revoke_token(old).sync())
    assert (status, body) == (
        400,
        {
            "error": {
                "message": "Invalid token",
                "source": "revoke",
                "details": [{"message": "Token is expired.", "location": "token", "locationType": "path"}],
            },
            "service": "Access Manager",
            "status": 400,
        },
    )


def test_what_this_keyset_has_not_signed_is_not_revoked(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    foreign = gateway_node.tokens.mint(gateway_node.open_keyset, ttl_minutes=5)
    valid = gateway_node.mint(channels={"room": 1})
    altered = valid[:60] + ("A" if valid[60] != "A" else "B") + valid[61:]
    for token in (foreign, altered, "nonsense", "é", "%2F"):
        status, body = refusal(lambda token=token: admin.revoke_token(token).sync())
        assert (status, body["error"]["source"]) == (400, "revoke")
    assert gateway_node.tokens.verify(gateway_node.open_keyset, foreign)
