"""What create_stream may be asked for, and which tasks are on which stream: without a network."""

from __future__ import annotations

from typing import Any

import pytest

from blocks_network import StreamRegistry
from blocks_network.agent.streams.declared import StreamRefused, plan_stream

TICKS = {"direction": "outbound", "format": "events", "affinity": "shared"}
TALK = {"direction": "bidirectional", "format": "events"}
OUT = {"direction": "outbound", "format": "bytes"}


def plan(streams: dict[str, Any], **asked: Any) -> Any:
    words = {"declared": "_default", "direction": "outbound", "format": "bytes", "external": False, "is_pipe": True}
    return plan_stream(streams, **{**words, **asked})


def test_without_a_card_the_handler_chooses() -> None:
    made = plan({}, declared="mine", direction="inbound", format="events")
    assert (made.declared, made.direction, made.format, made.affinity) == ("mine", "inbound", "events", "dedicated")


def test_the_default_means_the_only_stream_and_its_terms_hold() -> None:
    made = plan({"talk": TALK})
    assert (made.declared, made.direction, made.format) == ("talk", "bidirectional", "events")
    assert plan({"talk": TALK}, direction="bidirectional", format="events") == made


def test_a_stream_called_default_is_the_default_among_several() -> None:
    assert plan({"talk": TALK, "_default": OUT}).direction == "outbound"


@pytest.mark.parametrize(
    ("streams", "asked", "says"),
    [
        ({"a": OUT, "b": TALK}, {}, "a, b"),
        ({"a": OUT, "b": TALK}, {"declared": "c"}, "a, b"),
        ({"a": OUT}, {"direction": "inbound"}, "outbound by the card"),
        ({"a": OUT}, {"format": "events"}, "bytes by the card"),
        ({}, {"direction": "sideways"}, "sideways"),
        ({}, {"format": "raw"}, "raw"),
        ({"t": TICKS}, {"external": True}, "shared"),
        ({"t.t": TICKS}, {}, "id"),
        ({"t": TICKS}, {"is_pipe": False}, "shared"),
        ({"t": TALK}, {"is_pipe": False}, "bidirectional"),
        ({}, {"is_pipe": False, "direction": "inbound"}, "inbound"),
        ({}, {"is_pipe": False, "external": True}, "external"),
    ],
)
def test_a_refusal_names_what_stands_against_it(streams: dict[str, Any], asked: dict[str, Any], says: str) -> None:
    with pytest.raises(StreamRefused, match=says) as refused:
        plan(streams, **asked)
    assert isinstance(refused.value, RuntimeError)


TERMS: dict[str, Any] = {"direction": "outbound", "format": "bytes", "external": False, "affinity": "shared"}


def test_an_entry_lives_as_long_as_a_task_is_on_it() -> None:
    registry = StreamRegistry()
    entry, is_new, is_new_for_task = registry.acquire("s", "t1", **TERMS)
    assert (is_new, is_new_for_task) == (True, True)
    assert registry.acquire("s", "t2", **TERMS) == (entry, False, True)
    assert registry.acquire("s", "t2", **TERMS) == (entry, False, False)
    assert registry.release("s", "t1") == 1
    assert registry.get("s") is entry
    assert registry.release("s", "t2") == 0
    assert registry.get("s") is None
    assert registry.release("s", "t2") == 0


def test_another_kind_of_stream_under_the_same_id_is_refused() -> None:
    registry = StreamRegistry()
    registry.acquire("s", "t1", **TERMS)
    for change in ({"direction": "inbound"}, {"format": "events"}, {"external": True}, {"affinity": "dedicated"}):
        with pytest.raises(ValueError, match="s is"):
            registry.acquire("s", "t2", **{**TERMS, **change})


def test_force_remove_keeps_the_task_ids() -> None:
    registry = StreamRegistry()
    registry.acquire("s", "t1", **TERMS)
    registry.acquire("s", "t2", **TERMS)
    entry = registry.force_remove("s")
    assert entry is not None
    assert entry.task_ids == {"t1", "t2"}
    assert registry.force_remove("s") is None


def test_release_all_for_a_task_gives_what_became_empty() -> None:
    registry = StreamRegistry()
    alone, *_ = registry.acquire("alone", "t1", **TERMS)
    registry.acquire("both", "t1", **TERMS)
    registry.acquire("both", "t2", **TERMS)
    assert registry.release_all_for_task("t1") == [alone]
    assert registry.stream_ids == ["both"]
    registry.clear()
    assert registry.stream_ids == []


def test_an_old_entry_is_not_taken_for_a_new_one_of_its_name() -> None:
    registry = StreamRegistry()
    old, *_ = registry.acquire("s", "t1", **TERMS)
    registry.force_remove("s")
    new, *_ = registry.acquire("s", "t1", **TERMS)
    assert not registry.release_entry(old, "t1")
    registry.discard(old)
    assert registry.holds(new)
