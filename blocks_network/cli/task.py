"""One task from the command line: its parts, its events as they come, its artifacts, its exit code."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks_network.agent.handle import AgentHandle
from blocks_network.cli.output import ExitCode, note, paint, result_json
from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.parts import file_part, text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError, ConfigurationError
from blocks_network.wire.events import TaskEvent

__all__ = ["Request", "run_task"]


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of a task."""

    parts: list[Any]

    @classmethod
    def read(cls, task: str | None, files: Sequence[Path]) -> Request:
        """`task` is a text, @FILE or - (standard input). ConfigurationError when something cannot be read."""
        parts: list[Any] = []
        if task is not None:
            parts.append(text_part(_text(task)))
        for index, path in enumerate(files):
            part_id = "file" if index == 0 else f"file{index + 1}"
            if not path.is_file():
                raise ConfigurationError(f"--file {path}: there is no such file", hint="check the path")
            try:
                parts.append(file_part(path, part_id=part_id))
            except OSError as fault:
                raise ConfigurationError(f"--file {path} cannot be read: {fault.strerror}") from fault
        return cls(parts)


def _text(task: str) -> str:
    if task == "-":
        return sys.stdin.read()
    if not task.startswith("@"):
        return task
    try:
        return Path(task[1:]).read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        raise ConfigurationError(
            f"--task {task}: there is no file {task[1:]}", hint="@ reads a file; check its path"
        ) from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigurationError(f"--task {task} cannot be read as UTF-8 text: {fault}") from fault


def run_task(
    instance: AgentHandle, request: Request, cdm_url: str | None, api_key: str | None, options: argparse.Namespace
) -> ExitCode:
    """Sends the task to the instance's agent and sees it to its end."""
    from blocks_network import settings

    with TaskClient.create(
        instance.billing_mode, cdm_url=cdm_url, api_key=api_key or settings.API_KEY.read()
    ) as client:
        session = client.send_message(agent_name=instance.agent_name, request_parts=request.parts)
        session.on_event(lambda event: _show(event, options.json))
        try:
            ended = session.wait_for_terminal(timeout=options.timeout)
        except TimeoutError:
            _cancel(session)
            late = f"task {session.task_id} was not done within {options.timeout:g} s"
            note(f"{paint('error:', 'red', sys.stderr)} {late}")
            return ExitCode.TIMEOUT
        except KeyboardInterrupt:
            _cancel(session)
            note(f"interrupted; task {session.task_id} was asked to end")
            return ExitCode.INTERRUPTED
        _give_out(session, ended, options)
        session.close()
    if ended.state == "completed":
        return ExitCode.OK
    why = ended.get("error") or ended.get("reason") or ended.get("completionReason") or "no reason given"
    note(f"{paint('error:', 'red', sys.stderr)} task {session.task_id} {ended.state}: {why}")
    return ExitCode.FAILED


def _cancel(session: TaskSession) -> None:
    try:
        session.cancel()
    except BlocksError as fault:
        note(f"the task could not be cancelled: {fault}")


def _show(event: TaskEvent, as_json: bool) -> None:
    if as_json:
        result_json(event.raw)
        return
    if event.type == "progress":
        text = event.message if event.message is not None else event.state or ""
    elif event.type == "artifact" and event.artifact_ref is not None:
        ref = event.artifact_ref
        text = f"{ref.file_name or event.get('outputId') or ''} {ref.mime_type}, {ref.size} bytes".strip()
    elif event.type == "terminal":
        text = event.state or ""
    else:
        text = str(event.get("status") or event.get("streamEvent") or "")
    note(f"{paint(f'{event.type:<9}', 'dim', sys.stderr)} {text}".rstrip())


def _give_out(session: TaskSession, ended: TaskEvent, options: argparse.Namespace) -> None:
    """Artifacts to --out, into the JSON result, or onto standard output."""
    saved: list[str] = []
    if options.out is not None:
        try:
            saved = session.save_artifacts(options.out)
        except OSError as fault:
            raise ConfigurationError(f"--out {options.out} cannot be written: {fault.strerror or fault}") from fault
        for path in saved:
            note(f"saved {path}")
    if options.json:
        result_json(
            {
                "type": "result",
                "taskId": session.task_id,
                "state": ended.state,
                "artifacts": [_described(session, index, saved) for index in range(len(session.list_artifacts()))],
                **({"error": ended["error"]} if "error" in ended else {}),
            }
        )
    elif options.out is None:
        for ref in session.list_artifacts():
            _print_artifact(session.download_artifact(ref).data)


def _described(session: TaskSession, index: int, saved: list[str]) -> dict[str, Any]:
    ref = session.list_artifacts()[index]
    about: dict[str, Any] = {"fileName": ref.file_name, "mimeType": ref.mime_type, "size": ref.size}
    if saved:
        return {**about, "path": saved[index]}
    data = session.download_artifact(ref).data
    try:
        return {**about, "text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {**about, "data": base64.b64encode(data).decode("ascii")}


def _print_artifact(data: bytes) -> None:
    """Its bytes as they are; a text without an end of line gets one."""
    out = sys.stdout.buffer
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        if sys.stdout.isatty():
            raise ConfigurationError(
                f"the artifact is binary ({len(data)} bytes)", hint="save it with --out DIR, or redirect the output"
            ) from fault
        out.write(data)
    else:
        out.write(data)
        if not text.endswith("\n"):
            out.write(b"\n")
    out.flush()
