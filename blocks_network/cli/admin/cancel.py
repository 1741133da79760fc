"""`blocks-network cancel ID`: asks a task to end."""

from __future__ import annotations

import argparse
from typing import Any

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.output import ExitCode, result, result_json

__all__ = ["add"]


def add(commands: Any) -> None:
    cancel = commands.add_parser(
        "cancel",
        help="ask a task to end",
        description="Ask a task to end. Its handler is told; if it does not end in its grace, the network ends the "
        "task. `logs -f ID` shows the end.",
    )
    cancel.add_argument("task_id", metavar="ID")
    add_options(cancel)
    cancel.set_defaults(run=_cancel)


def _cancel(options: argparse.Namespace) -> ExitCode:
    from blocks_network.wire.events import TERMINAL_STATES

    with Reach.of(options).client() as client:
        before = client.get_task(options.task_id).state
        client.cancel_task(options.task_id)
        state = client.get_task(options.task_id).state
    if options.json:
        result_json({"taskId": options.task_id, "state": state})
    elif before in TERMINAL_STATES:
        result(f"{options.task_id} had ended: {before}")
    else:
        result(f"{options.task_id} was asked to end (state now: {state})")
    return ExitCode.OK
