"""`blocks-network send AGENT TEXT`: gives an agent a task; with --wait, to its end and with its artifacts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.output import ExitCode, note, result, result_json
from blocks_network.errors import ConfigurationError

__all__ = ["add"]


def add(commands: Any) -> None:
    send = commands.add_parser(
        "send",
        help="send a task to an agent",
        description="Send a task to an agent and print its id; with --wait, its result.",
    )
    send.add_argument("agent", metavar="AGENT")
    send.add_argument("text", nargs="?", metavar="TEXT | @FILE | -", help="the request; - reads standard input")
    send.add_argument("--file", type=Path, action="append", default=[], metavar="PATH", help="a file part; repeatable")
    send.add_argument("--idempotency-key", metavar="KEY", help="the same key again gives the same task")
    send.add_argument("--webhook", metavar="URL", help="where the network posts the task's end, signed")
    send.add_argument("--webhook-secret", metavar="SECRET", help="whsec_...; the network makes one when left out")
    send.add_argument("--wait", action="store_true", help="follow the task to its end and print its artifacts")
    send.add_argument("--out", type=Path, metavar="DIR", help="with --wait: save the artifacts here")
    send.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="with --wait: ask the task to end after this time"
    )
    add_options(send)
    send.set_defaults(run=_send)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds"  # argparse says "invalid {name} value"


@dataclass(frozen=True, slots=True)
class _Agent:
    """Whom the task is for."""

    agent_name: str
    billing_mode: Literal["free", "paid"]


def _send(options: argparse.Namespace) -> ExitCode:
    if options.text is None and not options.file:
        raise ConfigurationError("there is nothing to send", hint="give a TEXT, @FILE or -, or --file PATH")
    if not options.wait and (options.out is not None or options.timeout is not None):
        raise ConfigurationError("--out and --timeout are about the result", hint="add --wait")
    if options.wait and options.webhook:
        raise ConfigurationError("--wait follows the task itself", hint="leave out --webhook")
    if options.webhook_secret and not options.webhook:
        raise ConfigurationError("--webhook-secret needs --webhook URL")
    from blocks_network.cli.task import Request, run_task

    request, reach = Request.read(options.text, options.file), Reach.of(options)
    agent = _find(options.agent, reach)
    if options.wait:
        hint = "the log of the agent that did it says where its handler raised it"
        return run_task(
            agent,
            request,
            reach.cdm_url,
            reach.api_key,
            options,
            where_faults_are=hint,
            idempotency_key=options.idempotency_key,
        )
    config = None
    if options.webhook:
        secret = {"secret": options.webhook_secret} if options.webhook_secret else {}
        config = {"url": options.webhook, **secret}
    with reach.client(agent.billing_mode) as client:
        session = client.send_message(
            agent_name=agent.agent_name,
            request_parts=request.parts,
            idempotency_key=options.idempotency_key,
            push_notification_config=config,
            auto_drain=False,
        )
        told = {"taskId": session.task_id, "queued": session.queued, "idempotent": session.idempotent}
        session.close()
    if options.json:
        result_json({**told, **({"pushConfigId": session.push_config_id} if session.push_config_id else {})})
        return ExitCode.OK
    result(session.task_id)
    note(f"follow it with: blocks-network logs -f {session.task_id}")
    return ExitCode.OK


def _find(agent_name: str, reach: Reach) -> _Agent:
    """The agent, and how it bills: that is never guessed."""
    from blocks_network.api.registry import read_agent

    entry = read_agent(reach.caller(), agent_name, api_key=reach.api_key)
    if entry is None:
        raise ConfigurationError(f"there is no agent {agent_name}", hint="`blocks-network agents` lists them")
    if entry.billing_mode == "paid":
        return _Agent(entry.agent_name, "paid")
    return _Agent(entry.agent_name, "free")
