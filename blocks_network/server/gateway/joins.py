"""What requests say of presence: which channels they name, how long their uuid is there, and with what state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from blocks_network.server.gateway.names import Names
from blocks_network.server.gateway.reply import bad_request
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["joined", "members_of", "named", "state_of", "uuid_of"]

STATE_LEVELS = 32
"""Objects and lists within each other in a state: what is accepted must be writable again in any answer."""


def members_of(gateway: Gateway, key: str) -> Callable[[str], Iterable[str]]:
    """Tells the channels of a keyset's groups."""
    groups = gateway.groups
    if groups is None:
        return lambda group: ()
    return lambda group: groups.channels_of(key, group)


def named(gateway: Gateway, request: Request, key: str, channels: Sequence[str]) -> Names:
    """The channels of the path and the groups of `channel-group`. 400 when there are none, or too many."""
    groups, limits = request.query_names("channel-group"), gateway.limits
    if len(channels) > limits.channels_per_request or len(groups) > limits.groups_per_request:
        raise bad_request("Too many channels", request.service)
    names = Names(channels, groups, members_of(gateway, key), request.service)
    if not names:
        raise bad_request("No channels", request.service)
    return names


def joined(gateway: Gateway, request: Request, key: str, names: Names) -> None:
    """The uuid is present where it listens; an open poll alone does not keep it so."""
    channels = [name for name in names.joined() if not name.startswith(gateway.unattended)]
    if not (request.uuid and channels):
        return
    uuid = uuid_of(request, request.uuid)
    timeout_s = request.number("heartbeat", high=gateway.limits.presence_timeout_s)
    state = _states(request, names) if request.query.get("state") else None
    gateway.presence.touch(key, channels, uuid, timeout_s=timeout_s or None, state=state)


def uuid_of(request: Request, uuid: str) -> str:
    """The uuid, when somebody can be present by it; else 400."""
    if not uuid:
        raise bad_request("Missing uuid", request.service)
    if len(uuid.encode()) > request.limits.name_bytes or not uuid.isprintable():
        raise bad_request("Invalid uuid", request.service)
    return uuid


def state_of(request: Request) -> dict[str, Any]:
    """The object in `state`; 400 when it is no object, too large or too deep."""
    text = request.query.get("state", "").encode("utf-8")
    if len(text) > request.limits.state_bytes:
        raise bad_request("State too large", request.service)
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise bad_request("Invalid state", request.service) from None
    if not (isinstance(given, dict) and _levels_within(given, STATE_LEVELS)):
        raise bad_request("Invalid state", request.service)
    return given


def _states(request: Request, names: Names) -> dict[str, dict[str, Any]]:
    """State by channel; what was given for a group holds for its members."""
    given = state_of(request)
    if not all(isinstance(state, dict) for state in given.values()):
        raise bad_request("Invalid state", request.service)
    by_group = {channel: given[group] for channel, group in names.members.items() if group in given}
    return {**by_group, **given}


def _levels_within(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_levels_within(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_levels_within(inner, levels - 1) for inner in value)
    return True
