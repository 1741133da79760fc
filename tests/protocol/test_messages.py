"""Messages of every kind through the unmodified Python clients: what is published is what is heard and kept."""

from __future__ import annotations

import time
from typing import Any

import pytest
from talkers import Refused, TalkerFactory

MESSAGES: list[Any] = [
    True,
    False,
    0,
    -1,
    1.5,
    -2.5e-300,
    1.7976931348623157e308,
    2**53 + 1,
    10**40,
    "",
    "text",
    " spaces  and\ttabs\nlines\r\n",
    "quotes \" ' ` and \\ back / slashes",
    "path ? query & fragment # percent %2F %25 plus + semicolon ; comma , equals =",
    "control \x00 \x01 \x1f \x7f \u2028 \u2029 \ufeff",
    "umlauts äöüß, 漢字, עברית, العربية, हिन्दी",
    "emoji 🎉 👩‍👩‍👧‍👦 🇪🇺 \U0010ffff",
    "half a pair \ud83d",
    [],
    {},
    [None, [None, [None]]],
    {"": {"": ""}, "ключ 🔑": [1, "two", 3.0, None, True]},
    [[[[[[[[[["deep"]]]]]]]]]],
    {"channels": {"a": []}, "m": [], "t": {"t": "1", "r": 0}},
]


def payloads(messages: list[Any]) -> list[tuple[type, Any]]:
    """With their types, since 1, 1.0 and True are equal."""
    return [(type(message), message) for message in messages]


