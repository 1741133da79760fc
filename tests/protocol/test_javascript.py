"""The unmodified JavaScript client from npm, on Node, against the gateway; and beside the Python one.

Fails where Node is missing: that this client works is what the gateway promises.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from gateway_harness import GatewayNode, listen
from javascript_client import JavaScriptClient, JavaScriptError, Node

from blocks_network.server.access.authorizer import Bits

MESSAGES: list[Any] = [
    True,
    False,
    0,
    -1,
    1.5,
    1e-300,
    2**53,
    "",
    "text \t\n\" ' \\ / ? & # % %2F + ; , =",
    "control \x01 \x7f \u2028",
    "umlauts äöüß, 漢字, עברית, emoji 🎉 👩‍👩‍👧‍👦",
    [],
    {},
    [None, [None]],
    {"": {"": ""}, "ключ 🔑": [1, "two", 3.5, None, True]},
]

TAKEN = [message for message in MESSAGES if message or isinstance(message, list | dict)]
"""This client refuses by itself to publish what JavaScript holds for false; it must hear it all the same."""

MakeClient = Callable[..., JavaScriptClient]


@pytest.fixture
def client(node_process: Node, gateway_node: GatewayNode) -> MakeClient:
    """Makes a client: `client("u1", **its own settings)`."""

    def make(uuid: str, **settings: Any) -> JavaScriptClient:
        return node_process.client(gateway_node, uuid, **settings)

    return make


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(JavaScriptError) as caught:
        call()
    return int(caught.value.status)


@pytest.fixture(params=[False, True], ids=["subscription-loop", "event-engine"])
def engine(request: pytest.FixtureRequest) -> dict[str, bool]:
    """The client has two machines for listening; these are the settings that choose one."""
    return {"enableEventEngine": request.param}


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_post", [True, False], ids=["post", "get"])
def test_every_json_value_comes_as_it_went(client: MakeClient, engine: dict[str, bool], by_post: bool) -> None:
    writer, reader = client("writer"), client("reader", **engine)
    reader.listen("room")
    for message in TAKEN:
        sent = writer.call("publish", channel="room", message=message, sendByPost=by_post, meta={"n": "ä &"})
        heard = reader.next()
        assert (type(heard["message"]), heard["message"]) == (type(message), message)
        assert (heard["channel"], heard["publisher"], heard["timetoken"]) == ("room", "writer", sent["timetoken"])
        assert heard["userMetadata"] == {"n": "ä &"}
    kept = reader.call("fetchMessages", channels=["room"], count=100)["channels"]["room"]
    assert [item["message"] for item in kept] == TAKEN


def test_it_and_python_understand_each_other(client: MakeClient, gateway_node: GatewayNode) -> None:
    theirs, ours = client("script"), gateway_node.client("snake")
    ear = listen(ours, ["room"])
    theirs.listen("room")
    for message in TAKEN:
        theirs.call("publish", channel="room", message=message, customMessageType="note-1")
        heard = ear.next_message()
        assert (heard.message, heard.publisher, heard.custom_message_type) == (message, "script", "note-1")
        assert theirs.next()["message"] == message
    for message in MESSAGES:
        ours.publish().channel("room").message(message).use_post(True).custom_message_type("note-2").sync()
        got = theirs.next()
        assert (got["message"], got["publisher"], got["customMessageType"]) == (message, "snake", "note-2")
        assert ear.next_message().message == message


def test_32_kib_pass_and_one_byte_more_does_not(client: MakeClient) -> None:
    writer, reader = client("writer"), client("reader")
    reader.listen("room")
    for filling in ("x", "🎉"):
        whole = filling * ((32 * 1024 - 2) // len(filling.encode()))
        whole += "." * (32 * 1024 - 2 - len(whole.encode()))
        writer.call("publish", channel="room", message=whole, sendByPost=True)
        assert reader.next()["message"] == whole
        assert (
            refused(lambda whole=whole: writer.call("publish", channel="room", message=whole + ".", sendByPost=True))
            == 413
        )


def test_signals_time_and_names(client: MakeClient, engine: dict[str, bool]) -> None:
    writer, reader = client("writer"), client("reader", **engine)
    reader.listen("a/b ä+🎉?", "news.*")
    writer.call("signal", channel="a/b ä+🎉?", message={"x": "é"})
    signal = reader.next("signal")
    assert (signal["channel"], signal["message"], signal["publisher"]) == ("a/b ä+🎉?", {"x": "é"}, "writer")
    before = int(writer.call("time")["timetoken"])
    sent = int(writer.call("publish", channel="news.today", message="m")["timetoken"])
    assert before < sent < int(writer.call("time")["timetoken"])
    heard = reader.next()
    assert (heard["channel"], heard["subscription"]) == ("news.today", "news.*")
    writer.call("fire", channel="news.today", message="bang")
    writer.call("publish", channel="news.today", message="after", storeInHistory=False)
    assert reader.next()["message"] == "after"
    assert reader.none_left("signal")


def test_filters_decide_what_it_hears(client: MakeClient) -> None:
    writer, reader = client("writer"), client("reader", filterExpression="meta.to == 'ü' && data.n > 1")
    reader.listen("room")
    for to, number in (("ü", 1), ("v", 5), ("ü", 2)):
        writer.call("publish", channel="room", message={"n": number}, meta={"to": to})
    assert reader.next()["message"] == {"n": 2}
    assert reader.none_left()


# -- presence, state, groups -------------------------------------------------------------------------------------------


def test_presence_and_state(client: MakeClient, engine: dict[str, bool]) -> None:
    watcher, guest = client("watcher", **engine), client("guest", presenceTimeout=30, **engine)
    watcher.listen("room", presence=True)
    guest.listen("room")
    joined = watcher.next("presence")
    while joined["uuid"] == "watcher":  # its own join it may miss: it sends a heartbeat beside its handshake
        joined = watcher.next("presence")
    assert (joined["action"], joined["uuid"], joined["occupancy"], joined["channel"]) == ("join", "guest", 2, "room")
    assert guest.call("setState", channels=["room"], state={"mood": "gut 🎉"})["state"] == {"mood": "gut 🎉"}
    changed = watcher.next("presence")
    assert (changed["action"], changed["uuid"], changed["state"]) == ("state-change", "guest", {"mood": "gut 🎉"})
    assert watcher.call("getState", channels=["room"], uuid="guest")["channels"] == {"room": {"mood": "gut 🎉"}}
    here = watcher.call("hereNow", channels=["room"], includeState=True)
    assert (here["totalOccupancy"], here["channels"]["room"]["occupancy"]) == (2, 2)
    states = {occupant["uuid"]: occupant.get("state") for occupant in here["channels"]["room"]["occupants"]}
    assert states == {"watcher": None, "guest": {"mood": "gut 🎉"}}
    everywhere = watcher.call("hereNow", {})
    assert (everywhere["totalChannels"], everywhere["channels"]["room"]["occupancy"]) == (1, 2)
    assert watcher.call("whereNow", uuid="guest")["channels"] == ["room"]
    guest.call("unsubscribe", channels=["room"])
    left = watcher.next("presence")
    assert (left["action"], left["uuid"], left["occupancy"]) == ("leave", "guest", 1)


def test_who_goes_silent_times_out(client: MakeClient, gateway_node: GatewayNode) -> None:
    watcher, guest = client("watcher"), client("guest", presenceTimeout=20, heartbeatInterval=0)
    guest.listen("room")
    watcher.listen("room-pnpres")
    gateway_node.pass_time(21)
    gone = watcher.next("presence")
    assert (gone["action"], gone["uuid"], gone["occupancy"]) == ("timeout", "guest", 0)


def test_channel_groups(client: MakeClient, engine: dict[str, bool]) -> None:
    writer, reader = client("writer"), client("reader", **engine)
    groups = "channelGroups"
    reader.call(f"{groups}.addChannels", channelGroup="grp", channels=["a", "b/ü"])
    assert sorted(reader.call(f"{groups}.listChannels", channelGroup="grp")["channels"]) == ["a", "b/ü"]
    assert reader.call(f"{groups}.listGroups")["groups"] == ["grp"]
    reader.listen(groups=("grp",), presence=True)
    writer.call("publish", channel="b/ü", message="m")
    heard = reader.next()
    assert (heard["channel"], heard["subscription"]) == ("b/ü", "grp")
    reader.call(f"{groups}.removeChannels", channelGroup="grp", channels=["b/ü"])
    writer.call("publish", channel="b/ü", message="unheard")
    writer.call("publish", channel="a", message="heard")
    assert reader.next()["message"] == "heard"
    reader.call(f"{groups}.deleteGroup", channelGroup="grp")
    assert reader.call(f"{groups}.listChannels", channelGroup="grp")["channels"] == []


# -- history and actions -----------------------------------------------------------------------------------------------


def test_history_by_pages_counts_and_deletion(client: MakeClient, gateway_node: GatewayNode) -> None:
    reader, python = client("reader"), gateway_node.client("writer")
    sent = [str(python.publish().channel("room").message(number).sync().result.timetoken) for number in range(250)]
    whole: list[tuple[int, str]] = []
    asked: dict[str, Any] = {"channels": ["room"], "count": 100, "includeMeta": True, "includeUUID": True}
    page = reader.call("fetchMessages", **asked)["channels"].get("room", [])
    while page:
        assert {item["uuid"] for item in page} == {"writer"}
        whole = [(item["message"], str(item["timetoken"])) for item in page] + whole
        page = reader.call("fetchMessages", **asked, start=page[0]["timetoken"])["channels"].get("room", [])
    assert whole == list(enumerate(sent))
    forward = reader.call("history", channel="room", reverse=True, count=100, stringifiedTimeToken=True, start=sent[99])
    assert [item["entry"] for item in forward["messages"]] == list(range(100, 200))
    counted = reader.call("messageCounts", channels=["room", "empty"], channelTimetokens=[sent[239], "1"])
    assert counted["channels"] == {"room": 10, "empty": 0}
    reader.call("deleteMessages", channel="room", start=sent[238], end=sent[249])
    left = reader.call("fetchMessages", channels=["room"], count=1)["channels"]["room"]
    assert [item["message"] for item in left] == [238]


def test_message_actions(client: MakeClient, engine: dict[str, bool]) -> None:
    reader, friend = client("reader", **engine), client("friend")
    reader.listen("room")
    sent = friend.call("publish", channel="room", message="look")["timetoken"]
    action = {"type": "reaction", "value": "smile 🙂"}
    added = friend.call("addMessageAction", channel="room", messageTimetoken=sent, action=action)["data"]
    told = reader.next("messageAction")
    assert (told["event"], told["data"]["value"], told["data"]["messageTimetoken"]) == ("added", "smile 🙂", sent)
    listed = reader.call("getMessageActions", channel="room")["data"]
    assert [(one["uuid"], one["value"]) for one in listed] == [("friend", "smile 🙂")]
    (kept,) = reader.call("fetchMessages", channels=["room"], includeMessageActions=True)["channels"]["room"]
    assert kept["actions"]["reaction"]["smile 🙂"][0]["uuid"] == "friend"
    where = {"channel": "room", "messageTimetoken": sent, "actionTimetoken": added["actionTimetoken"]}
    friend.call("removeMessageAction", **where)
    assert reader.next("messageAction")["event"] == "removed"
    assert reader.call("getMessageActions", channel="room")["data"] == []


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5_000_000], ids=["1 B", "5 MB"])
def test_a_file_comes_back_as_it_went(client: MakeClient, engine: dict[str, bool], tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    path = tmp_path / "Bericht ä.bin"
    path.write_bytes(content)
    sender, receiver = client("sender"), client("receiver", **engine)
    receiver.listen("room")
    sent = sender.call("sendFile", channel="room", file={"stream": {"$file": str(path)}}, message={"note": "🎉"})
    told = receiver.next("file")
    assert (told["message"], told["file"]["id"], told["file"]["name"]) == ({"note": "🎉"}, sent["id"], path.name)
    got = receiver.call("downloadFile", channel="room", id=sent["id"], name=sent["name"])
    assert (got["length"], got["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    (listed,) = receiver.call("listFiles", channel="room")["data"]
    assert (listed["name"], listed["size"]) == (path.name, size)
    receiver.call("deleteFile", channel="room", id=sent["id"], name=sent["name"])
    assert receiver.call("listFiles", channel="room")["data"] == []
    assert refused(lambda: receiver.call("downloadFile", channel="room", id=sent["id"], name=sent["name"])) == 404


def test_files_go_from_it_to_python_and_back(client: MakeClient, gateway_node: GatewayNode) -> None:
    theirs, ours = client("script"), gateway_node.client("snake")
    data = {
        "data": {"$bytes": base64.b64encode(b"\x00\xffcontent").decode()},
        "name": "a.txt",
        "mimeType": "text/plain",
    }
    sent = theirs.call("sendFile", channel="room", file=data)
    there = ours.download_file().channel("room").file_id(sent["id"]).file_name("a.txt").sync()
    assert there.result.data == b"\x00\xffcontent"
    back = ours.send_file().channel("room").file_name("b.bin").file_object(b"\x00").sync().result
    got = theirs.call("downloadFile", channel="room", id=back.file_id, name="b.bin")
    assert (got["name"], got["length"]) == ("b.bin", 1)


# -- access ------------------------------------------------------------------------------------------------------------


def test_its_secret_grants_and_revokes(client: MakeClient, gateway_node: GatewayNode) -> None:
    admin = client("admin", secretKey=gateway_node.keyset.secret_key)
    token = admin.call(
        "grantToken",
        ttl=5,
        authorized_uuid="u1",
        resources={"channels": {"room": {"read": True}}},
        patterns={"channels": {"^open-[0-9]+$": {"read": True, "write": True}}},
    )
    user = client("u1", authKey=token)
    parsed = user.call("parseToken", token)
    assert parsed["resources"]["channels"]["room"]["read"] is True
    assert (parsed["authorized_uuid"], parsed["ttl"]) == ("u1", 5)
    user.listen("room", "open-1")
    for by_post in (False, True):
        user.call("publish", channel="open-1", message="m", sendByPost=by_post)
        assert user.next()["message"] == "m"
        admin.call("publish", channel="room", message="signed ä", sendByPost=by_post)
        assert user.next()["message"] == "signed ä"
    assert refused(lambda: user.call("publish", channel="room", message="m")) == 403
    assert refused(lambda: user.call("publish", channel="open-x", message="m", sendByPost=True)) == 403
    assert refused(lambda: client("u2", authKey=token).call("publish", channel="open-1", message="m")) == 403
    gateway_node.wait_held(1)
    admin.call("revokeToken", token)
    assert user.wait_status("PNDisconnectedUnexpectedlyCategory")["error"] == "PNAccessDeniedCategory"
    assert refused(lambda: user.call("publish", channel="open-1", message="m")) == 403


def test_a_refusal_names_what_was_refused(client: MakeClient, gateway_node: GatewayNode) -> None:
    user = client("u1", authKey=gateway_node.mint(channels={"room": Bits.WRITE}))
    with pytest.raises(JavaScriptError) as caught:
        user.call("fetchMessages", channels=["room"])
    assert (caught.value.status, caught.value.category) == (403, "PNAccessDeniedCategory")
    assert "room" in str(caught.value.data)


def test_signed_requests_of_every_kind_are_taken(client: MakeClient, gateway_node: GatewayNode) -> None:
    admin = client("admin ä", secretKey=gateway_node.keyset.secret_key)
    room = "room/ä ~!'()"
    admin.listen(room, presence=True)
    admin.call("publish", channel=room, message={"q": "a&b=c ~!*'()"}, meta={"m": "~ ä"})
    assert admin.next()["message"] == {"q": "a&b=c ~!*'()"}
    admin.call("publish", channel=room, message={"q": "ä"}, sendByPost=True, meta={"m": "~!*'()"})
    assert admin.next()["userMetadata"] == {"m": "~!*'()"}
    assert admin.call("setState", channels=[room], state={"s": "~!*'() ä"})["state"] == {"s": "~!*'() ä"}
    assert admin.call("hereNow", channels=[room])["channels"][room]["occupancy"] == 1
    admin.call("channelGroups.addChannels", channelGroup="grp", channels=[room])
    assert admin.call("channelGroups.listChannels", channelGroup="grp")["channels"] == [room]
    assert len(admin.call("fetchMessages", channels=[room])["channels"][room]) == 2
    admin.call("deleteMessages", channel=room)
    content = {"data": {"$bytes": "AAE="}, "name": "a ä.txt"}
    sent = admin.call("sendFile", channel=room, file=content, message={"x": "~ä"}, meta={"m": 1})
    assert admin.call("downloadFile", channel=room, id=sent["id"], name=sent["name"])["length"] == 2


# -- broken connections ------------------------------------------------------------------------------------------------


def test_it_loses_and_repeats_nothing_when_its_connection_breaks(
    client: MakeClient, engine: dict[str, bool], gateway_node: GatewayNode
) -> None:
    writer = gateway_node.client("writer")
    with CuttingProxy(gateway_node.origin) as proxy:
        retry = (
            {"retryConfiguration": {"$linear": {"delay": 2, "maximumRetry": 3}}} if engine["enableEventEngine"] else {}
        )
        reader = client("reader", origin=proxy.origin, **engine, **retry)
        reader.listen("room")
        for number in range(100):
            writer.publish().channel("room").message(number).should_store(False).sync()
            if number == 50:
                assert [reader.next()["message"] for _ in range(51)] == list(range(51))
                proxy.cut()
        assert [reader.next()["message"] for _ in range(49)] == list(range(51, 100))
        assert reader.none_left()
