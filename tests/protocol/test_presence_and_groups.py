"""Presence and channel groups, as the unmodified sync client of `pubnub` sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from gateway_harness import GatewayNode, listen
from pubnub.endpoints.presence.heartbeat import Heartbeat
from pubnub.endpoints.pubsub.subscribe import Subscribe
from pubnub.enums import PNStatusCategory
from pubnub.exceptions import PubNubException

from blocks_network.server.limits import Limits


def refused(call: Callable[[], object]) -> int:
    """The status of a call that must fail."""
    with pytest.raises(PubNubException) as caught:
        call()
    return int(caught.value.get_status_code())


def occupancy(client, channel: str) -> int:  # type: ignore[no-untyped-def]
    return int(client.here_now().channels(channel).sync().result.total_occupancy)


# -- presence ----------------------------------------------------------------------------------------------------------


def test_a_subscriber_hears_its_own_join_and_others_come_and_go(gateway_node: GatewayNode) -> None:
    first, second = gateway_node.client("u1"), gateway_node.client("u2")
    ear = listen(first, ["room"], presence=True)
    own = ear.next_event()
    assert (own.event, own.uuid, own.occupancy, own.channel) == ("join", "u1", 1, "room")
    listen(second, ["room"])
    came = ear.next_event()
    assert (came.event, came.uuid, came.occupancy) == ("join", "u2", 2)
    second.unsubscribe().channels("room").execute()
    gone = ear.next_event()
    assert (gone.event, gone.uuid, gone.occupancy) == ("leave", "u2", 1)
    assert isinstance(gone.timestamp, int)


def test_the_event_carries_what_filters_ask_for(gateway_node: GatewayNode) -> None:
    key = gateway_node.open_keyset.subscribe_key
    _, hello = gateway_node.ask(f"/v2/subscribe/{key}/room-pnpres/0?uuid=watcher&tt=0")
    state = quote(json.dumps({"room": {"slots": 2}}))
    gateway_node.ask(f"/v2/presence/sub-key/{key}/channel/room/heartbeat?uuid=u1&heartbeat=20&state={state}")
    _, news = gateway_node.ask(f"/v2/subscribe/{key}/room-pnpres/0?uuid=watcher&tt={hello['t']['t']}&tr=1")
    (event,) = news["m"]
    assert (event["c"], event["b"]) == ("room-pnpres", "room-pnpres")
    assert "i" not in event
    at_ms = event["d"].pop("precise_timestamp")
    assert event["d"] == {
        "action": "join",
        "uuid": "u1",
        "timestamp": at_ms // 1000,
        "occupancy": 1,
        "data": {"slots": 2},
    }
    assert event["u"] == {
        "pn_action": "join",
        "pn_channel": "room",
        "pn_ispresence": 1,
        "pn_occupancy": 1,
        "pn_precise_timestamp": at_ms,
        "pn_timestamp": at_ms // 1000,
        "pn_uuid": "u1",
        "pn_state_slots": 2,
    }


def test_who_stays_silent_is_timed_out_although_its_poll_is_open(gateway_node: GatewayNode) -> None:
    watcher, silent = gateway_node.client("watcher"), gateway_node.client("silent")
    silent.config.set_presence_timeout_with_custom_interval(20, 0)
    cursor = Subscribe(silent).channels("room").timetoken(0).sync().result["t"]["t"]
    Subscribe(silent).channels("room").timetoken(cursor).region(1).pn_async(lambda result, status: None)
    gateway_node.wait_held(1)
    gateway_node.pass_time(19)
    assert occupancy(watcher, "room") == 1
    gateway_node.pass_time(2)
    assert occupancy(watcher, "room") == 0
    assert len(gateway_node.gateway.polls) == 1
    news = Subscribe(watcher).channels("room-pnpres").timetoken(cursor).sync().result["m"]
    assert [(event["d"]["action"], event["d"]["occupancy"]) for event in news] == [("join", 1), ("timeout", 0)]


def test_a_heartbeat_joins_and_prolongs(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    key = gateway_node.open_keyset.subscribe_key
    beat = f"/v2/presence/sub-key/{key}/channel/room,room-pnpres/heartbeat?uuid=u1&heartbeat=20"
    assert gateway_node.ask(beat) == (200, {"status": 200, "message": "OK", "service": "Presence"})
    gateway_node.pass_time(15)
    gateway_node.ask(beat)
    gateway_node.pass_time(15)
    assert client.where_now().uuid("u1").sync().result.channels == ["room"]
    gateway_node.pass_time(6)
    assert client.where_now().uuid("u1").sync().result.channels == []


def test_a_leave_is_answered_also_for_who_is_absent(gateway_node: GatewayNode) -> None:
    key = gateway_node.open_keyset.subscribe_key
    status, answer = gateway_node.ask(f"/v2/presence/sub-key/{key}/channel/room/leave?uuid=nobody")
    assert (status, answer["action"]) == (200, "leave")


@pytest.mark.parametrize("uuid", ["", "u" * 300, "a%00b"])
def test_nobody_is_present_without_a_usable_uuid(gateway_node: GatewayNode, uuid: str) -> None:
    key = gateway_node.open_keyset.subscribe_key
    status, answer = gateway_node.ask(f"/v2/presence/sub-key/{key}/channel/room/heartbeat?uuid={uuid}")
    assert (status, answer["service"], answer["error"]) == (400, "Presence", True)


def test_here_now_of_one_channel(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    assert occupancy(client, "room") == 0
    listen(client, ["room"])
    listen(gateway_node.client("u2"), ["room"])
    client.set_state().channels(["room"]).state({"free": 3}).sync()

    (channel,) = client.here_now().channels("room").sync().result.channels
    assert [occupant.uuid for occupant in channel.occupants] == ["u1", "u2"]
    (channel,) = client.here_now().channels("room").include_state(True).sync().result.channels
    assert [(occupant.uuid, occupant.state) for occupant in channel.occupants] == [("u1", {"free": 3}), ("u2", None)]
    (channel,) = client.here_now().channels("room").include_uuids(False).sync().result.channels
    assert (channel.occupancy, channel.occupants) == (2, [])


def test_here_now_pages_by_limit_and_offset_with_the_whole_occupancy(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("watcher")
    key = gateway_node.open_keyset.subscribe_key
    for number in range(5):
        gateway_node.ask(f"/v2/presence/sub-key/{key}/channel/room/heartbeat?uuid=u{number}")
    result = client.here_now().channels("room").limit(2).offset(2).sync().result
    assert [occupant.uuid for occupant in result.channels[0].occupants] == ["u2", "u3"]
    assert result.total_occupancy == 5
    assert client.here_now().channels("room").limit(0).sync().result.channels[0].occupants == []
    assert refused(lambda: client.here_now().channels("room").offset(-1).sync()) == 400


def test_here_now_of_several_channels_of_groups_and_of_everybody(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a", "b", "c"]).sync()
    listen(client, ["a", "b"])
    listen(gateway_node.client("u2"), ["b"])

    result = client.here_now().channels(["a", "b", "empty"]).sync().result
    assert (result.total_channels, result.total_occupancy) == (2, 3)
    assert {channel.channel_name: channel.occupancy for channel in result.channels} == {"a": 1, "b": 2}
    result = client.here_now().channel_groups("lobby").sync().result
    assert {channel.channel_name: channel.occupancy for channel in result.channels} == {"a": 1, "b": 2}
    result = client.here_now().sync().result
    assert (result.total_channels, result.total_occupancy) == (2, 3)
    assert client.here_now().channels(["x", "y"]).sync().result.total_occupancy == 0


def test_names_of_a_long_answer_are_cut_and_its_numbers_are_not() -> None:
    node = GatewayNode(Limits(here_now_names=3)).start()
    try:
        key = node.open_keyset.subscribe_key
        for uuid in ("u1", "u2"):
            node.ask(f"/v2/presence/sub-key/{key}/channel/a,b,c/heartbeat?uuid={uuid}")
        _, answer = node.ask(f"/v2/presence/sub-key/{key}")
    finally:
        node.stop()
    payload = answer["payload"]
    assert (payload["total_channels"], payload["total_occupancy"]) == (3, 6)
    assert sum(len(channel["uuids"]) for channel in payload["channels"].values()) == 3
    assert [channel["occupancy"] for channel in payload["channels"].values()] == [2, 2, 2]


def test_state_is_replaced_told_and_ends_with_the_leave(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    ear = listen(client, ["room"], presence=True)
    assert ear.next_event().event == "join"
    assert client.set_state().channels(["room"]).state({"a": 1, "b": 2}).sync().result.state == {"a": 1, "b": 2}
    told = ear.next_event()
    assert (told.event, told.uuid, told.occupancy, told.state) == ("state-change", "u1", 1, {"a": 1, "b": 2})
    client.set_state().channels(["room"]).state({"b": 3}).sync()
    assert client.get_state().channels(["room"]).sync().result.channels == {"room": {"b": 3}}
    client.unsubscribe().channels(["room"]).execute()
    watcher = gateway_node.client("watcher")
    assert ear.wait_status(PNStatusCategory.PNAcknowledgmentCategory)  # of the leave
    assert watcher.get_state().channels(["room"]).uuid("u1").sync().result.channels == {"room": {}}


def test_state_of_several_channels_and_of_groups(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["b"]).sync()
    listen(client, ["a"], ["lobby"])
    client.set_state().channels(["a"]).channel_groups(["lobby"]).state({"n": 1}).sync()
    result = client.get_state().channels(["a", "c"]).channel_groups(["lobby"]).sync().result
    assert result.channels == {"a": {"n": 1}, "b": {"n": 1}, "c": {}}


def test_state_set_before_the_join_is_there_at_the_join(gateway_node: GatewayNode) -> None:
    watcher, client = gateway_node.client("watcher"), gateway_node.client("u1")
    ear = listen(watcher, ["room-pnpres"])
    client.set_state().channels(["room"]).state({"slots": 4}).sync()
    assert occupancy(watcher, "room") == 0
    listen(client, ["room"])
    came = ear.next_event()
    assert (came.event, came.uuid, came.state) == ("join", "u1", {"slots": 4})


def test_a_heartbeat_brings_the_uuid_back_with_its_state_after_a_timeout(gateway_node: GatewayNode) -> None:
    client, watcher = gateway_node.client("u1"), gateway_node.client("watcher")
    ear = listen(watcher, ["room-pnpres"])
    beat = Heartbeat(client).channels(["room", "room-pnpres"]).state({"room": {"slots": 4}})
    for action in ("join", "timeout", "join"):
        if action == "join":
            beat.sync()
        else:
            gateway_node.pass_time(301)
        event = ear.next_event()
        assert (event.event, event.state) == (action, {"slots": 4} if action == "join" else None)


@pytest.mark.parametrize(
    "operation", ["/v2/subscribe/{sub}/room/0", "/v2/presence/sub-key/{sub}/channel/room/heartbeat"]
)
def test_state_of_a_subscribe_or_heartbeat_goes_to_channels_and_to_members(
    gateway_node: GatewayNode, operation: str
) -> None:
    client = gateway_node.client("u1")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a", "b"]).sync()
    state = quote(json.dumps({"room": {"n": 1}, "lobby": {"n": 2}, "b": {"n": 3}, "elsewhere": {"n": 4}}))
    path = operation.format(sub=gateway_node.open_keyset.subscribe_key)
    assert gateway_node.ask(f"{path}?uuid=u1&channel-group=lobby&state={state}")[0] == 200
    states = client.get_state().channels(["room", "a", "b", "elsewhere"]).sync().result.channels
    assert states == {"room": {"n": 1}, "a": {"n": 2}, "b": {"n": 3}, "elsewhere": {}}
    assert gateway_node.ask(f"{path}?uuid=u1&channel-group=lobby&state=%7B%22room%22:7%7D")[0] == 400


@pytest.mark.parametrize("state", ["", "7", "[1]", "{", '{"a":NaN}', '{"a":' * 40 + "1" + "}" * 40])
def test_a_state_that_is_no_small_object_is_refused(gateway_node: GatewayNode, state: str) -> None:
    key = gateway_node.open_keyset.subscribe_key
    path = f"/v2/presence/sub-key/{key}/channel/room/uuid/u1/data?uuid=u1&state={quote(state)}"
    assert gateway_node.ask(path)[0] == 400


def test_a_state_that_is_too_large_is_refused(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    state = {"text": "x" * gateway_node.limits.state_bytes}
    assert refused(lambda: client.set_state().channels(["room"]).state(state).sync()) == 400


# -- channel groups ----------------------------------------------------------------------------------------------------


def test_a_groups_channels_are_added_listed_removed_and_deleted(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")

    def members() -> list[str]:
        return list(client.list_channels_in_channel_group().channel_group("lobby").sync().result.channels)

    assert members() == []
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a", "b", "c"]).sync()
    client.add_channel_to_channel_group().channel_group("lobby").channels(["b", "d"]).sync()
    assert members() == ["a", "b", "c", "d"]
    client.remove_channel_from_channel_group().channel_group("lobby").channels(["b", "absent"]).sync()
    assert members() == ["a", "c", "d"]
    key = gateway_node.open_keyset.subscribe_key
    _, listed = gateway_node.ask(f"/v1/channel-registration/sub-key/{key}/channel-group?uuid=u1")
    assert listed["payload"] == {"sub_key": key, "groups": ["lobby"]}
    client.remove_channel_group().channel_group("lobby").sync()
    assert members() == []
    assert (
        gateway_node.ask(f"/v1/channel-registration/sub-key/{key}/channel-group?uuid=u1")[1]["payload"]["groups"] == []
    )


def test_messages_come_by_the_groups_name(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a", "b"]).sync()
    ear = listen(client, groups=["lobby"])
    client.publish().channel("b").message({"n": 1}).sync()
    heard = ear.next_message()
    assert (heard.channel, heard.subscription, heard.message) == ("b", "lobby", {"n": 1})


def test_a_channel_that_is_added_is_heard_by_a_poll_that_waits_already(gateway_node: GatewayNode) -> None:
    client, other = gateway_node.client("u1"), gateway_node.client("u2")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a"]).sync()
    ear = listen(client, groups=["lobby"])
    other.add_channel_to_channel_group().channel_group("lobby").channels(["late"]).sync()
    other.publish().channel("late").message("now").sync()
    assert ear.next_message().message == "now"
    other.remove_channel_from_channel_group().channel_group("lobby").channels(["late"]).sync()
    other.publish().channel("late").message("unheard").sync()
    other.publish().channel("a").message("heard").sync()
    assert ear.next_message().message == "heard"


def test_nothing_is_lost_between_the_polls_of_a_group(gateway_node: GatewayNode) -> None:
    client, other = gateway_node.client("u1"), gateway_node.client("u2")
    names = [f"c{number}" for number in range(10)]
    client.add_channel_to_channel_group().channel_group("lobby").channels(names).sync()
    ear = listen(client, groups=["lobby"])
    for number in range(300):
        other.publish().channel(names[number % 10]).message(number).sync()
    assert [ear.next_message().message for _ in range(300)] == list(range(300))


def test_presence_of_a_groups_members_comes_by_the_groups_presence_name(gateway_node: GatewayNode) -> None:
    client, other = gateway_node.client("u1"), gateway_node.client("u2")
    client.add_channel_to_channel_group().channel_group("lobby").channels(["a"]).sync()
    ear = listen(client, groups=["lobby"], presence=True)
    own = ear.next_event()
    assert (own.event, own.uuid, own.channel, own.subscription) == ("join", "u1", "a", "lobby")
    listen(other, groups=["lobby"])
    assert (ear.next_event().uuid, occupancy(other, "a")) == ("u2", 2)
    other.unsubscribe().channel_groups("lobby").execute()
    gone = ear.next_event()
    assert (gone.event, gone.uuid, gone.channel) == ("leave", "u2", "a")


def test_names_of_any_kind_are_members(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    names = ["a b", "a/b", "x-pnpres"]
    client.add_channel_to_channel_group().channel_group("my/lobby").channels(names).sync()
    assert client.list_channels_in_channel_group().channel_group("my/lobby").sync().result.channels == names
    key = gateway_node.open_keyset.subscribe_key
    path = f"/v1/channel-registration/sub-key/{key}/channel-group/my%2Flobby?uuid=u1"
    gateway_node.ask(f"{path}&add={quote('größe')}")  # the client fails by itself here: it does not encode names
    assert gateway_node.ask(path)[1]["payload"]["channels"] == [*names, "größe"]


@pytest.mark.parametrize("group", ["a*", "a-pnpres", "a%2Cb", "%01groups"])
def test_a_group_needs_a_plain_name(gateway_node: GatewayNode, group: str) -> None:
    key = gateway_node.open_keyset.subscribe_key
    status, answer = gateway_node.ask(f"/v1/channel-registration/sub-key/{key}/channel-group/{group}?add=x&uuid=u1")
    assert (status, answer["error"]) == (400, True)


def test_groups_are_bounded() -> None:
    limits = Limits(channels_per_registration=3, channels_per_group=4, groups_per_keyset=2)
    node = GatewayNode(limits).start()
    try:
        client = node.client("u1")

        def add(group: str, *channels: str) -> object:
            return client.add_channel_to_channel_group().channel_group(group).channels(list(channels)).sync()

        assert refused(lambda: add("g1", "a", "b", "c", "d")) == 400
        add("g1", "a", "b", "c")
        add("g1", "a", "b", "d")
        assert refused(lambda: add("g1", "e")) == 400
        assert client.list_channels_in_channel_group().channel_group("g1").sync().result.channels == list("abcd")
        add("g2", "a")
        assert refused(lambda: add("g3", "a")) == 400
        client.remove_channel_group().channel_group("g2").sync()
        add("g3", "a")
    finally:
        node.stop()


def test_groups_outlive_a_restart(tmp_path: Path) -> None:
    node = GatewayNode(directory=tmp_path).start()
    try:
        client = node.client("u1")
        client.add_channel_to_channel_group().channel_group("kept").channels(["a", "b"]).sync()
        client.remove_channel_from_channel_group().channel_group("kept").channels(["a"]).sync()
        client.add_channel_to_channel_group().channel_group("gone").channels(["a"]).sync()
        client.remove_channel_group().channel_group("gone").sync()
    finally:
        node.stop()
    again = GatewayNode(directory=tmp_path).start()
    try:
        client = again.client("u1")
        assert client.list_channels_in_channel_group().channel_group("kept").sync().result.channels == ["b"]
        assert client.list_channels_in_channel_group().channel_group("gone").sync().result.channels == []
        ear = listen(client, groups=["kept"])
        client.publish().channel("b").message("still").sync()
        assert ear.next_message().message == "still"
    finally:
        again.stop()
