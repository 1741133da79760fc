"""What the gateway itself refuses: no permission, an unknown keyset, a network that cannot take more."""

from __future__ import annotations

from blocks_network.server.access.authorizer import Denied
from blocks_network.server.gateway.reply import Refusal, Reply, json_reply

__all__ = ["denial", "unavailable", "unknown_keyset"]


def denial(denied: Denied) -> Refusal:
    """The 403 for what the authorizer refused, with the names of what was refused."""
    body: dict[str, object] = {"message": denied.message}
    payload = {
        "channels": [need.name for need in denied.refused if not need.group],
        "channel-groups": [need.name for need in denied.refused if need.group],
    }
    refused = {kind: names for kind, names in payload.items() if names}
    if refused:
        body["payload"] = refused
    body |= {"error": True, "service": "Access Manager", "status": 403}
    return Refusal(json_reply(body, 403, X_Pn_Cause=denied.cause), "denied")


def unknown_keyset() -> Refusal:
    body = {"message": "Invalid Subscribe Key", "error": True, "service": "Access Manager", "status": 400}
    return Refusal(json_reply(body, 400), "unknown_keyset")


def unavailable() -> Reply:
    """The log takes nothing at the moment; the client may try again."""
    body = {"status": 503, "error": True, "message": "The network cannot store messages at the moment"}
    return json_reply(body, 503, Retry_After="1")
