"""Message actions, as the unmodified sync client of `pubnub` sees them."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import DEADLINE_S, Ear, GatewayNode
from pubnub.exceptions import PubNubException
from pubnub.models.consumer.message_actions import PNMessageAction
from pubnub.pubnub import PubNub

from blocks_network.server.access.authorizer import Bits
from blocks_network.server.limits import Limits


class ActionEar(Ear):
    """Also takes the events of message actions."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: queue.Queue[Any] = queue.Queue()

    def message_action(self, pubnub: PubNub, message_action: Any) -> None:
        self.actions.put(message_action)

    def next_action(self) -> Any:
        return self.actions.get(timeout=DEADLINE_S)


@pytest.fixture
def node_of(tmp_path: Path) -> Iterator[Callable[..., GatewayNode]]:
    """Starts gateways with limits, or on the test's directory; they end with the test."""
    nodes: list[GatewayNode] = []

    def start(limits: Limits | None = None, *, durable: bool = False) -> GatewayNode:
        nodes.append(GatewayNode(limits, directory=tmp_path if durable else None).start())
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


def publish(client: PubNub, message: Any, channel: str = "room", **settings: Any) -> int:
    builder = client.publish().channel(channel).message(message)
    if "store" in settings:
        builder = builder.should_store(settings["store"])
    return int(builder.sync().result.timetoken)


def add(client: PubNub, message: int, value: str = "smile", kind: str = "reaction", channel: str = "room") -> Any:
    action = PNMessageAction().create(type=kind, value=value, message_timetoken=str(message))
    return client.add_message_action().channel(channel).message_action(action).sync().result


def remove(client: PubNub, message: int, action: str, channel: str = "room") -> Any:
    return (
        client.remove_message_action().channel(channel).message_timetoken(message).action_timetoken(int(action)).sync()
    )


def values(client: PubNub, channel: str = "room", **bounds: str) -> list[str]:
    builder = client.get_message_actions().channel(channel)
    for name, value in bounds.items():
        builder = getattr(builder, name)(value)
    return [action.value for action in builder.sync().result.actions]


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(PubNubException) as caught:
        call()
    return int(caught.value.get_status_code())


