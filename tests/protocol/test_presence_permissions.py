"""Which token and which signature presence and channel groups ask for, as the unmodified sync client meets it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gateway_harness import GatewayNode, listen
from pubnub.exceptions import PubNubException

from blocks_network.server.access.authorizer import Bits


def refused(call: Callable[[], object]) -> int:
    """The status of a call that must fail."""
    with pytest.raises(PubNubException) as caught:
        call()
    return int(caught.value.get_status_code())


def occupancy(client, channel: str) -> int:  # type: ignore[no-untyped-def]
    return int(client.here_now().channels(channel).sync().result.total_occupancy)


def test_a_token_with_read_may_ask_for_its_channels_alone(gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={"mine": Bits.READ, "mine-pnpres": Bits.READ}, uuid="u1")
    client = gateway_node.client("u1", token=token)
    listen(client, ["mine"], presence=True)
    assert occupancy(client, "mine") == 1
    client.set_state().channels(["mine"]).state({"a": 1}).sync()
    assert client.get_state().channels(["mine"]).sync().result.channels == {"mine": {"a": 1}}
    assert refused(lambda: client.here_now().channels(["mine", "theirs"]).sync()) == 403
    assert refused(lambda: client.get_state().channels(["theirs"]).sync()) == 403
    assert refused(lambda: client.set_state().channels(["theirs"]).state({}).sync()) == 403
    assert client.where_now().sync().result.channels == ["mine"]


def test_a_token_tells_and_ends_nobodys_presence_where_it_may_not_read(gateway_node: GatewayNode) -> None:
    reader = gateway_node.client("u1", token=gateway_node.mint(channels={"mine": Bits.READ, "theirs": Bits.READ}))
    listen(reader, ["mine", "theirs"])
    gateway_node.wait_held(1)  # a poll that came later would join again
    key, token = gateway_node.keyset.subscribe_key, gateway_node.mint(channels={"theirs": Bits.READ, "x": Bits.WRITE})
    there = f"/v2/presence/sub-key/{key}/uuid/u1"
    assert gateway_node.ask(f"{there}?uuid=u2&auth={token}")[1]["payload"] == {"channels": ["theirs"]}
    leave = f"/v2/presence/sub-key/{key}/channel/mine,x/leave?channel-group=g&uuid=u1&auth={token}"
    assert gateway_node.ask(leave)[0] == 200
    assert sorted(reader.where_now().sync().result.channels) == ["mine", "theirs"]
    assert gateway_node.ask(f"/v2/presence/sub-key/{key}/channel/mine,theirs/leave?uuid=u1&auth={token}")[0] == 200
    assert reader.where_now().sync().result.channels == ["mine"]


def test_the_refusal_names_what_was_refused(gateway_node: GatewayNode) -> None:
    key = gateway_node.keyset.subscribe_key
    token = gateway_node.mint(channels={"mine": Bits.READ})
    path = f"/v2/presence/sub-key/{key}/channel/mine,theirs/heartbeat?channel-group=g&uuid=u1&auth={token}"
    status, answer = gateway_node.ask(path)
    assert (status, answer["payload"]) == (403, {"channels": ["theirs"], "channel-groups": ["g"]})


@pytest.mark.parametrize("path", ["", "/channel/a/heartbeat", "/channel/a/leave", "/channel/a", "/uuid/u1"])
def test_without_a_token_there_is_no_presence(gateway_node: GatewayNode, path: str) -> None:
    key = gateway_node.keyset.subscribe_key
    assert gateway_node.ask(f"/v2/presence/sub-key/{key}{path}?uuid=u1")[0] == 403


def test_a_token_speaks_for_its_own_uuid_alone(gateway_node: GatewayNode) -> None:
    key = gateway_node.keyset.subscribe_key
    token = gateway_node.mint(channels={"room": Bits.READ}, uuid="u1")
    path = f"/v2/presence/sub-key/{key}/channel/room"
    assert gateway_node.ask(f"{path}/uuid/u2/data?uuid=u1&auth={token}&state=%7B%7D")[0] == 403
    assert gateway_node.ask(f"{path}/leave?uuid=u2&auth={token}")[0] == 403
    assert gateway_node.ask(f"{path}/uuid/u1/data?uuid=u1&auth={token}&state=%7B%7D")[0] == 200


def test_the_whole_keyset_is_seen_by_its_secret_alone(gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(patterns={"^.*$": Bits.READ}, group_patterns={"^.*$": Bits.MANAGE}, uuid="u1")
    listen(gateway_node.client("u1", token=token), ["room"])
    assert refused(lambda: gateway_node.client("u1", token=token).here_now().sync()) == 403
    signed = gateway_node.client("operator", secret=True)
    assert signed.here_now().sync().result.total_occupancy == 1
    key = gateway_node.keyset.subscribe_key
    assert gateway_node.ask(f"/v1/channel-registration/sub-key/{key}/channel-group?uuid=u1&auth={token}")[0] == 403


def test_signed_requests_of_every_kind_are_taken(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("operator", secret=True)
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a", "b"]).sync()
    client.config.set_presence_timeout_with_custom_interval(20, 0)
    ear = listen(client, ["x y"], ["lobby"], presence=True)
    assert {ear.next_event().channel for _ in range(3)} == {"x y", "a", "b"}
    client.set_state().channels(["x y"]).channel_groups(["lobby"]).state({"n": "ü ~"}).sync()
    assert client.get_state().channels(["a"]).sync().result.channels == {"a": {"n": "ü ~"}}
    assert client.here_now().channels(["x y"]).channel_groups(["lobby"]).sync().result.total_occupancy == 3
    assert client.list_channels_in_channel_group().channel_group("lobby").sync().result.channels == ["a", "b"]
    client.remove_channel_from_channel_group().channel_group("lobby").channels(["a"]).sync()
    client.remove_channel_group().channel_group("lobby").sync()


def test_reading_a_group_needs_read_and_changing_it_manage(gateway_node: GatewayNode) -> None:
    manager = gateway_node.client("m", token=gateway_node.mint(groups={"lobby": Bits.MANAGE}))
    reader = gateway_node.client("r", token=gateway_node.mint(groups={"lobby": Bits.READ}))
    stranger = gateway_node.client("s", token=gateway_node.mint(groups={"other": Bits.READ | Bits.MANAGE}))
    manager.add_channel_to_channel_group().channel_group("lobby").channels(["a"]).sync()
    for client in (manager, reader):
        assert client.list_channels_in_channel_group().channel_group("lobby").sync().result.channels == ["a"]
    assert refused(lambda: stranger.list_channels_in_channel_group().channel_group("lobby").sync()) == 403
    for change in (
        reader.add_channel_to_channel_group().channel_group("lobby").channels(["b"]),
        reader.remove_channel_from_channel_group().channel_group("lobby").channels(["a"]),
        reader.remove_channel_group().channel_group("lobby"),
    ):
        assert refused(change.sync) == 403
    ear = listen(reader, groups=["lobby"])  # without any right on its members
    writer = gateway_node.client("w", token=gateway_node.mint(channels={"a": Bits.WRITE}))
    writer.publish().channel("a").message("by the group").sync()
    assert ear.next_message().message == "by the group"
    assert refused(lambda: manager.here_now().channel_groups("lobby").sync()) == 403
    assert reader.here_now().channel_groups("lobby").sync().result.total_occupancy == 1
