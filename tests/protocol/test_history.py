"""History as the unmodified Python clients read it: by pages both ways, by ranges, counted and deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gateway_harness import GatewayNode
from talkers import AsyncTalker, Refused, SyncTalker, Talker, TalkerFactory

from blocks_network.server.access.authorizer import Bits

COUNT = 1_050
PAGE = 100


@pytest.fixture(scope="module")
def long_room() -> Iterator[tuple[GatewayNode, list[int]]]:
    """A channel with more than a thousand messages 0, 1, 2, ..., and their timetokens."""
    node = GatewayNode().start()
    try:
        client = node.client("writer")
        sent = [client.publish().channel("room").message(number).sync() for number in range(COUNT)]
        yield node, [int(envelope.result.timetoken) for envelope in sent]
    finally:
        node.stop()


@pytest.fixture(params=[SyncTalker, AsyncTalker], ids=["sync", "asyncio"])
def reader(request: pytest.FixtureRequest, long_room: tuple[GatewayNode, list[int]]) -> Iterator[Talker]:
    talker = request.param(long_room[0], "reader")
    try:
        yield talker
    finally:
        talker.close()


@pytest.fixture
def timetokens(long_room: tuple[GatewayNode, list[int]]) -> list[int]:
    return long_room[1]


def fetch(reader: Talker, *, start: int | None = None, end: int | None = None, most: int = PAGE) -> list[Any]:
    def build(client: Any) -> Any:
        builder = client.fetch_messages().channels(["room"]).maximum_per_channel(most)
        if start is not None:
            builder = builder.start(start)
        return builder if end is None else builder.end(end)

    return list(reader.do(build).channels.get("room", []))


def pairs(items: list[Any]) -> list[tuple[int, int]]:
    return [(item.message, int(item.timetoken)) for item in items]


def test_pages_backward_have_each_message_once(reader: Talker, timetokens: list[int]) -> None:
    whole: list[tuple[int, int]] = []
    pages = 0
    page = fetch(reader)
    while page:
        pages += 1
        whole = pairs(page) + whole
        page = fetch(reader, start=int(page[0].timetoken))
    assert whole == list(enumerate(timetokens))
    assert pages == -(-COUNT // PAGE)


def test_pages_forward_have_each_message_once(reader: Talker, timetokens: list[int]) -> None:
    def page_after(start: int) -> Any:
        return reader.do(
            lambda client: (
                client.history().channel("room").count(PAGE).reverse(True).start(start).include_timetoken(True)
            )
        )

    whole: list[tuple[int, int]] = []
    page = page_after(1)
    while page.messages:
        assert (page.start_timetoken, page.end_timetoken) == (page.messages[0].timetoken, page.messages[-1].timetoken)
        whole += [(item.entry, int(item.timetoken)) for item in page.messages]
        page = page_after(whole[-1][1])
    assert whole == list(enumerate(timetokens))
    assert (int(page.start_timetoken), int(page.end_timetoken)) == (0, 0)


def test_history_without_bounds_is_the_newest(reader: Talker, timetokens: list[int]) -> None:
    newest = reader.do(lambda client: client.history().channel("room").count(3))
    assert [item.entry for item in newest.messages] == [COUNT - 3, COUNT - 2, COUNT - 1]
    assert (int(newest.start_timetoken), int(newest.end_timetoken)) == (timetokens[-3], timetokens[-1])
    oldest = reader.do(lambda client: client.history().channel("room").count(3).reverse(True))
    assert [item.entry for item in oldest.messages] == [0, 1, 2]


def test_a_range_has_its_end_and_not_its_start(reader: Talker, timetokens: list[int]) -> None:
    assert pairs(fetch(reader, start=timetokens[20], end=timetokens[10])) == list(enumerate(timetokens))[10:20]
    assert pairs(fetch(reader, end=timetokens[-5])) == list(enumerate(timetokens))[-5:]
    assert pairs(fetch(reader, end=timetokens[0], most=2)) == list(enumerate(timetokens))[-2:]
    assert fetch(reader, start=timetokens[0]) == []
    assert pairs(fetch(reader, start=timetokens[30], end=timetokens[10], most=5)) == list(enumerate(timetokens))[25:30]


def test_messages_are_counted_from_a_timetoken_on(reader: Talker, timetokens: list[int]) -> None:
    def counts(*channels: str, since: list[int]) -> dict[str, int]:
        result = reader.do(
            lambda client: client.message_counts().channel(list(channels)).channel_timetokens(since)
        ).channels
        return {name: int(number) for name, number in result.items()}

    assert counts("room", since=[1]) == {"room": COUNT}
    assert counts("room", since=[timetokens[-1]]) == {"room": 0}
    assert counts("room", "empty", since=[timetokens[999], 1]) == {"room": COUNT - 1000, "empty": 0}


def test_a_wrong_number_of_timetokens_is_refused(gateway_node: GatewayNode) -> None:
    base = f"/v3/history/sub-key/{gateway_node.open_keyset.subscribe_key}/message-counts"
    for query in ("channelsTimetoken=1,2", "channelsTimetoken=1,2,x", "timetoken=", ""):
        status, body = gateway_node.ask(f"{base}/a,b,c?{query}")  # the clients refuse by themselves
        assert (status, body["status"], body["error"]) == (400, 400, True)


# -- several channels, and deleting: rooms of their own ----------------------------------------------------------------


def publish(talker: Talker, channel: str, *messages: Any) -> list[int]:
    return [
        int(talker.do(lambda it, message=message: it.publish().channel(channel).message(message)).timetoken)
        for message in messages
    ]


def test_several_channels_give_the_newest_25_of_each(talker: TalkerFactory) -> None:
    client = talker("u1")
    publish(client, "long", *range(30))
    publish(client, "short/ä", "one", "two")
    found = client.do(lambda it: it.fetch_messages().channels(["long", "short/ä", "empty"])).channels
    assert {name: [item.message for item in items] for name, items in found.items()} == {
        "long": list(range(5, 30)),
        "short/ä": ["one", "two"],
    }


def test_deleted_messages_are_gone_and_the_others_stay(talker: TalkerFactory) -> None:
    client = talker("u1")
    sent = publish(client, "room", *range(10))

    def left() -> list[int]:
        found = client.do(lambda it: it.fetch_messages().channels(["room"])).channels
        return [item.message for item in found.get("room", [])]

    client.do(lambda it: it.delete_messages().channel("room").start(sent[4] - 1).end(sent[4]))
    assert left() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    client.do(lambda it: it.delete_messages().channel("room").start(sent[6]).end(sent[8]))
    assert left() == [0, 1, 2, 3, 5, 6, 9]
    client.do(lambda it: it.delete_messages().channel("room"))
    assert left() == []
    publish(client, "room", "new")
    assert left() == ["new"]


def test_reading_needs_read_and_deleting_delete(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    admin = talker("admin", secret=True)
    publish(admin, "room", "m")
    reader = talker("u1", token=gateway_node.mint(channels={"room": Bits.READ}))
    assert len(reader.do(lambda it: it.fetch_messages().channels(["room"])).channels["room"]) == 1
    deleter = talker("u2", token=gateway_node.mint(channels={"room": Bits.DELETE}))
    for client, call in (
        (reader, lambda it: it.delete_messages().channel("room")),
        (reader, lambda it: it.fetch_messages().channels(["room", "other"])),
        (reader, lambda it: it.message_counts().channel("other").channel_timetokens([1])),
        (deleter, lambda it: it.fetch_messages().channels(["room"])),
        (deleter, lambda it: it.history().channel("room")),
    ):
        with pytest.raises(Refused) as refused:
            client.do(call)
        assert refused.value.status == 403
    deleter.do(lambda it: it.delete_messages().channel("room"))
    assert admin.do(lambda it: it.fetch_messages().channels(["room"])).channels == {}
