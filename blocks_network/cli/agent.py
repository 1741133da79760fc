"""What blocks-run does: a network if it is to be local, an instance on it, then one task or a life until Ctrl+C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from blocks_network import settings
from blocks_network.agent.handle import AgentHandle, StopReport
from blocks_network.agent.instance import start_agent_instance
from blocks_network.agent.loading import CARD_FILE, LoadedHandler, from_card, from_reference, from_registry
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.api.registry import register_agent
from blocks_network.cli.latch import Latch
from blocks_network.cli.output import ExitCode, note
from blocks_network.cli.registering import register_here
from blocks_network.cli.reload import Reloader, reloading_modules
from blocks_network.cli.task import Request, run_task
from blocks_network.errors import ConfigurationError, TransportError

__all__ = ["run"]

DEFAULT_HANDLER = "echo"
JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """The network to run on. No URL: as the environment says."""

    cdm_url: str | None = None
    api_key: str | None = None


def run(options: argparse.Namespace) -> ExitCode:
    """Loads first, so that a fault in the handler is told before anything starts."""
    if options.reload:
        reloading_modules()
    handler = _load(options)
    if handler.files and handler.files[0].name == CARD_FILE:
        note(f"[agent] using {CARD_FILE} from {handler.files[0].parent}")
    _check_env(handler)
    request = Request.read(options.task, options.file) if options.sends else None
    api_key = settings.API_KEY.read()
    if not options.local and not api_key:
        raise ConfigurationError(
            "BLOCKS_API_KEY is not set, so there is no network to run on",
            hint="add --local to start one here, or set BLOCKS_API_KEY (in the environment or in .env)",
        )
    os.environ.pop(settings.API_KEY.name, None)  # the handler's child processes have no business with it
    with _network(options.local, api_key) as target:
        if options.local:
            assert target.cdm_url is not None
            register_agent(target.cdm_url.rpartition("/")[0], str(target.api_key), handler.card)
        else:
            register_here(str(target.api_key), handler)
        if request is not None:
            return _one_task(handler, target, request, options)
        return _serve(handler, target, options)


def _load(options: argparse.Namespace) -> LoadedHandler:
    card = Path(os.getcwd()) / CARD_FILE
    if options.handler is None and options.registry is None and card.is_file():
        handler = from_card(card)
    elif options.handler is not None and ":" in options.handler:
        handler = from_reference(options.handler)
    else:
        handler = from_registry(options.handler or DEFAULT_HANDLER, options.registry)
    return handler


def _check_env(handler: LoadedHandler) -> None:
    missing = handler.missing_env()
    if missing:
        raise ConfigurationError(
            f"handler {handler.name!r} needs environment variables that are not set: {', '.join(missing)}",
            hint="set them in the environment or in .env",
        )


@contextmanager
def _network(local: bool, api_key: str | None) -> Iterator[Target]:
    if not local:
        yield Target(api_key=api_key)
        return
    from blocks_network.server.config import NodeConfig
    from blocks_network.server.node import Node

    with Node(NodeConfig()) as node:
        yield Target(node.cdm_url, node.api_key)


def _start(handler: LoadedHandler, target: Target, concurrency: int | None) -> AgentHandle:
    return start_agent_instance(
        AgentInstanceOptions(
            card=handler.card,
            agent_name=handler.agent_name,
            handler=handler.function,
            concurrency=handler.concurrency if concurrency is None else concurrency,
            expected_instances=handler.expected_instances,
            max_pending_backlog=handler.max_pending_backlog,
            max_running_time_sec=handler.max_running_time_sec,
            cdm_url=target.cdm_url,
            api_key=target.api_key,
        )
    )


def _one_task(handler: LoadedHandler, target: Target, request: Request, options: argparse.Namespace) -> ExitCode:
    """SIGTERM ends like Ctrl+C: the task is cancelled, and what was started here ends in its order."""
    with _signals_as_interrupt():
        instance = _start(handler, target, options.concurrency)
        try:
            told = options.log_level == "debug"
            hint = "" if told else "--log-level debug shows where the handler raised it"
            return run_task(instance, request, target.cdm_url, target.api_key, options, where_faults_are=hint)
        except TransportError:  # it was waited for long enough
            instance.stop(0, flush_s=0)
            raise
        finally:
            instance.stop(0)


def _serve(handler: LoadedHandler, target: Target, options: argparse.Namespace) -> ExitCode:
    """Runs until a signal, or until the network shuts the agent out."""
    reloader = Reloader(handler, lambda: _load(options)) if options.reload else None
    ended = Latch()
    with _signals_set(ended) as heard:
        note(f'[agent] starting handler "{handler.name}" on agent name "{handler.agent_name}"')
        instance = _start(handler, target, options.concurrency)
        instance.when_ended(ended.set)
        note(f"[agent] concurrency: {_slots(handler, options)}, expectedInstances: {handler.expected_instances or 1}")
        note(f"[agent] instance ID: {instance.instance_id}")
        if target.cdm_url is not None:
            note("[agent] clients find it with:")
            note(f"          export BLOCKS_CDM_URL={target.cdm_url}")
            note(f"          export BLOCKS_API_KEY={target.api_key}")
        note("[agent] running (press Ctrl+C to stop)")
        if reloader is not None:
            reloader.start(instance.replace_handler)
        ended.wait()
        if reloader is not None:
            reloader.stop()
            reloader.join(JOIN_S)
        if instance.running:
            note(f"\n[agent] received {' '.join(heard)}, shutting down; once more to end at once")
        report = instance.stop()
    _tell(report)
    if instance.fault is not None:
        raise instance.fault
    if report.abandoned:  # their threads would keep the interpreter alive
        sys.stderr.flush()
        os._exit(int(ExitCode.FAILED))
    return ExitCode.OK if report.clean else ExitCode.FAILED


def _slots(handler: LoadedHandler, options: argparse.Namespace) -> int:
    chosen = handler.concurrency if options.concurrency is None else options.concurrency
    return 1 if chosen is None else int(chosen)


def _tell(report: StopReport) -> None:
    for what, task_ids in (
        ("finished", report.finished),
        ("asked to end", report.cancelled),
        ("abandoned while still running", report.abandoned),
    ):
        if task_ids:
            note(f"[agent] {what}: {', '.join(task_ids)}")
    if report.undelivered:
        note(f"[agent] {report.undelivered} events could not be delivered")
    note("[agent] stopped")


@contextmanager
def _signals_set(ended: Latch) -> Iterator[list[str]]:
    """The first signal sets the latch, a second one ends the process at once. Gives the name of the first."""
    heard: list[str] = []

    def asked(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, _end_at_once)
        heard.append(signal.Signals(number).name)
        ended.set()

    with _handling(asked):
        yield heard


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    def asked(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, _end_at_once)
        raise KeyboardInterrupt

    with _handling(asked):
        yield


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(int(ExitCode.INTERRUPTED))


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