@pytest.fixture(params=[True, False], ids=["post", "get"])
def by_post(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_every_json_value_comes_as_it_went(talker: TalkerFactory, by_post: bool) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    for message in MESSAGES:
        sent = writer.do(lambda it, message=message: it.publish().channel("room").message(message).use_post(by_post))
        heard = ear.next_message()
        assert payloads([heard.message]) == payloads([message])
        assert (heard.channel, heard.publisher, int(heard.timetoken)) == ("room", "writer", int(sent.timetoken))
    kept = reader.do(lambda it: it.fetch_messages().channels(["room"]).maximum_per_channel(100)).channels["room"]
    assert payloads([item.message for item in kept]) == payloads(MESSAGES)


def text_of(size: int, filling: str) -> str:
    """A text that the client writes as JSON of just so many bytes."""
    each = len(filling.encode("ascii", "backslashreplace")) if filling.isascii() else 12  # two escapes of six
    count = (size - 2) // each
    return filling * count + "." * (size - 2 - count * each)


@pytest.mark.parametrize("filling", ["x", "🎉"], ids=["ascii", "emoji"])
def test_a_message_of_32_kib_passes_and_one_byte_more_does_not(
    talker: TalkerFactory, by_post: bool, filling: str
) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    limit = 32 * 1024

    def publish(text: str) -> None:
        writer.do(lambda it: it.publish().channel("room").message(text).use_post(by_post))

    whole = text_of(limit, filling)
    publish(whole)
    assert ear.next_message().message == whole
    with pytest.raises(Refused) as refused:
        publish(text_of(limit + 1, filling))
    assert refused.value.status == 413
    publish("after")
    assert ear.next_message().message == "after"


def test_meta_and_type_come_along(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    meta = {"lang": "dé+utsch & 漢字", "n": [1, {"deep": None}]}
    writer.do(lambda it: it.publish().channel("room").message("m").meta(meta).custom_message_type("note-1"))
    heard = ear.next_message()
    assert (heard.user_metadata, heard.custom_message_type) == (meta, "note-1")
    fetched = reader.do(lambda it: it.fetch_messages().channels(["room"]).include_meta(True).include_uuid(True))
    (kept,) = fetched.channels["room"]
    assert (kept.meta, kept.uuid) == (meta, "writer")


def test_what_is_not_to_be_stored_is_heard_and_not_kept(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    writer.do(lambda it: it.publish().channel("room").message("passing").should_store(False))
    writer.do(lambda it: it.publish().channel("room").message("kept").should_store(True))
    assert [ear.next_message().message for _ in range(2)] == ["passing", "kept"]
    kept = reader.do(lambda it: it.fetch_messages().channels(["room"])).channels["room"]
    assert [item.message for item in kept] == ["kept"]


def test_a_fire_reaches_nobody(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    assert int(writer.do(lambda it: it.fire().channel("room").message("bang")).timetoken) > 0
    writer.do(lambda it: it.publish().channel("room").message("after"))
    assert ear.next_message().message == "after"
    kept = reader.do(lambda it: it.fetch_messages().channels(["room"])).channels["room"]
    assert [item.message for item in kept] == ["after"]


# -- signals -----------------------------------------------------------------------------------------------------------


def test_signals_are_heard_as_signals_and_not_kept(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    for message in ("typing", {"x": 1}, 42, "🎉", "a/b?c"):
        sent = writer.do(lambda it, message=message: it.signal().channel("room").message(message))
        heard = ear.next_signal()
        assert (heard.message, heard.channel, heard.publisher) == (message, "room", "writer")
        assert int(heard.timetoken) == int(sent.timetoken)
    assert ear.messages.empty()
    assert reader.do(lambda it: it.fetch_messages().channels(["room"])).channels == {}


def test_a_signal_of_64_bytes_passes_and_one_byte_more_does_not(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["room"])
    writer.do(lambda it: it.signal().channel("room").message("x" * 62))
    assert ear.next_signal().message == "x" * 62
    with pytest.raises(Refused) as refused:
        writer.do(lambda it: it.signal().channel("room").message("x" * 63))
    assert refused.value.status == 413


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "a b", "a+b", "a%2Fb", "ä.漢字.🎉", "a:b", "a?b#c&d=e", "~._-"])
def test_a_channels_name_survives(talker: TalkerFactory, name: str, by_post: bool) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen([name, "other"])
    writer.do(lambda it: it.publish().channel(name).message("m").use_post(by_post))
    assert ear.next_message().channel == name
    assert list(reader.do(lambda it: it.fetch_messages().channels([name])).channels) == [name]


def test_a_wildcard_hears_the_channels_below_it(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(["news.*", "plain"])
    for channel in ("news", "newsy.a", "sport.a", "news.a", "news.a.b", "plain"):
        writer.do(lambda it, channel=channel: it.publish().channel(channel).message(channel))
    heard = [ear.next_message() for _ in range(3)]
    assert [(it.channel, it.subscription) for it in heard] == [
        ("news.a", "news.*"),
        ("news.a.b", "news.*"),
        ("plain", None),
    ]


def test_what_matches_twice_is_heard_once(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    writer.do(lambda it: it.add_channel_to_channel_group().channels(["news.a"]).channel_group("all"))
    ear = reader.listen(["news.*", "news.a"], ["all"])
    for number in range(5):
        writer.do(lambda it, number=number: it.publish().channel("news.a").message(number))
    assert [ear.next_message().message for _ in range(5)] == list(range(5))
    writer.do(lambda it: it.publish().channel("news.b").message("end"))
    assert ear.next_message().message == "end"


def test_presence_below_a_wildcard_comes_by_its_presence_name(talker: TalkerFactory) -> None:
    watcher, guest = talker("watcher"), talker("guest")
    ear = watcher.listen(["rooms.*"], presence=True)
    guest.listen(["rooms.one"])
    joined = ear.next_event()
    assert (joined.event, joined.uuid, joined.channel, joined.subscription) == ("join", "guest", "rooms.one", "rooms.*")


def test_many_channels_in_one_subscription(talker: TalkerFactory) -> None:
    names = [f"channel-{number}" for number in range(200)]
    writer, reader = talker("writer"), talker("reader")
    ear = reader.listen(names)
    for name in names[::20]:
        writer.do(lambda it, name=name: it.publish().channel(name).message(name))
    assert [ear.next_message().channel for _ in names[::20]] == names[::20]


# -- time --------------------------------------------------------------------------------------------------------------


def test_time_is_that_of_the_messages_and_rises(talker: TalkerFactory) -> None:
    client = talker("u1")
    before = time.time()
    times = []
    for _ in range(3):
        times.append(int(client.do(lambda it: it.time())))
        times.append(int(client.do(lambda it: it.publish().channel("room").message("m")).timetoken))
    assert times == sorted(set(times))
    assert before - 1 <= times[0] / 1e7 <= times[-1] / 1e7 <= time.time() + 1
