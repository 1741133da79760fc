"""JSON-RPC 2.0: the calls about tasks, at one path. What they mean is in `server/tasks`.

Several calls may come in one request, as a list (the extension `batch-calls`). What they store is committed together.

A refusal is an answer like any other, HTTP 200 with `error`: clients take an HTTP status for the whole answer. The
exception is a network that has no time at all, or no room on its disk, HTTP 503, after which clients call again by
themselves: nothing was changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import CONSUMER, Principal
from blocks_network.server.api.bearer import bearer_of, principal_by
from blocks_network.server.api.bodies import item_of, read_object, read_objects
from blocks_network.server.api.errors import ApiRefusal, json_answer, unauthenticated
from blocks_network.server.api.observed import OPERATION, RPC_PATH
from blocks_network.server.api.services import Services
from blocks_network.server.store.database import StoreFault
from blocks_network.server.tasks.refusals import TaskRefusal, invalid_params
from blocks_network.wire.rpc import (
    BUSY_CODES,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    METHODS,
    PARSE_ERROR,
    STORE_UNAVAILABLE,
    error_code,
    error_envelope,
    result_envelope,
)

__all__ = ["routes"]

log = logging.getLogger(__name__)

RPC_OPERATIONS = {method: f"rpc/{method}" for method in METHODS}
BATCH = "rpc/batch"
BUSY_RETRY_S = "1"
CALL_ID_CHARS = 255
ANONYMOUS_BYTES = 4_096
FOR_PROVIDERS = frozenset({"GetTask", "ListTasks", "TerminateTask"})
"""What an identity may call that runs agents and sends no tasks."""


def routes(services: Services) -> list[Route]:
    most = services.limits.body_bytes

    async def rpc(request: Request) -> Response:
        credential = bearer_of(request)
        principal = None if credential is None else await principal_by(credential, services)
        try:
            said = await (_read_anonymous(request) if principal is None else read_objects(request, most))
        except ApiRefusal as refusal:
            if refusal.status != 400:
                raise
            return json_answer(error_envelope(None, PARSE_ERROR, refusal.error))
        if isinstance(said, list):
            request.scope[OPERATION] = BATCH
            return json_answer(await _answer_all(services, principal, said))
        method = said.get("method")
        if isinstance(method, str) and method in RPC_OPERATIONS:
            request.scope[OPERATION] = RPC_OPERATIONS[method]
        answered = await answer(services, principal, said)
        if error_code(answered.get("error")) in BUSY_CODES:
            return json_answer(answered, 503, {"Retry-After": BUSY_RETRY_S})
        return json_answer(answered)

    return [Route(RPC_PATH, rpc, methods=["POST"])]


async def _answer_all(services: Services, principal: Principal | None, items: list[bytes]) -> Any:
    """Several calls' envelopes, in their order, each answered as if it had come alone; or the refusal of all."""
    most = services.limits.calls_per_request
    if not 1 <= len(items) <= most:
        return error_envelope(None, INVALID_REQUEST, f"a request has from 1 to {most} calls, and this one {len(items)}")
    try:
        calls = [item_of(item) for item in items]
    except ApiRefusal as refusal:
        return error_envelope(None, PARSE_ERROR, refusal.error)
    if not all(isinstance(call, dict) for call in calls):
        return error_envelope(None, INVALID_REQUEST, "each call is an object")
    return await asyncio.gather(*(answer(services, principal, call) for call in calls))


async def _read_anonymous(request: Request) -> Mapping[str, Any]:
    """The one call that somebody without an identity may make: GetTask. ApiRefusal 401 for any other."""
    try:
        envelope = await read_object(request, ANONYMOUS_BYTES)
    except ApiRefusal:
        envelope = {}
    if envelope.get("method") != "GetTask":
        raise unauthenticated("this call needs an API key or an access token as its bearer")
    return envelope


async def answer(services: Services, principal: Principal | None, envelope: Mapping[str, Any]) -> dict[str, Any]:
    """One call's envelope. `principal` None is nobody, who calls GetTask alone."""
    call_id, method, params = envelope.get("id"), envelope.get("method"), envelope.get("params")
    if not _is_call_id(call_id):
        return error_envelope(None, INVALID_REQUEST, f"id is a number, or a text of at most {CALL_ID_CHARS} characters")
    if envelope.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return error_envelope(call_id, INVALID_REQUEST, 'a call has "jsonrpc": "2.0" and a method')
    if method not in METHODS:
        return error_envelope(call_id, METHOD_NOT_FOUND, f"there is no method {method[:80]!r}")
    params = {} if params is None else params
    if not isinstance(params, dict):
        return error_envelope(call_id, INVALID_PARAMS, "params is an object")
    try:
        if principal is None:
            result = await services.tasks.get(None, params)
        else:
            _check_identity(principal, method, params)
            result = await _call(services, principal, method, params)
    except TaskRefusal as refusal:
        return error_envelope(call_id, refusal.rpc_code, refusal.message, data=refusal.data())
    except StoreFault as fault:
        log.error("%s was not done: the database refuses (%s)", method, getattr(fault, "orig", None) or fault)
        text = "the network cannot store anything now; nothing was changed, call again later"
        return error_envelope(call_id, INTERNAL_ERROR, text, data={"code": STORE_UNAVAILABLE, "message": text})
    return result_envelope(call_id, result)


def _is_call_id(call_id: object) -> bool:
    if isinstance(call_id, str):
        return len(call_id) <= CALL_ID_CHARS
    return call_id is None or (isinstance(call_id, (int, float)) and not isinstance(call_id, bool))


def _check_identity(principal: Principal, method: str, params: Mapping[str, Any]) -> None:
    """TaskRefusal where the caller may not call this, or not in the name of somebody else."""
    if not principal.may(CONSUMER) and method not in FOR_PROVIDERS:
        raise TaskRefusal("ScopeMissing", f"this identity lacks the scope {CONSUMER!r}: it may not call {method}")
    owner_id = params.get("ownerId") if method == "SendMessage" else None
    if owner_id is None or owner_id in ("", principal.user_id):
        return
    if not isinstance(owner_id, str):
        raise invalid_params("ownerId is not a text")
    raise TaskRefusal(
        "OwnerMismatch",
        "ownerId is somebody else; leave it out, or send the userId that came with the access token",
        details={"ownerId": owner_id[:255]},
    )


async def _call(services: Services, principal: Principal, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    tasks = services.tasks
    if method == "SendMessage":
        return await tasks.send(principal, params)
    if method == "GetTask":
        return await tasks.get(principal, params)
    if method == "ListTasks":
        return await tasks.list(principal, params)
    return await tasks.control(principal, method, params)
