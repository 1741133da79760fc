"""`blocks-network`: runs a network (`dev`, the embedded one), or looks after one (the commands of `admin`)."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from blocks_network import settings
from blocks_network.cli.admin import agents, cancel, keys, logs, send, task, tasks, webhooks
from blocks_network.cli.latch import TURN_S
from blocks_network.cli.output import (
    LOG_LEVELS,
    ExitCode,
    configure_access_log,
    configure_logging,
    paint,
    report,
    result,
    result_json,
)
from blocks_network.errors import BlocksError, ConfigurationError
from blocks_network.server.config import DEFAULT_PORT, NodeConfig
from blocks_network.server.limits import Limits
from blocks_network.server.node import Node
from blocks_network.wire.versions import SDK_VERSION

__all__ = ["main"]

log = logging.getLogger(__name__)

OPEN_FILES = 65_536
"""As many as the system lets a process have, but not more than this."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns an exit code: 0 ended as asked, 1 failed, 2 usage, 3 network."""
    parser = _parser()
    options = parser.parse_args(arguments)
    level: str = options.log_level or ("warn" if options.quiet else settings.LOG_LEVEL.read())
    configure_logging(level)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BlocksError as fault:
        return int(report(fault, debug=level == "debug"))
    except BrokenPipeError:  # whoever read our output has gone; there is nobody to tell
        sys.stdout = None  # or the interpreter would flush it once more
        return int(ExitCode.FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blocks-network", description="Run a Blocks network, or look after one.")
    parser.add_argument("--version", action="version", version=f"blocks-network {SDK_VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    dev = commands.add_parser(
        "dev",
        help="run the embedded network on this machine",
        description="Run the embedded network on this machine until Ctrl+C. Without --data it lives in memory.",
    )
    dev.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)"
    )
    dev.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    dev.add_argument("--data", type=Path, metavar="DIR", help="keep agents, tasks and messages in this directory")
    dev.add_argument(
        "--database",
        metavar="URL",
        help="with --data: keep agents, keys and tasks in PostgreSQL (postgresql://USER@HOST/NAME; the password is "
        "better given by PGPASSWORD or ~/.pgpass)",
    )
    dev.add_argument("--api-key", metavar="KEY", help="an API key (bk_...) to accept; one is made when left out")
    dev.add_argument(
        "--allow-private-webhooks",
        action="store_true",
        help="call webhooks on this machine and in private networks too",
    )
    dev.add_argument("--json", action="store_true", help="print the addresses and keys as one JSON object")
    dev.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="set a bound of docs/limits.md, as publishes_per_s=100; may be repeated",
    )
    dev.add_argument(
        "--fsync", action="store_true", help="with --data: what is acknowledged survives a loss of power too; slower"
    )
    dev.add_argument(
        "--access-log", action="store_true", help="write a line of JSON for each request to standard error"
    )
    dev.add_argument("--log-level", choices=list(LOG_LEVELS), help="what to log (default: LOG_LEVEL, or info)")
    dev.set_defaults(run=_dev, quiet=False)
    for command in (send, agents, tasks, task, logs, cancel, webhooks, keys):
        command.add(commands)
    return parser


def _dev(options: argparse.Namespace) -> ExitCode:
    """Runs a node in this process until a signal, and then ends it in its order."""
    if options.fsync and not options.data:
        raise ConfigurationError(
            "--fsync is about what is kept on a disk, and without --data nothing is", hint="add --data DIR"
        )
    config = NodeConfig(
        host=options.host,
        port=options.port,
        data_dir=options.data,
        database=options.database,
        fsync=options.fsync,
        api_key=options.api_key,
        allow_private_webhooks=options.allow_private_webhooks,
        limits=Limits().changed(options.limit),
        access_log=options.access_log,
    )
    if config.access_log:
        configure_access_log()
    _take_open_files()
    node = Node(config)
    before = _end_on_signals(node)
    try:
        node.start()
        try:
            if options.json:
                result_json(describe(node))
            else:
                _greet(node, options.data)
            gc.freeze()  # what was made for the start stays, and need not be looked through again and again
            while not node.ended.wait(TURN_S):  # see there: a signal could be missed
                continue
        finally:
            gc.unfreeze()
            in_time = node.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if node.fault is not None:
        raise BlocksError(f"the network has failed: {node.fault}", hint="run it with --log-level debug to see more")
    return ExitCode.OK if in_time else ExitCode.FAILED


def describe(node: Node) -> dict[str, Any]:
    """All that a program needs to use a node: its addresses and keys. The secret keys let a client sign grants."""
    return {
        "cdmUrl": node.cdm_url,
        "baseUrl": node.base_url,
        "origin": node.origin,
        "apiKey": node.api_key,
        "keysets": {
            keyset.name: {
                "publishKey": keyset.publish_key,
                "subscribeKey": keyset.subscribe_key,
                "secretKey": keyset.secret_key,
            }
            for keyset in node.keysets
        },
    }


def _greet(node: Node, data: Path | None) -> None:
    where = f"kept in {data}" if data else "in memory; --data DIR keeps it"
    ready = paint("ready", "green", sys.stdout)
    result(f"Blocks network {ready} at {node.base_url} ({where}). Ctrl+C ends it.\n")
    result("Agents and clients find it with:")
    result(f"  export BLOCKS_CDM_URL={node.cdm_url}")
    result(f"  export BLOCKS_API_KEY={node.api_key}")


def _take_open_files() -> None:
    """Each connection is one, and many systems give a process 1,024 of them before it asks for more."""
    try:
        import resource
    except ImportError:  # Windows knows no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as fault:
            log.warning("no more than %d files can be open at a time: %s", soft, fault)


def _end_on_signals(node: Node) -> dict[signal.Signals, Any]:
    """The first Ctrl+C or SIGTERM asks the node to end, a second one ends the process at once."""

    def asked(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        node.end()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, asked)
    return before


if __name__ == "__main__":
    sys.exit(main())
