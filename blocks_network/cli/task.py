"""One task from the command line: its parts, its events as they come, its artifacts, its exit code."""

from __future__ import annotations

import argparse
import base64
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from blocks_network.cli.output import ExitCode, error, note, paint, result_json
from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.delivery import CallbackErrorContext
from blocks_network.consumer.parts import file_part, text_part
from blocks_network.consumer.session import TaskSession
from blocks_network.errors import BlocksError, ConfigurationError, SessionClosedError, TransportError
from blocks_network.wire.events import TaskEvent

__all__ = ["Request", "run_task"]

log = logging.getLogger(__name__)

OUTAGE_S = 10.0
CANCEL_S = 5.0


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
            if path.is_dir():
                raise ConfigurationError(f"--file {path} is a folder", hint="give each file a --file of its own")
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


class Addressee(Protocol):
    """Whom a task is for: an instance that runs here, or an agent elsewhere."""

    @property
    def agent_name(self) -> str: ...

    @property
    def billing_mode(self) -> Literal["free", "paid"]: ...


def run_task(
    instance: Addressee,
    request: Request,
    cdm_url: str | None,
    api_key: str | None,
    options: argparse.Namespace,
    *,
    where_faults_are: str,
    idempotency_key: str | None = None,
) -> ExitCode:
    """Sends the task to the instance's agent and sees it to its end. A task that failed gets `where_faults_are` as its
    hint, "" is none. The task that an idempotency key has already is shown from its beginning."""
    from blocks_network import settings

    _prepare(options.out)
    with TaskClient.create(
        instance.billing_mode, cdm_url=cdm_url, api_key=api_key or settings.API_KEY.read()
    ) as client:
        session = client.send_message(
            agent_name=instance.agent_name, request_parts=request.parts, idempotency_key=idempotency_key
        )
        if session.idempotent:
            session.close()
            note(f"the key has task {session.task_id} already")
            session = client.connect(session.task_id)
        outage = Outage(client, session)
        session.on_event(lambda event: _show(event, options.json))
        session.on_error(outage.noticed)
        try:
            ended = session.wait_for_terminal(timeout=options.timeout)
        except TimeoutError:
            error(f"task {session.task_id} was not done within {options.timeout:g} s")
            _cancel(session)
            return ExitCode.TIMEOUT
        except KeyboardInterrupt:
            note(f"interrupted; task {session.task_id} is asked to end")
            _cancel(session)
            return ExitCode.INTERRUPTED
        except SessionClosedError as closed:
            raise outage.fault or closed from None
        _give_out(session, ended, options)
        session.close()
    if ended.state == "completed":
        return ExitCode.OK
    why = ended.get("error") or ended.get("reason") or ended.get("completionReason") or "no reason given"
    error(f"task {session.task_id} {ended.state}: {why}", where_faults_are if ended.state == "failed" else None)
    return ExitCode.FAILED


class Outage:
    """Ends the wait for a task whose network has died: a person at a terminal is told, a service would go on trying."""

    def __init__(self, client: TaskClient, session: TaskSession) -> None:
        self._client, self._session = client, session
        self.fault: TransportError | None = None
        self._watching = threading.Lock()

    def noticed(self, fault: Exception, context: CallbackErrorContext) -> None:
        """The session's events do not arrive for now; what else it reports is logged."""
        if context.callback_type != "subscription":
            log.error("%s of task %s: %s", context.callback_type, self._session.task_id, fault)
        elif self._watching.acquire(blocking=False):
            threading.Thread(target=self._watch, name="blocks-outage", daemon=True).start()

    def _watch(self) -> None:
        note(f"the network is lost; waiting up to {OUTAGE_S:g} s for it to come back")
        deadline = time.monotonic() + OUTAGE_S
        ended = threading.Event()
        pause_s = 0.5
        while True:
            try:
                self._client.get_task(self._session.task_id)
                note("the network is back")
                self._watching.release()
                return
            except BlocksError as fault:
                cause = fault.__cause__ or fault
                if not isinstance(cause, TransportError):  # it answers, so it is there
                    log.debug("the network refuses to tell of the task: %s", fault)
                    self._watching.release()
                    return
                if time.monotonic() + pause_s > deadline:
                    self.fault = TransportError(
                        f"the network was lost while task {self._session.task_id} ran: {cause.args[0]}",
                        hint="it may still know the task when it is back",
                    )
                    self._session.close()
                    return
            ended.wait(pause_s)


def _prepare(out: Path | None) -> None:
    """The directory of --out, before a task runs whose artifacts it could not take."""
    if out is None:
        return
    try:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a directory")
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK | os.X_OK)
    except OSError as fault:
        raise ConfigurationError(
            f"--out {out} cannot be used: {fault.strerror or fault}", hint="name a directory that this user may write"
        ) from fault
    if not writable:
        raise ConfigurationError(f"--out {out} may not be written by this user", hint="name another directory")


def _cancel(session: TaskSession) -> None:
    """Asks for the end, and gives the handler a moment to come to it."""
    try:
        session.cancel()
        session.wait_for_terminal(timeout=CANCEL_S)
    except TimeoutError:
        note(f"task {session.task_id} has not ended yet; its handler does not look at cancel_event")
    except KeyboardInterrupt:
        note("not waiting for it")
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
