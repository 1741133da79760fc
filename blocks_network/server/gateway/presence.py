"""Presence operations: heartbeat, leave, here now, where now, state; and the events on `-pnpres` channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.gateway.joins import joined, members_of, named, state_of, uuid_of
from blocks_network.server.gateway.names import Names
from blocks_network.server.gateway.presence_events import PresenceEvents
from blocks_network.server.gateway.reply import Reply, forbidden, json_reply
from blocks_network.server.gateway.request import Request
from blocks_network.server.presence import Occupant

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["PresenceOperations", "routes"]

SERVICE = "Presence"
OCCUPANTS_MAX = 1_000
"""Of one channel in one answer, as in the protocol; `offset` leads to the others."""
FINE: dict[str, Any] = {"status": 200, "message": "OK", "service": SERVICE}


def routes(gateway: Gateway) -> None:
    """Serves the operations, and lets presence changes be heard from the gateway's start on."""
    operations = PresenceOperations(gateway)
    gateway.own(PresenceEvents(gateway.bus, gateway.presence))
    keyset = "/v2/presence/sub-key/{sub}"
    channels = keyset + "/channel/{channels}"
    gateway.add("GET", channels + "/heartbeat", operations.heartbeat, service=SERVICE)
    gateway.add("GET", channels + "/leave", operations.leave, service=SERVICE)
    gateway.add("GET", channels, operations.here_now, service=SERVICE)
    gateway.add("GET", keyset, operations.here_now_everywhere, service=SERVICE)
    gateway.add("GET", keyset + "/uuid/{uuid}", operations.where_now, service=SERVICE)
    gateway.add("GET", channels + "/uuid/{uuid}", operations.get_state, service=SERVICE)
    gateway.add("GET", channels + "/uuid/{uuid}/data", operations.set_state, service=SERVICE)


class PresenceOperations:
    """Each channel of a request needs read, each group too. Leave and where now are refused without a valid token
    alone, as clients expect, and do nothing on, and tell nothing of, channels that it may not read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._presence = gateway, gateway.presence

    async def heartbeat(self, request: Request, keyset: Keyset) -> Reply:
        names = self._names(request, keyset)
        self._gateway.authorize(request, keyset, names.needs())
        uuid_of(request, request.uuid)
        joined(self._gateway, request, keyset.subscribe_key, names)
        return json_reply(FINE)

    async def leave(self, request: Request, keyset: Keyset) -> Reply:
        names = self._names(request, keyset)
        allowed = self._gateway.permitted(request, keyset, names.needs())
        uuid = uuid_of(request, request.uuid)
        self._presence.leave(keyset.subscribe_key, self._joined(keyset, allowed), uuid)
        return json_reply({**FINE, "action": "leave"})

    async def here_now(self, request: Request, keyset: Keyset) -> Reply:
        names = self._names(request, keyset)
        self._gateway.authorize(request, keyset, names.needs())
        view = _View.of(request)
        key = keyset.subscribe_key
        if not names.groups and len(names.channels) + len(names.wildcards) == 1:
            (channel,) = (*names.channels, *names.wildcards)
            return json_reply({**FINE, **view.shown(self._presence.occupants(key, channel))})
        return json_reply({**FINE, "payload": self._by_channel(key, names.joined(), view)})

    async def here_now_everywhere(self, request: Request, keyset: Keyset) -> Reply:
        """Everybody on the keyset: for those who hold its secret."""
        self._gateway.authorize(request, keyset, (), signature_only=keyset.access_control)
        key, view = keyset.subscribe_key, _View.of(request)
        return json_reply({**FINE, "payload": self._by_channel(key, self._presence.occupied_channels(key), view)})

    async def where_now(self, request: Request, keyset: Keyset) -> Reply:
        self._gateway.authorize(request, keyset, ())
        uuid = uuid_of(request, request.text(5))
        channels = self._presence.channels_of(keyset.subscribe_key, uuid)
        shown = self._gateway.permitted(request, keyset, [Need(channel, Bits.READ) for channel in channels])
        return json_reply({**FINE, "payload": {"channels": [need.name for need in shown]}})

    async def get_state(self, request: Request, keyset: Keyset) -> Reply:
        names = self._names(request, keyset)
        self._gateway.authorize(request, keyset, names.needs())
        key, uuid = keyset.subscribe_key, uuid_of(request, request.text(7))
        if not names.groups and len(names.channels) == 1:
            (channel,) = names.channels
            state = self._presence.state_of(key, channel, uuid)
            return json_reply({**FINE, "uuid": uuid, "channel": channel, "payload": state})
        states = {channel: self._presence.state_of(key, channel, uuid) for channel in names.joined()}
        return json_reply({**FINE, "uuid": uuid, "payload": {"channels": states}})

    async def set_state(self, request: Request, keyset: Keyset) -> Reply:
        names = self._names(request, keyset)
        grant = self._gateway.authorize(request, keyset, names.needs())
        uuid = uuid_of(request, request.text(7))
        if grant is not None and not grant.signed and uuid != request.uuid:
            raise forbidden(list(names.channels), names.groups)  # a token speaks for its own uuid alone
        state = state_of(request)
        self._presence.set_state(keyset.subscribe_key, names.joined(), uuid, state)
        return json_reply({**FINE, "payload": state})

    def _joined(self, keyset: Keyset, allowed: Sequence[Need]) -> list[str]:
        channels = [need.name for need in allowed if not need.group]
        groups = [need.name for need in allowed if need.group]
        return Names(channels, groups, members_of(self._gateway, keyset.subscribe_key)).joined()

    def _names(self, request: Request, keyset: Keyset) -> Names:
        return named(self._gateway, request, keyset.subscribe_key, request.names(5))

    def _by_channel(self, key: str, channels: Sequence[str], view: _View) -> dict[str, Any]:
        """Channels without occupants are left out. The numbers stay exact where names are cut off."""
        shown: dict[str, Any] = {}
        total, room = 0, self._gateway.limits.here_now_names
        for channel in channels:
            occupants = self._presence.occupants(key, channel)
            if occupants:
                shown[channel] = view.shown(occupants, room)
                room -= len(shown[channel].get("uuids", ()))
                total += len(occupants)
        return {"channels": shown, "total_channels": len(shown), "total_occupancy": total}


@dataclass(frozen=True, slots=True)
class _View:
    """What a here-now request wants to see of each channel."""

    limit: int
    offset: int
    uuids: bool
    states: bool

    @classmethod
    def of(cls, request: Request) -> _View:
        limit, offset = request.number("limit", OCCUPANTS_MAX, high=OCCUPANTS_MAX), request.number("offset", 0)
        assert limit is not None
        assert offset is not None
        return cls(limit, offset, not request.flag("disable_uuids"), request.flag("state"))

    def shown(self, occupants: Sequence[Occupant], room: int = OCCUPANTS_MAX) -> dict[str, Any]:
        """One channel: its occupancy and, unless they are not wanted, at most `room` names."""
        if not self.uuids:
            return {"occupancy": len(occupants)}
        page = occupants[self.offset : self.offset + min(self.limit, room)]
        return {"uuids": list(self._named(page)), "occupancy": len(occupants)}

    def _named(self, occupants: Sequence[Occupant]) -> Iterable[str | dict[str, Any]]:
        for one in occupants:
            if not self.states:
                yield one.uuid
            elif one.state is None:
                yield {"uuid": one.uuid}
            else:
                yield {"uuid": one.uuid, "state": one.state}
