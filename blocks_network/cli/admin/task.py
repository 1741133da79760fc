"""`blocks-network task ID`: all that the network knows of one task."""

from __future__ import annotations

import argparse
import json
from typing import Any

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.admin.tasks import described
from blocks_network.cli.output import ExitCode, result, result_json

__all__ = ["add"]


def add(commands: Any) -> None:
    task = commands.add_parser("task", help="show a task", description="Show what the network knows of a task.")
    task.add_argument("task_id", metavar="ID")
    add_options(task)
    task.set_defaults(run=_task)


def _task(options: argparse.Namespace) -> ExitCode:
    with Reach.of(options).client() as client:
        told = described(client.get_task(options.task_id))
    if options.json:
        result_json(told)
        return ExitCode.OK
    width = max(map(len, told))
    for key, value in told.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        result(f"{key.ljust(width)}  {text}")
    return ExitCode.OK
