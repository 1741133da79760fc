"""JSON-RPC 2.0: the calls about tasks, at one path. What they mean is in `server/tasks`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import CONSUMER, Principal
from blocks_network.server.api.bearer import principal_of
from blocks_network.server.api.bodies import read_object
from blocks_network.server.api.errors import ApiRefusal, json_answer
from blocks_network.server.api.services import Services
from blocks_network.server.store.database import StoreFault
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.wire.rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    METHODS,
    PARSE_ERROR,
    error_envelope,
    result_envelope,
)

__all__ = ["routes"]

log = logging.getLogger(__name__)

BUSY = frozenset({"BacklogFull", "NetworkBusy"})
"""Refusals that pass: the same call may be taken in a moment."""


def routes(services: Services) -> list[Route]:
    async def rpc(request: Request) -> Response:
        principal = await principal_of(request, services, scope=CONSUMER)
        try:
            envelope = await read_object(request, services.limits.body_bytes)
        except ApiRefusal as refusal:
            if refusal.status != 400:
                raise
            return json_answer(error_envelope(None, PARSE_ERROR, refusal.error))
        return json_answer(await answer(services, principal, envelope))

    return [Route("/api/v1/rpc", rpc, methods=["POST"])]


async def answer(services: Services, principal: Principal, envelope: Mapping[str, Any]) -> dict[str, Any]:
    """One call's envelope. A refusal is an answer like any other: HTTP 200 with `error`."""
    call_id, method, params = envelope.get("id"), envelope.get("method"), envelope.get("params", {})
    if isinstance(call_id, bool) or not isinstance(call_id, (str, int, float, type(None))):
        return error_envelope(None, INVALID_REQUEST, "id is a text or a number")
    if envelope.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return error_envelope(call_id, INVALID_REQUEST, 'a call has "jsonrpc": "2.0" and a method')
    if method not in METHODS:
        return error_envelope(call_id, METHOD_NOT_FOUND, f"there is no method {method[:80]!r}")
    if not isinstance(params, Mapping):
        return error_envelope(call_id, INVALID_PARAMS, "params is an object")
    try:
        result = await _call(services, principal, method, params)
    except TaskRefusal as refusal:
        return error_envelope(call_id, refusal.rpc_code, refusal.message, data=refusal.data())
    except StoreFault:
        log.exception("%s was not taken: the database refuses", method)
        text = "the network cannot store anything now; nothing was changed, call again later"
        return error_envelope(call_id, INTERNAL_ERROR, text, data={"code": "StoreUnavailable", "message": text})
    return result_envelope(call_id, result)


async def _call(services: Services, principal: Principal, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    tasks = services.tasks
    if method == "SendMessage":
        return await tasks.send(principal, params)
    if method == "GetTask":
        return await tasks.get(principal, params)
    if method == "ListTasks":
        return await tasks.list(principal, params)
    return await tasks.control(principal, method, params)
