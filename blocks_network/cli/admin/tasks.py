"""`blocks-network tasks`: what was sent, newest first."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from blocks_network.cli.admin.reach import Reach, add_options, count
from blocks_network.cli.admin.table import show_table
from blocks_network.cli.output import ExitCode, result_json
from blocks_network.wire.rpc import TASK_STATES

if TYPE_CHECKING:
    from blocks_network.api.tasks import TaskInfo

__all__ = ["add", "described"]

PAGE = 100


def add(commands: Any) -> None:
    tasks = commands.add_parser(
        "tasks",
        help="list tasks",
        description="List the tasks that the key's organisation has sent, and those that its agents got.",
    )
    tasks.add_argument("--agent", metavar="NAME", help="only tasks of this agent")
    tasks.add_argument("--state", choices=sorted(TASK_STATES), help="only tasks in this state")
    tasks.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many (default: %(default)s)")
    add_options(tasks)
    tasks.set_defaults(run=_tasks)


def _tasks(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.tasks import ListTasksParams

    found: list[TaskInfo] = []
    cursor: str | None = None
    with Reach.of(options).client() as client:
        while len(found) < options.limit:
            left = min(PAGE, options.limit - len(found))
            page = client.list_tasks(
                ListTasksParams(agent_name=options.agent, state=options.state, limit=left, cursor=cursor)
            )
            found += page.tasks
            cursor = page.next
            if not cursor or not page.tasks:
                break
    if options.json:
        for info in found:
            result_json(described(info))
        return ExitCode.OK
    rows = [
        (info.task_id, info.agent_name, info.state, info.created_time, info.extra.get("error") or "") for info in found
    ]
    show_table(("TASK", "AGENT", "STATE", "CREATED", "ERROR"), rows, none="no tasks")
    return ExitCode.OK


def described(info: TaskInfo) -> dict[str, Any]:
    """A task as the network told of it."""
    told = {
        "taskId": info.task_id,
        "agentName": info.agent_name,
        "owner": info.owner,
        "state": info.state,
        "createdTime": info.created_time,
        "updatedTime": info.updated_time,
    }
    return {**{key: value for key, value in told.items() if value}, **info.extra}
