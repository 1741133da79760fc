"""What the commands say, and where: results on standard output, everything else on standard error.

Exit codes are the same for every command. A mistake of the user is told in one line, with the next step and without a
traceback.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from enum import IntEnum
from typing import Any, TextIO

from blocks_network.errors import (
    AgentAuthFatalError,
    ApiError,
    BlocksError,
    ConfigurationError,
    RpcError,
    TransportError,
)
from blocks_network.logs import ACCESS, HANDLER_FAULTS, ROOT, redact

__all__ = [
    "ExitCode",
    "LOG_LEVELS",
    "configure_access_log",
    "configure_logging",
    "error",
    "exit_code_for",
    "note",
    "paint",
    "report",
    "result",
    "result_json",
]


class ExitCode(IntEnum):
    """What a command ended with."""

    OK = 0
    FAILED = 1
    """The task, or the command's own work, failed."""
    USAGE = 2
    """An argument, a setting or a file is wrong; nothing was sent."""
    NETWORK = 3
    """The network was not reached, or refused."""
    TIMEOUT = 124
    INTERRUPTED = 130


LOG_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def result(text: str) -> None:
    """One result on standard output, at once, so that a program that reads a pipe sees it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def result_json(value: Any) -> None:
    """One result as one line of JSON."""
    result(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(text: str) -> None:
    """Something for the person at the terminal, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in colour when `stream` is a terminal, else as it is."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if stream.isatty() else text


def report(fault: BaseException, *, debug: bool = False) -> ExitCode:
    """Tells a fault on standard error: what happened, then the next step. Returns the command's exit code.

    A traceback appears with `debug`, and for what is not an error of ours: that is a defect, and worth one.
    """
    if debug or not isinstance(fault, (BlocksError, KeyboardInterrupt)):
        lines = traceback.format_exception(type(fault), fault, fault.__traceback__)
        note(redact("".join(lines).rstrip()))
    message = fault.message if isinstance(fault, BlocksError) else str(fault) or type(fault).__name__
    error(message, fault.hint if isinstance(fault, BlocksError) else None)
    return exit_code_for(fault)


def error(message: str, hint: str | None = None) -> None:
    """What went wrong, then the next step, each in a line on standard error."""
    note(f"{paint('error:', 'red', sys.stderr)} {redact(message)}")
    if hint:
        note(f"{paint('hint:', 'dim', sys.stderr)}  {redact(hint)}")


def exit_code_for(fault: BaseException) -> ExitCode:
    """Which code a fault ends a command with."""
    if isinstance(fault, ConfigurationError):
        return ExitCode.USAGE
    if isinstance(fault, (TransportError, ApiError, RpcError, AgentAuthFatalError)):
        return ExitCode.NETWORK
    if isinstance(fault, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED


class _Redacting(logging.Formatter):
    """Without secrets, and with the name of the event where a line has one (`logs.said_of`)."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        return redact(super().format(record)) + (f" event={event}" if event else "")


def configure_logging(level: str, *, handler_faults: bool = True) -> None:
    """Our loggers at `level` (none, error, warn, info, debug), everybody else's from warning on, to standard error.

    Without `handler_faults`, what a handler raised is left to whoever tells how its task ended.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(ROOT).setLevel(LOG_LEVELS.get(level, logging.CRITICAL))
    logging.getLogger(HANDLER_FAULTS).disabled = not handler_faults


def configure_access_log() -> None:
    """The access log's lines as they are, on standard error, whatever the level of the other logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(message)s"))
    log = logging.getLogger(ACCESS)
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
