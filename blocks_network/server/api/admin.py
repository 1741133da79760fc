"""What the network's operator does: agents taken offline, and let back. Needs the scope of a node's own API key."""

from __future__ import annotations

import logging
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import OPERATOR
from blocks_network.server.api.bearer import key_owner_of
from blocks_network.server.api.bodies import read_object, text_field
from blocks_network.server.api.errors import bad_request, json_answer, not_found
from blocks_network.server.api.services import Services
from blocks_network.server.store.agents import set_forced_offline

__all__ = ["routes"]

log = logging.getLogger(__name__)

BODY_BYTES, NAME_BYTES = 4 * 1024, 255


def routes(services: Services) -> list[Route]:
    return [Route("/api/v1/admin/agents/offline", partial(_offline, services), methods=["POST"])]


async def _offline(services: Services, request: Request) -> Response:
    """`{"agentName", "offline"}`. Offline: no instance connects or renews its token, and no task is taken."""
    operator = await key_owner_of(request, services, scope=OPERATOR)
    body = await read_object(request, BODY_BYTES)
    agent_name = text_field(body, "agentName", max_bytes=NAME_BYTES, required=True) or ""
    offline = body.get("offline")
    if not isinstance(offline, bool):
        raise bad_request("offline must be true or false")
    if not await services.database.write(partial(set_forced_offline, agent_name=agent_name, offline=offline)):
        raise not_found(f"there is no agent {agent_name!r}", "AGENT_NOT_FOUND")
    services.tasks.agent_changed(agent_name)
    log.info("agent %s was %s by %s", agent_name, "taken offline" if offline else "let back", operator.user_id)
    return json_answer({"agentName": agent_name, "offline": offline})
