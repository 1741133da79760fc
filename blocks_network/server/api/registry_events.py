"""What the registry tells on the bus: to its audit channels, and to the instances of an agent that changes sides."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from blocks_network.server.access.keysets import Keysets
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.api.tokens import control_token
from blocks_network.server.bus import Draft
from blocks_network.server.store.agents import AgentRow
from blocks_network.wire import cards
from blocks_network.wire.channels import (
    control_channel,
    normalize_tag_slug,
    registry_all_channel,
    registry_log_channel,
    registry_tag_channel,
    registry_visibility_channel,
)
from blocks_network.wire.control import broadcast_meta
from blocks_network.wire.versions import PROTOCOL_VERSION

__all__ = ["audit_drafts", "switch_draft"]


def audit_drafts(
    keysets: Keysets, row: AgentRow, what: Literal["registered", "updated", "removed"], reason: str | None = None
) -> list[Draft]:
    """One event, on the registry's channels of every keyset. They are readable with a grant of their own alone."""
    event: dict[str, Any] = {"type": what, "agentName": row.agent_name, "listing": row.listing}
    event["ts"] = int(time.time() * 1000)
    if reason is not None:
        event["reason"] = reason
    channels = {registry_all_channel(), registry_log_channel(), registry_visibility_channel(row.listing == "public")}
    ids = [tag.get("id") for tag in cards.tags(row.card)]
    channels |= {registry_tag_channel(tag) for tag in ids if isinstance(tag, str) and normalize_tag_slug(tag)}
    payload = msgspec.json.encode(event)
    return [
        Draft(keyset=keyset.subscribe_key, channel=channel, payload=payload)
        for keyset in keysets
        for channel in sorted(channels)
    ]


def switch_draft(keysets: Keysets, tokens: CapabilityTokens, row: AgentRow) -> Draft:
    """Tells the instances of an agent whose billing mode is another one now that work comes on the other keyset."""
    now, before = keysets.for_billing("free"), keysets.for_billing("paid")
    if row.billing_mode == "paid":
        now, before = before, now
    message = {
        "type": "SwitchEnvironment",
        "environment": now.name,
        "pamToken": control_token(tokens, now, row.agent_id),
        "protocolVersion": PROTOCOL_VERSION,
    }
    return Draft(
        keyset=before.subscribe_key,
        channel=control_channel(row.agent_id),
        payload=msgspec.json.encode(message),
        meta=msgspec.json.encode(broadcast_meta()),
        stored=False,
    )
