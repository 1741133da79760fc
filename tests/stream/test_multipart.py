"""Large frames in parts, and together again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks_network.stream.multipart import MAX_BYTES, MAX_GROUPS, STALE_S, PartCollector
from blocks_network.wire.frames import PartFrame, chunk_text, data_text, part_texts, read_frame


def parts_of(text: str, max_message_size: int = 2048, seq: int = 0) -> list[str]:
    chunk, encoding, _ = chunk_text(text)
    frame = data_text("s", seq, 1_000, encoding, [chunk])
    return part_texts(frame, "stream_data", "s", seq, 1_000, max_message_size)


def read(text: str) -> PartFrame:
    frame = read_frame(json.loads(text))
    assert isinstance(frame, PartFrame)
    return frame


def some(number: int = 3) -> list[PartFrame]:
    return [read(text) for text in parts_of("x" * 1_000 * number, 2048)]


@given(st.text(min_size=1, max_size=8_000), st.integers(600, 4_096), st.randoms())
def test_any_text_comes_back_whole_whatever_the_order_of_its_parts(text: str, size: int, chance: object) -> None:
    texts = parts_of(text, size)
    assert all(len(part.encode("utf-8", "surrogatepass")) <= size for part in texts), "sizes are bytes, not characters"
    if len(texts) == 1:
        return
    chance.shuffle(texts)  # type: ignore[attr-defined]
    collector = PartCollector()
    whole = [collector.add("w", read(part), 0) for part in texts]
    assert whole[:-1] == [None] * (len(texts) - 1)
    assert whole[-1]["chunks"] == [text]
    assert collector.open_groups == 0


def test_a_frame_that_fits_stays_whole_and_all_parts_share_its_number() -> None:
    assert len(parts_of("short")) == 1
    assert {read(part).seq for part in parts_of("x" * 9_000, seq=7)} == {7}


def test_no_room_for_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="512"):
        parts_of("x", 512)


def test_the_same_part_again_is_ignored_and_another_content_drops_the_group() -> None:
    first, second, *_ = some()
    collector = PartCollector()
    collector.add("w", first, 0)
    collector.add("w", first, 0)
    assert collector.open_groups == 1
    collector.add("w", replace(first, data=second.data), 0)
    assert collector.open_groups == 0


@pytest.mark.parametrize("change", [{"total": 9}, {"seq": 5}, {"kind": "stream_events"}, {"stream_id": "other"}])
def test_a_part_that_disagrees_drops_the_group(change: dict[str, object]) -> None:
    first, second, *_ = some()
    collector = PartCollector()
    collector.add("w", first, 0)
    assert collector.add("w", replace(second, **change), 0) is None  # type: ignore[arg-type]
    assert collector.open_groups == 0


def test_two_writers_with_the_same_group_id_never_mix() -> None:
    ours, theirs = some(), some()
    collector = PartCollector()
    for part in ours[:-1]:
        collector.add("a", part, 0)
    assert collector.add("b", theirs[-1], 0) is None
    assert collector.add("a", ours[-1], 0) is not None


@pytest.mark.parametrize(
    ("multipart", "data"),
    [
        ({"id": "", "part": 1, "total": 2}, "eA=="),
        ({"id": "g", "part": 0, "total": 2}, "eA=="),
        ({"id": "g", "part": 3, "total": 2}, "eA=="),
        ({"id": "g", "part": 1, "total": 1}, "eA=="),
        ({"id": "g", "part": True, "total": 2}, "eA=="),
        ({"id": "g", "part": 1, "total": 2}, 5),
    ],
)
def test_a_malformed_part_is_none(multipart: dict[str, object], data: object) -> None:
    assert read_frame({"type": "stream_data", "seq": 0, "multipart": multipart, "data": data}) is None


def test_stale_groups_go_and_so_do_the_oldest_beyond_the_bounds() -> None:
    first = some()[0]
    collector = PartCollector()
    collector.add("w", first, 0)
    collector.add("w", replace(first, group="later"), STALE_S + 1)
    assert collector.open_groups == 1
    for number in range(MAX_GROUPS + 10):
        collector.add("w", replace(first, group=f"g{number}"), STALE_S + 1)
    assert collector.open_groups == MAX_GROUPS
    large = replace(first, data="A" * (MAX_BYTES // 2))
    for number in range(3):
        collector.add("w", replace(large, group=f"large{number}"), STALE_S + 1)
    assert collector.open_groups <= 2, "memory is bounded too"


def test_parts_that_are_no_frame_together_are_dropped() -> None:
    first, *rest = some(2)
    collector = PartCollector()
    collector.add("w", replace(first, data="!!!"), 0)
    assert [collector.add("w", part, 0) for part in rest][-1] is None
    assert collector.open_groups == 0
