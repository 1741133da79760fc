"""Which terminal follows from what the handler did and what was asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from blocks_network.agent.invoke import HandlerCancelled
from blocks_network.agent.run import terminal_fields
from blocks_network.agent.tasks import EndReason

CANCELED, EXPIRED, TERMINATED, STOPPED = (
    EndReason.CANCELED,
    EndReason.EXPIRED,
    EndReason.TERMINATED,
    EndReason.STOPPED,
)
FAULT = ValueError("page 3 is torn")


@pytest.mark.parametrize(
    ("fault", "reasons", "is_pipe", "expected"),
    [
        (None, set(), False, {"state": "completed"}),
        (FAULT, set(), False, {"state": "failed", "error": "page 3 is torn"}),
        (ValueError(), set(), False, {"state": "failed", "error": "Agent instance error (ValueError)"}),
        (None, {CANCELED}, False, {"state": "canceled"}),
        (FAULT, {CANCELED}, False, {"state": "canceled", "error": "page 3 is torn"}),
        (HandlerCancelled("ended"), {CANCELED}, False, {"state": "canceled"}),
        (None, {EXPIRED}, False, {"state": "canceled", "completionReason": "duration_expired"}),
        (None, {TERMINATED}, False, {"state": "canceled", "reason": "terminated"}),
        (None, {CANCELED}, True, {"state": "canceled"}),
        (None, {EXPIRED}, True, {"state": "completed", "completionReason": "duration_expired"}),
        (FAULT, {EXPIRED}, True, {"state": "completed", "completionReason": "duration_expired", "error": str(FAULT)}),
        (FAULT, set(), True, {"state": "failed", "error": "page 3 is torn"}),
        (None, {TERMINATED}, True, {"state": "canceled", "reason": "terminated"}),
        (
            None,
            {EXPIRED, TERMINATED},
            True,
            {"state": "completed", "completionReason": "duration_expired", "reason": "terminated"},
        ),
        (None, {STOPPED, CANCELED}, False, {"state": "canceled"}),
    ],
)
def test_the_terminal_of_every_ending(
    fault: BaseException | None, reasons: set[EndReason], is_pipe: bool, expected: dict[str, Any]
) -> None:
    assert terminal_fields(fault, frozenset(reasons), is_pipe=is_pipe) == expected


def test_a_task_that_its_instance_gave_up_says_so() -> None:
    fields = terminal_fields(None, frozenset({STOPPED}), is_pipe=False)
    assert (fields["state"], fields["reason"]) == ("failed", "instance_lost")
    assert "stopped" in fields["error"]
