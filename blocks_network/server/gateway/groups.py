"""Channel groups: adding and removing channels, listing them and the groups, deleting a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.gateway.memberships import Memberships, TooManyMembers
from blocks_network.server.gateway.names import PRESENCE
from blocks_network.server.gateway.reply import Reply, bad_request, json_reply
from blocks_network.server.gateway.request import Request
from blocks_network.wire.channels import SESSIONS_PREFIX

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["GroupOperations", "routes"]

SERVICE = "channel-registry"
FINE: dict[str, Any] = {"status": 200, "message": "OK", "service": SERVICE, "error": False}


def routes(gateway: Gateway) -> None:
    """Serves the operations, and gives the gateway the groups that it subscribes by."""
    keysets = [keyset.subscribe_key for keyset in gateway.keysets]
    limits = gateway.limits
    memberships = Memberships(
        gateway.bus, keysets, channels_max=limits.channels_per_group, groups_max=limits.groups_per_keyset
    )
    gateway.groups = memberships
    gateway.own(memberships)
    operations = GroupOperations(gateway, memberships)
    groups = "/v1/channel-registration/sub-key/{sub}/channel-group"
    gateway.add("GET", groups, operations.list_groups, service=SERVICE)
    gateway.add("GET", groups + "/{group}", operations.group, service=SERVICE, operation="channel_group")
    gateway.add("GET", groups + "/{group}/remove", operations.delete, service=SERVICE, operation="group_delete")


class GroupOperations:
    """Whoever manages a group decides who is heard through it: reading the group needs no read on its members."""

    def __init__(self, gateway: Gateway, memberships: Memberships) -> None:
        self._gateway, self._memberships, self._limits = gateway, memberships, gateway.limits

    async def list_groups(self, request: Request, keyset: Keyset) -> Reply:
        self._gateway.authorize(request, keyset, (), signature_only=keyset.access_control)
        key = keyset.subscribe_key
        payload = {"sub_key": key, "groups": self._memberships.groups_of(key)}
        return json_reply({"status": 200, "payload": payload, "service": SERVICE, "error": False})

    async def group(self, request: Request, keyset: Keyset) -> Reply:
        """Adds, removes, or, without either, lists."""
        group = self._group_of(request)
        key = keyset.subscribe_key
        if "add" not in request.query and "remove" not in request.query:
            self._gateway.authorize(request, keyset, (Need(group, Bits.MANAGE | Bits.READ, group=True),))
            payload = {"channels": list(self._memberships.channels_of(key, group)), "group": group}
            return json_reply({"status": 200, "payload": payload, "service": SERVICE, "error": False})
        self._gateway.authorize(request, keyset, (Need(group, Bits.MANAGE, group=True),))
        added, removed = self._channels_of(request, "add"), self._channels_of(request, "remove")
        if removed:
            await self._memberships.remove(key, group, removed)
        if added:
            try:
                await self._memberships.add(key, group, added)
            except TooManyMembers as full:
                raise bad_request(str(full), SERVICE) from None
        return json_reply(FINE)

    async def delete(self, request: Request, keyset: Keyset) -> Reply:
        group = self._group_of(request)
        self._gateway.authorize(request, keyset, (Need(group, Bits.MANAGE, group=True),))
        await self._memberships.delete(keyset.subscribe_key, group)
        return json_reply(FINE)

    def _group_of(self, request: Request) -> str:
        names = request.names(5)
        own = SESSIONS_PREFIX  # groups that only the platform makes
        if len(names) != 1 or "*" in names[0] or names[0].endswith(PRESENCE) or names[0].startswith(own):
            raise bad_request("Invalid group", SERVICE)
        return names[0]

    def _channels_of(self, request: Request, parameter: str) -> list[str]:
        channels = request.query_names(parameter)
        if len(channels) > self._limits.channels_per_registration:
            raise bad_request("Too many channels", SERVICE)
        if any("*" in channel for channel in channels):
            raise bad_request("Invalid channel", SERVICE)
        return channels