def test_an_action_is_added_shown_and_removed(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    message = publish(client, "hello")
    added = add(client, message)
    assert (added.type, added.value, added.uuid, int(added.message_timetoken)) == ("reaction", "smile", "u1", message)
    assert int(added.action_timetoken) > message
    (shown,) = client.get_message_actions().channel("room").sync().result.actions
    assert vars(shown) == vars(added)
    remove(client, message, added.action_timetoken)
    assert values(client) == []
    assert refused(lambda: remove(client, message, added.action_timetoken)) == 404


def test_subscribers_hear_of_both(gateway_node: GatewayNode) -> None:
    reader, writer = gateway_node.client("reader"), gateway_node.client("writer")
    ear = ActionEar()
    reader.add_listener(ear)
    reader.subscribe().channels(["room"]).execute()
    ear.wait_connected()
    message = publish(writer, "hello")
    added = add(writer, message, "wave")
    came = ear.next_action()
    assert (came.type, came.value, came.uuid) == ("reaction", "wave", "writer")
    assert (came.message_timetoken, came.action_timetoken) == (str(message), added.action_timetoken)
    remove(writer, message, added.action_timetoken)
    gone = ear.next_action()
    assert (gone.value, gone.action_timetoken) == ("wave", added.action_timetoken)
    assert ear.next_message().message == "hello"


def test_the_event_is_as_clients_of_the_protocol_know_it(gateway_node: GatewayNode) -> None:
    client, key = gateway_node.client("u1"), gateway_node.open_keyset.subscribe_key
    message = publish(client, "hello")
    added = add(client, message)
    remove(client, message, added.action_timetoken)
    _, news = gateway_node.ask(f"/v2/subscribe/{key}/room/0?uuid=late&tt={message}&tr=1")
    came, gone = news["m"]
    assert came["e"] == gone["e"] == 3
    assert came["d"] == {
        "data": {
            "messageTimetoken": str(message),
            "type": "reaction",
            "value": "smile",
            "uuid": "u1",
            "actionTimetoken": added.action_timetoken,
        },
        "event": "added",
        "source": "actions",
        "version": "1.0",
    }
    assert gone["d"] == {**came["d"], "event": "removed"}


def test_an_action_counts_once_for_each_uuid(gateway_node: GatewayNode) -> None:
    first, second = gateway_node.client("u1"), gateway_node.client("u2")
    message = publish(first, "hello")
    add(first, message)
    assert refused(lambda: add(first, message)) == 409
    add(second, message)
    add(first, message, "wave")
    add(first, message, kind="receipt")
    assert values(first) == ["smile", "smile", "wave", "smile"]


def test_actions_need_a_stored_message_of_their_channel(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    unstored, elsewhere = publish(client, "x", store=False), publish(client, "x", channel="other")
    for message in (1, unstored, elsewhere):
        assert refused(lambda message=message: add(client, message)) == 404
    assert values(client) == []


def test_actions_go_with_their_message(gateway_node: GatewayNode) -> None:
    client = gateway_node.client("u1")
    first, second = publish(client, "one"), publish(client, "two")
    add(client, first, "on one")
    add(client, second, "on two")
    client.delete_messages().channel("room").start(first - 1).end(first).sync()
    assert values(client) == ["on two"]
    assert refused(lambda: add(client, first, "late")) == 404


def test_actions_are_read_page_by_page(gateway_node: GatewayNode) -> None:
    client, key = gateway_node.client("u1"), gateway_node.open_keyset.subscribe_key
    message = publish(client, "hello")
    actions = [int(add(client, message, f"v{number}").action_timetoken) for number in range(5)]
    assert values(client) == ["v0", "v1", "v2", "v3", "v4"]
    assert values(client, limit="2") == ["v3", "v4"]
    assert values(client, limit="2", start=str(actions[3])) == ["v1", "v2"]
    assert values(client, end=str(actions[3])) == ["v3", "v4"]
    assert values(client, "other") == []

    path, seen = f"/v1/message-actions/{key}/channel/room?limit=2&end={actions[1]}", []
    while path:
        status, page = gateway_node.ask(path)
        assert status == 200
        seen.append([action["value"] for action in page["data"]])
        path = page.get("more", {}).get("url")
    assert seen == [["v3", "v4"], ["v1", "v2"]]


def test_history_shows_them_by_type_and_value(gateway_node: GatewayNode) -> None:
    client, other = gateway_node.client("u1"), gateway_node.client("u2")
    plain, liked = publish(client, {"n": 1}), publish(client, {"n": 2})
    mine, theirs, receipt = add(client, liked), add(other, liked), add(client, liked, "read", "receipt")
    result = client.fetch_messages().channels("room").include_message_actions(True).include_meta(True).sync().result
    first, second = result.channels["room"]
    assert (first.message, int(first.timetoken), first.actions) == ({"n": 1}, plain, {})
    assert second.actions == {
        "reaction": {
            "smile": [
                {"uuid": "u1", "actionTimetoken": mine.action_timetoken},
                {"uuid": "u2", "actionTimetoken": theirs.action_timetoken},
            ]
        },
        "receipt": {"read": [{"uuid": "u1", "actionTimetoken": receipt.action_timetoken}]},
    }
    empty = client.fetch_messages().channels("silent").include_message_actions(True).sync().result
    assert empty.channels == {}


def test_history_with_too_many_actions_goes_on_where_it_stopped(node_of: Callable[..., GatewayNode]) -> None:
    node = node_of(Limits(actions_per_message=4, actions_per_answer=3))
    client, key = node.client("u1"), node.open_keyset.subscribe_key
    for number in range(3):
        message = publish(client, number)
        for value in range(2 + number):
            add(client, message, f"v{value}")
    base = f"/v3/history-with-actions/sub-key/{key}/channel/room"
    for path in (f"{base}?max=25", f"{base}?max=2"):
        seen, url = [], path
        while url:
            _, page = node.ask(url)
            items = page["channels"]["room"]
            assert all(
                len(item["actions"]["reaction"]) == 2 + item["message"] for item in items
            )  # never a part of a message's actions
            seen.append([item["message"] for item in items])
            url = page.get("more", {}).get("url")
        assert seen == [[2], [1], [0]]
    _, page = node.ask(f"{base}?reverse=true")
    assert [item["message"] for item in page["channels"]["room"]] == [0]
    _, page = node.ask(page["more"]["url"] + "&reverse=true")
    assert [item["message"] for item in page["channels"]["room"]] == [1]


def test_a_message_takes_so_many_actions_of_such_a_size(node_of: Callable[..., GatewayNode]) -> None:
    node = node_of(Limits(actions_per_message=2, action_value_bytes=10))
    client = node.client("u1")
    message = publish(client, "hello")
    assert refused(lambda: add(client, message, "a" * 11)) == 400
    add(client, message, "a" * 10)
    assert refused(lambda: add(client, message, "é" * 6)) == 400
    add(client, message, "é" * 5)
    assert refused(lambda: add(client, message, "b")) == 400
    assert refused(lambda: add(client, message, kind="k" * 256)) == 400
    assert values(client) == ["a" * 10, "é" * 5]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b'{"type":"t"}',
        b'{"value":"v"}',
        b'{"type":1,"value":"v"}',
        b'{"type":"t","value":{}}',
        b'{"type":"","value":"v"}',
        b'{"type":"t","value":"\\ud800"}',
        b'{"type":"t","value":"v"',
        b"[" * 100_000,
    ],
)
def test_what_is_no_action_is_refused(gateway_node: GatewayNode, body: bytes) -> None:
    client, key = gateway_node.client("u1"), gateway_node.open_keyset.subscribe_key
    message = publish(client, "hello")
    path = f"/v1/message-actions/{key}/channel/room/message/{message}"
    status, answer = gateway_node.ask(f"{path}?uuid=u1", method="POST", body=body)
    assert (status, answer["status"], answer["error"]) == (400, 400, True)
    assert values(client) == []


