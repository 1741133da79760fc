"""`blocks-network logs ID`: a task's events, from its first; with -f, up to its end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.output import ExitCode, note, result, result_json
from blocks_network.errors import ApiError
from blocks_network.wire.instants import instant_text
from blocks_network.wire.timetokens import to_unix_s

if TYPE_CHECKING:
    from blocks_network.consumer.client import TaskClient
    from blocks_network.consumer.session import TaskSession
    from blocks_network.wire.events import TaskEvent

__all__ = ["add"]


def add(commands: Any) -> None:
    logs = commands.add_parser("logs", help="show a task's events", description="Show a task's events, oldest first.")
    logs.add_argument("task_id", metavar="ID")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the task has ended")
    add_options(logs)
    logs.set_defaults(run=_logs)


def _logs(options: argparse.Namespace) -> ExitCode:
    with Reach.of(options).client() as client, _session(client, options.task_id) as session:
        if options.follow:
            for event in session:
                _show(event, options.json)
            return ExitCode.OK
        known: list[TaskEvent] = []
        session.on_event(known.append)  # what has happened is told before this returns
        for event in tuple(known):  # a living task may add to it meanwhile
            _show(event, options.json)
        if not known:
            note(f"nothing has happened to task {options.task_id} yet; -f waits for it")
    return ExitCode.OK


def _session(client: TaskClient, task_id: str) -> TaskSession:
    """As its sender, else as the owner of the agent that does it."""
    try:
        return client.connect(task_id, auto_drain=False)
    except ApiError as fault:
        if fault.status not in (403, 404):
            raise
        return client.connect(task_id, auto_drain=False, role="provider")


def _show(event: TaskEvent, as_json: bool) -> None:
    if as_json:
        result_json(event.raw)
        return
    text = "".join(letter if letter.isprintable() else " " for letter in _text(event))
    result(f"{_instant(event)}  {event.type:<16}  {text}".rstrip())


def _text(event: TaskEvent) -> str:
    if event.type == "progress":
        return str(event.message if event.message is not None else event.state or "")
    if event.type == "artifact" and event.artifact_ref is not None:
        ref = event.artifact_ref
        return f"{ref.file_name or event.get('outputId') or ''} {ref.mime_type}, {ref.size} bytes".strip()
    if event.type == "terminal":
        why = event.get("error") or event.get("reason") or event.get("completionReason")
        return f"{event.state}: {why}" if why else str(event.state)
    return str(event.get("status") or event.get("streamEvent") or "")


def _instant(event: TaskEvent) -> str:
    """When the network took the event."""
    return "-" if event.timetoken is None else instant_text(to_unix_s(event.timetoken) * 1000)
