"""A task's life: which state follows from what happened, and what a control method does in each state.

    submitted -> queued? -> assigned -> running <-> paused -> completed | failed | canceled
                    ^           |          |
                    '-----------'----------'  taken back before it started, or run again as its policy says

Pure tables. A task ends once: in an ended state nothing happens any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = [
    "ENDED",
    "LIVING",
    "ON_AN_INSTANCE",
    "STATES",
    "WAITING",
    "Effect",
    "Happening",
    "Rule",
    "State",
    "after",
    "rule_for",
    "shown_state",
    "states_shown_as",
]

State = Literal["submitted", "queued", "assigned", "running", "paused", "completed", "failed", "canceled"]
STATES: tuple[State, ...] = ("submitted", "queued", "assigned", "running", "paused", "completed", "failed", "canceled")
WAITING: frozenset[str] = frozenset({"submitted", "queued"})
ON_AN_INSTANCE: frozenset[str] = frozenset({"assigned", "running", "paused"})
ENDED: frozenset[str] = frozenset({"completed", "failed", "canceled"})
LIVING: frozenset[str] = WAITING | ON_AN_INSTANCE


class Happening(Enum):
    """What can happen to a task."""

    QUEUED = "queued"
    """No instance is free for it."""
    ASSIGNED = "assigned"
    """It was given to an instance."""
    STARTED = "started"
    """An instance showed that it runs it."""
    PAUSED = "paused"
    RESUMED = "resumed"
    TAKEN_BACK = "taken back"
    """Its instance refused it or is gone; whether it may run again was decided before."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


_ENDS: dict[Happening, State] = {
    Happening.COMPLETED: "completed",
    Happening.FAILED: "failed",
    Happening.CANCELED: "canceled",
}
_TABLE: dict[State, dict[Happening, State]] = {
    "submitted": {Happening.QUEUED: "queued", Happening.ASSIGNED: "assigned", **_ENDS},
    # an instance that was thought lost may show that it has the task after all
    "queued": {Happening.ASSIGNED: "assigned", Happening.STARTED: "running", **_ENDS},
    "assigned": {
        Happening.STARTED: "running",
        Happening.PAUSED: "paused",
        Happening.TAKEN_BACK: "queued",
        **_ENDS,
    },
    "running": {Happening.PAUSED: "paused", Happening.TAKEN_BACK: "queued", **_ENDS},
    "paused": {Happening.RESUMED: "running", Happening.TAKEN_BACK: "queued", **_ENDS},
    "completed": {},
    "failed": {},
    "canceled": {},
}


def after(state: str, happening: Happening) -> State | None:
    """The state that follows; None when this changes nothing for a task in `state`."""
    return _TABLE[state].get(happening)  # type: ignore[index]  # stored states are those of the table


class Effect(Enum):
    """What the network does about a control method."""

    END = "end"
    """The network ends the task itself: nobody runs it."""
    ASK_TO_END = "ask to end"
    """The instance is told; the network ends the task if nothing comes in the grace."""
    ASK = "ask"
    """The instance is told, and answers with an event or not at all."""
    HURRY = "hurry"
    """A pause before the next attempt is cut short."""
    NOTHING = "nothing"
    """It is so already."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Rule:
    """`code` and `text` say why, for REFUSE."""

    effect: Effect
    code: str = ""
    text: str = ""


_END, _ASK_TO_END, _ASK = Rule(Effect.END), Rule(Effect.ASK_TO_END), Rule(Effect.ASK)
_HURRY, _NOTHING = Rule(Effect.HURRY), Rule(Effect.NOTHING)
_NOT_RUNNING = Rule(Effect.REFUSE, "TaskNotRunning", "the task waits for an instance and does not run yet")
_OVER = Rule(Effect.REFUSE, "TaskEnded", "the task has ended")
_OVER_RETRY = Rule(Effect.REFUSE, "TaskEnded", "the task has ended, and a task ends once; send a new one")


def _row(waiting: Rule, assigned: Rule, running: Rule, paused: Rule, ended: Rule) -> dict[str, Rule]:
    rules = {"submitted": waiting, "queued": waiting, "assigned": assigned, "running": running, "paused": paused}
    return {**rules, **dict.fromkeys(ENDED, ended)}


# the control channel keeps order: what is asked of an assigned task arrives after its StartTask
_RULES: dict[str, dict[str, Rule]] = {
    "CancelTask": _row(_END, _ASK_TO_END, _ASK_TO_END, _ASK_TO_END, _NOTHING),
    "TerminateTask": _row(_END, _ASK_TO_END, _ASK_TO_END, _ASK_TO_END, _NOTHING),
    "PauseTask": _row(_NOT_RUNNING, _ASK, _ASK, _NOTHING, _OVER),
    "ResumeTask": _row(_NOT_RUNNING, _ASK, _ASK, _ASK, _OVER),
    "RetryTask": _row(_HURRY, _NOTHING, _ASK, _ASK, _OVER_RETRY),
}


def rule_for(method: str, state: str) -> Rule:
    """What `method` (CancelTask, PauseTask, ResumeTask, RetryTask, TerminateTask) does to a task in `state`."""
    return _RULES[method][state]


def shown_state(state: str) -> str:
    """The state as callers see it: `assigned` is the network's own matter."""
    return "submitted" if state == "assigned" else state


def states_shown_as(shown: str) -> tuple[str, ...]:
    """The states that callers know under this name."""
    return ("submitted", "assigned") if shown == "submitted" else (shown,)
