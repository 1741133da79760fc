"""`blocks-network agents`: the agents of a network, and new ones; `agents offline|online NAME` for its operator."""

from __future__ import annotations

import argparse
from typing import Any

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.admin.table import show_table
from blocks_network.cli.output import ExitCode, result, result_json
from blocks_network.errors import ConfigurationError

__all__ = ["add"]

ACTIONS = ("list", "register", "offline", "online")


def add(commands: Any) -> None:
    agents = commands.add_parser(
        "agents",
        help="list agents; register one, take one offline, let it back",
        description="List the agents that the key's owner may see. `register [agent-card.json | path.py:function]` "
        "makes an agent known, or its changed card. `offline NAME` shuts an agent out, `online NAME` "
        "lets it back: no instance of it connects, and no task for it is taken (the network's operator only).",
    )
    agents.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="register|offline|online")
    agents.add_argument("name", nargs="?", metavar="NAME", help="with register: its card, or its function")
    agents.add_argument("--tag", help="only agents with this tag")
    agents.add_argument("--listing", choices=("public", "private"), help="only these; with register: who may see it")
    add_options(agents)
    agents.set_defaults(run=_agents)


def _agents(options: argparse.Namespace) -> ExitCode:
    if options.action == "list":
        return _list(options)
    if options.action == "register":
        return _register(options)
    if not options.name:
        raise ConfigurationError(
            f"which agent is to go {options.action}?", hint=f"blocks-network agents {options.action} NAME"
        )
    from blocks_network.api.admin import set_agent_offline

    reach, offline = Reach.of(options), options.action == "offline"
    set_agent_offline(reach.caller(), reach.api_key, options.name, offline)
    if options.json:
        result_json({"agentName": options.name, "offline": offline})
    else:
        result(f"{options.name} is {'offline' if offline else 'back'}")
    return ExitCode.OK


def _register(options: argparse.Namespace) -> ExitCode:
    from blocks_network.agent.loading import CARD_FILE
    from blocks_network.cli.registering import register_from

    reach = Reach.of(options)
    entry = register_from(options.name or CARD_FILE, reach.caller(), reach.api_key, options.listing)
    if options.json:
        result_json({"agentName": entry.agent_name, "listing": entry.listing, "billingMode": entry.billing_mode})
    else:
        result(f"{entry.agent_name} is registered ({entry.listing})")
    return ExitCode.OK


def _list(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.registry import list_agents

    reach = Reach.of(options)
    caller, found, cursor = reach.caller(), [], None
    while True:
        page = list_agents(caller, api_key=reach.api_key, tag=options.tag, listing=options.listing, cursor=cursor)
        found += page.agents
        cursor = page.next
        if not cursor or not page.agents:
            break
    if options.json:
        for entry in found:
            told = {
                "agentName": entry.agent_name,
                "name": entry.name,
                "description": entry.description,
                "listing": entry.listing,
                "billingMode": entry.billing_mode,
                "offline": entry.offline,
                "tags": entry.tags,
                "registeredAt": entry.created_at,
            }
            result_json(told)
        return ExitCode.OK
    rows = [
        (e.agent_name, e.listing, e.billing_mode, "offline" if e.offline else None, e.created_at, e.description)
        for e in found
    ]
    show_table(("AGENT", "LISTING", "BILLING", "FORCED", "REGISTERED", "DESCRIPTION"), rows, none="no agents")
    return ExitCode.OK