def test_an_action_has_a_uuid_and_a_timetoken(gateway_node: GatewayNode) -> None:
    key, body = gateway_node.open_keyset.subscribe_key, json.dumps({"type": "t", "value": "v"}).encode()
    message = publish(gateway_node.client("u1"), "hello")
    base = f"/v1/message-actions/{key}/channel/room/message"
    assert gateway_node.ask(f"{base}/{message}", method="POST", body=body)[0] == 400
    for timetoken in ("abc", "-1", "9" * 19, "%C2%B2"):
        assert gateway_node.ask(f"{base}/{timetoken}?uuid=u", method="POST", body=body)[0] == 400
        assert gateway_node.ask(f"{base}/{message}/action/{timetoken}?uuid=u", method="DELETE")[0] == 400
    assert gateway_node.ask(f"{base}/{message}?uuid=u", method="POST", body=body)[0] == 200


def test_permissions(gateway_node: GatewayNode) -> None:
    admin = gateway_node.client("admin", secret=True)
    message = publish(admin, "hello")
    kept = add(admin, message, "kept").action_timetoken

    def may(bits: Bits) -> PubNub:
        return gateway_node.client("u1", token=gateway_node.mint(channels={"room": bits}, uuid="u1"))

    reader, writer, cleaner = may(Bits.READ), may(Bits.WRITE), may(Bits.DELETE)
    assert values(reader) == ["kept"]
    assert refused(lambda: add(reader, message)) == 403
    assert refused(lambda: remove(reader, message, kept)) == 403
    assert refused(lambda: values(writer)) == 403
    assert add(writer, message, "mine").uuid == "u1"
    assert refused(lambda: remove(writer, message, kept)) == 403
    with_actions = writer.fetch_messages().channels("room").include_message_actions(True)
    assert refused(with_actions.sync) == 403
    remove(cleaner, message, kept)
    assert values(reader) == ["mine"]


def test_keysets_do_not_share_actions(gateway_node: GatewayNode) -> None:
    admin, outsider = gateway_node.client("admin", secret=True), gateway_node.client("u1")
    message = publish(admin, "hello")
    kept = add(admin, message).action_timetoken
    assert refused(lambda: add(outsider, message)) == 404
    assert refused(lambda: remove(outsider, message, kept)) == 404
    assert values(outsider) == []
    assert values(admin) == ["smile"]


def test_actions_outlive_a_restart(node_of: Callable[..., GatewayNode]) -> None:
    node = node_of(durable=True)
    client = node.client("u1")
    message = publish(client, "hello")
    kept, gone = add(client, message, "kept"), add(client, message, "gone")
    remove(client, message, gone.action_timetoken)
    node.stop()
    client = node_of(durable=True).client("u1")
    assert values(client) == ["kept"]
    assert refused(lambda: add(client, message, "kept")) == 409
    later = add(client, message, "later")
    assert int(later.action_timetoken) > int(kept.action_timetoken)
