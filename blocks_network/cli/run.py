"""blocks-run: runs a handler as an agent, on a network or on one of its own, and can send it a task."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from blocks_network import settings
from blocks_network.cli.output import LOG_LEVELS, ExitCode, configure_logging, report
from blocks_network.errors import BlocksError
from blocks_network.wire.versions import SDK_VERSION

__all__ = ["main"]

EPILOG = """\
examples:
  blocks-run --handler echo --local                      an agent, with a network of its own
  blocks-run --handler echo --local --task "Hello"       sends it one task, prints the answer, ends
  blocks-run --handler app.py:summarize --local --task @page.txt
  blocks-run                                             the agent of ./agent-card.json, with BLOCKS_API_KEY

exit codes: 0 done, 1 failed, 2 wrong use, 3 no network, 124 out of time, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    fault = _usage_fault(options)
    if fault is not None:
        parser.error(fault)
    _load_env()
    options.sends = options.task is not None or bool(options.file)
    # with a task, its events and how it ends are what the person wants to see, and they are told without a log
    level = options.log_level or ("none" if options.sends else settings.LOG_LEVEL.read())
    configure_logging(level, handler_faults=not options.sends or level == "debug")
    try:
        from blocks_network.cli import agent  # loads the SDK, which neither --help nor a typing error needs

        return int(agent.run(options))
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BlocksError as error:
        return int(report(error, debug=level == "debug"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blocks-run",
        description="Runs a Python function as an agent.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"blocks-run {SDK_VERSION}")
    add(
        "--handler",
        metavar="NAME | module:function | path.py:function",
        help="what to run; without it, the agent-card.json of the working directory, else echo",
    )
    add("--registry", type=Path, metavar="PATH", help="a handler registry file (default: the package's own)")
    add("--local", action="store_true", help="start a network of its own; needs no account and no key")
    add("--task", metavar="TEXT | @FILE | -", help="send one task, print its result and end")
    add("--file", type=Path, action="append", default=[], metavar="PATH", help="a file part of the task; repeatable")
    add("--out", type=Path, metavar="DIR", help="save the task's artifacts here instead of printing them")
    add("--json", action="store_true", help="one JSON object a line: the task's events, then its result")
    add("--timeout", type=_seconds, metavar="SECONDS", help="ask the task to end after this time (default: no limit)")
    add("--concurrency", type=_count, metavar="N", help="tasks at one time, 0 is no limit (default: the handler's own)")
    add("--reload", action="store_true", help="take up changed handler files; tasks that run end with the old code")
    add("--log-level", choices=list(LOG_LEVELS), help="what to log (default: LOG_LEVEL, or info; nothing with a task)")
    return parser


def _usage_fault(options: argparse.Namespace) -> str | None:
    if options.task is not None or options.file:
        return "--reload is about an agent that goes on: leave out --task and --file" if options.reload else None
    for name in ("out", "timeout", "json"):
        if getattr(options, name):
            return f"--{name} is about a task: add --task or --file"
    return None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_seconds.__name__, _count.__name__ = "number of seconds", "number"  # argparse says "invalid {name} value"


def _load_env() -> None:
    """`.env` of the working directory; what is set already wins."""
    from dotenv import load_dotenv

    load_dotenv(Path(os.getcwd()) / ".env")


if __name__ == "__main__":
    sys.exit(main())
