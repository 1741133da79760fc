"""`blocks-network keys create|list|revoke`: the API keys of one's organisation."""

from __future__ import annotations

import argparse
from typing import Any

from blocks_network.cli.admin.reach import Reach, add_options
from blocks_network.cli.admin.table import show_table
from blocks_network.cli.output import ExitCode, note, result, result_json

__all__ = ["add"]

SCOPES = ("provider", "consumer")


def add(commands: Any) -> None:
    keys = commands.add_parser("keys", help="make, list and revoke API keys", description="API keys.")
    actions = keys.add_subparsers(dest="action", required=True, metavar="create|list|revoke")

    create = actions.add_parser("create", help="make a key; it is shown once", description="Make an API key.")
    create.add_argument("--label", default="", metavar="TEXT", help="what it is for")
    create.add_argument(
        "--scope", choices=SCOPES, action="append", help="run agents, or send tasks; repeatable (default: both)"
    )
    create.add_argument("--org", metavar="ID", help="of another organisation (the network's operator only)")
    create.add_argument("--user", metavar="ID", help="of another user (the network's operator only)")
    add_options(create)
    create.set_defaults(run=_create)

    listing = actions.add_parser("list", help="show the keys, without their secrets", description="List API keys.")
    listing.add_argument("--all", action="store_true", help="also those that were revoked")
    add_options(listing)
    listing.set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="end a key at once", description="Revoke an API key.")
    revoke.add_argument("key_id", metavar="KEY_ID", help="as `keys list` shows it")
    add_options(revoke)
    revoke.set_defaults(run=_revoke)


def _create(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.keys import create_key

    reach = Reach.of(options)
    made = create_key(
        reach.caller(),
        reach.api_key,
        scopes=options.scope,
        label=options.label,
        org_id=options.org,
        user_id=options.user,
    )
    if options.json:
        result_json({**_described(made.info), "apiKey": made.api_key})
        return ExitCode.OK
    result(made.api_key)  # alone, so that KEY=$(blocks-network keys create) works
    note(f"key {made.info.key_id} of {made.info.org_id} ({', '.join(made.info.scopes)}); it is not shown again")
    return ExitCode.OK


def _list(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.keys import list_keys

    reach = Reach.of(options)
    found = [info for info in list_keys(reach.caller(), reach.api_key) if options.all or not info.revoked_time]
    if options.json:
        for info in found:
            result_json(_described(info))
        return ExitCode.OK
    rows = [
        (
            info.key_id,
            info.org_id,
            info.user_id,
            "+".join(info.scopes),
            info.created_time,
            info.revoked_time,
            info.label,
        )
        for info in found
    ]
    show_table(("KEY", "ORG", "USER", "SCOPES", "CREATED", "REVOKED", "LABEL"), rows, none="no keys")
    return ExitCode.OK


def _revoke(options: argparse.Namespace) -> ExitCode:
    from blocks_network.api.keys import revoke_key

    reach = Reach.of(options)
    revoke_key(reach.caller(), reach.api_key, options.key_id)
    if options.json:
        result_json({"keyId": options.key_id, "revoked": True})
    else:
        result(f"{options.key_id} revoked")
    return ExitCode.OK


def _described(info: Any) -> dict[str, Any]:
    told = {
        "keyId": info.key_id,
        "orgId": info.org_id,
        "userId": info.user_id,
        "label": info.label,
        "scopes": list(info.scopes),
        "createdTime": info.created_time,
        "revokedTime": info.revoked_time,
    }
    return {key: value for key, value in told.items() if value is not None}
