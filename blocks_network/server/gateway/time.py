"""The network's time, which is also a cursor: nothing that becomes visible later has a smaller timetoken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks_network.server.gateway.reply import Reply
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["routes"]


def routes(gateway: Gateway) -> None:
    async def time(request: Request) -> Reply:
        return Reply(200, b"[%d]" % await gateway.bus.current())

    gateway.add_open("GET", "/time/0", time, service="Time")
