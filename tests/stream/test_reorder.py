"""The order of frames, without a network and without a clock."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from blocks_network.stream.reorder import MAX_HELD, Gap, Reorder
from blocks_network.wire.frames import DataFrame, EndFrame

WAIT_S = 0.75


def frame(seq: int) -> DataFrame:
    return DataFrame(seq, 0, "bytes", "utf8", [str(seq)])


def order(first: int = 0, *, timeout_s: float = WAIT_S, shared: bool = False) -> Reorder:
    return Reorder(first, timeout_s=timeout_s, shared=shared)


def fed(reorder: Reorder, *seqs: int, sender: str = "w", now_s: float = 0.0) -> list[int]:
    return [item.seq for seq in seqs for item in reorder.add(sender, frame(seq), now_s) if isinstance(item, DataFrame)]


def end(reorder: Reorder, seq: int | None, *, sender: str = "w", now_s: float = 0.0, error: str | None = None) -> Any:
    return reorder.add(sender, EndFrame(seq, error), now_s)


@given(st.permutations(range(30)), st.lists(st.integers(0, 29), max_size=10))
def test_whatever_the_order_of_arrival_with_repeats_each_frame_comes_once_in_its_order(
    arrival: list[int], repeats: list[int]
) -> None:
    reorder = order()
    # a first frame far ahead is taken for the middle of a stream, so arrivals begin near its start
    near = sorted(arrival, key=lambda seq: seq > 8)
    out = fed(reorder, *near, *repeats)
    assert out == list(range(30))
    assert reorder.next_deadline_s() is None


def test_events_count_from_one() -> None:
    reorder = order(1)
    assert fed(reorder, 2) == []
    assert fed(reorder, 1) == [1, 2]


def test_a_gap_is_waited_for_from_its_first_sight_and_then_reported() -> None:
    reorder = order()
    assert fed(reorder, 0, now_s=0) == [0]
    assert fed(reorder, 2, now_s=1.0) == []
    assert fed(reorder, 3, now_s=1.5) == []
    assert reorder.next_deadline_s() == 1.0 + WAIT_S, "later frames must not push the deadline back"
    assert reorder.expire(1.0 + WAIT_S) == [Gap("w", 1, 1), frame(2), frame(3)]
    assert fed(reorder, 1, 4) == [4], "what comes after it was given up is dropped"


def test_an_end_before_late_data_waits_for_it() -> None:
    reorder = order()
    fed(reorder, 0)
    assert end(reorder, 2) == []
    assert not reorder.done
    assert fed(reorder, 1) == [1]
    assert reorder.done


def test_a_lost_tail_does_not_hang_also_after_an_in_order_arrival() -> None:
    reorder = order()
    fed(reorder, 0)
    end(reorder, 3)
    assert fed(reorder, 1, now_s=0.5) == [1]  # and 2 is lost
    deadline = reorder.next_deadline_s()
    assert deadline is not None
    assert reorder.expire(deadline) == [Gap("w", 2, 2)]
    assert reorder.done


def test_data_at_or_after_the_end_is_dropped() -> None:
    reorder = order()
    end(reorder, 1)
    assert fed(reorder, 1, 5) == []
    assert fed(reorder, 0) == [0]
    assert reorder.done
    assert fed(reorder, 0, 1) == []


def test_an_end_without_number_is_ignored() -> None:
    reorder = order()
    assert end(reorder, None) == []
    assert not reorder.done
    assert reorder.next_deadline_s() is None


def test_an_empty_stream_ends_with_its_marker() -> None:
    for first in (0, 1):
        reorder = order(first)
        end(reorder, first)
        assert reorder.done


def test_the_error_of_an_end_is_kept() -> None:
    reorder = order()
    end(reorder, 0, error="the disk is full")
    assert reorder.error == "the disk is full"


def test_without_waiting_frames_come_as_they_come() -> None:
    reorder = order(timeout_s=0)
    assert fed(reorder, 3, 1, 1) == [3, 1, 1]
    end(reorder, None)
    assert reorder.done


def test_each_writer_has_its_own_order() -> None:
    reorder = order(shared=True)
    assert fed(reorder, 0, 1, sender="a") == [0, 1]
    assert fed(reorder, 0, 1, sender="b") == [0, 1], "another writer's numbers are no duplicates"
    assert fed(reorder, 3, sender="a") == []
    assert fed(reorder, 2, sender="b") == [2], "one writer's gap does not hold back another"
    assert fed(reorder, 2, sender="a") == [2, 3]


def test_whoever_joins_a_shared_stream_late_starts_at_once() -> None:
    reorder = order(shared=True)
    assert fed(reorder, 57, 58) == [57, 58]
    assert reorder.next_deadline_s() is None


def test_nobody_ends_a_shared_stream() -> None:
    reorder = order(shared=True)
    fed(reorder, 0)
    end(reorder, 1)
    assert not reorder.done
    assert fed(reorder, 1) == [1]


def test_a_reader_that_comes_too_late_for_the_head_hears_what_is_missing() -> None:
    reorder = order()
    assert reorder.add("w", frame(40), 0) == [Gap("w", 0, 39), frame(40)]


def test_too_many_frames_behind_one_gap_end_the_waiting() -> None:
    reorder = order()
    fed(reorder, 0)
    out = fed(reorder, *range(2, MAX_HELD + 3))
    assert out == list(range(2, MAX_HELD + 3))


def test_the_end_hands_on_what_other_writers_gaps_hold_back() -> None:
    reorder = order()
    fed(reorder, 0, 2, sender="b")
    fed(reorder, 0, sender="a")
    assert end(reorder, 1, sender="a") == [Gap("b", 1, 1), frame(2)]
    assert reorder.done
