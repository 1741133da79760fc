"""The configuration document: all that a client has to know of a network, public by its nature."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.api.errors import json_answer
from blocks_network.server.api.services import Services

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    document = {
        "playground": _keys(services.keysets.for_billing("free")),
        "network": _keys(services.keysets.for_billing("paid")),
        "api": {"baseUrl": services.public_base},
        "transport": {"origin": services.origin, "ssl": services.ssl},
        "features": sorted(services.features),
    }

    async def config(_request: Request) -> Response:
        return json_answer(document)

    return [Route("/config.json", config, methods=["GET"])]


def _keys(keyset: Keyset) -> dict[str, str]:
    return {"publishKey": keyset.publish_key, "subscribeKey": keyset.subscribe_key}
