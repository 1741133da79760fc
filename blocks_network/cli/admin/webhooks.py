"""`blocks-network webhooks [TASK]`: what the network told the receivers of one's tasks, or tries to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from blocks_network.cli.admin.reach import Reach, add_options, count
from blocks_network.cli.admin.table import show_table
from blocks_network.cli.output import ExitCode, result_json

__all__ = ["add"]

PAGE = 100


def add(commands: Any) -> None:
    webhooks = commands.add_parser(
        "webhooks", help="show the deliveries of webhooks", description="Show deliveries of webhooks, newest first."
    )
    webhooks.add_argument("task_id", nargs="?", metavar="TASK", help="only those of this task")
    webhooks.add_argument("--state", choices=("pending", "delivered", "failed"), help="only deliveries in this state")
    webhooks.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many (default: %(default)s)")
    add_options(webhooks)
    webhooks.set_defaults(run=_webhooks)


def _webhooks(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.webhooks import list_deliveries

    reach = Reach.of(options)
    caller, cursor = reach.caller(), None
    found: list[dict[str, Any]] = []
    while len(found) < options.limit:
        left = min(PAGE, options.limit - len(found))
        page = list_deliveries(
            caller, reach.api_key, task_id=options.task_id, state=options.state, limit=left, cursor=cursor
        )
        found += page.deliveries
        cursor = page.next
        if not cursor:
            break
    if options.json:
        for delivery in found:
            result_json(delivery)
        return ExitCode.OK
    rows = [
        (
            delivery.get("webhookId"),
            delivery.get("taskId"),
            delivery.get("event"),
            delivery.get("state"),
            len(delivery.get("attempts") or ()),
            _last(delivery),
            delivery.get("url"),
        )
        for delivery in found
    ]
    show_table(("WEBHOOK", "TASK", "EVENT", "STATE", "TRIES", "LAST", "URL"), rows, none="no deliveries")
    return ExitCode.OK


def _last(delivery: Mapping[str, Any]) -> object:
    """How the newest attempt went: an HTTP status, or why there is none."""
    attempts = delivery.get("attempts") or [{}]
    return attempts[-1].get("error") or attempts[-1].get("status")
