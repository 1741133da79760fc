"""What holds for every call of the platform API, whichever way it comes to its route.

Its version is one that is spoken here, a write says where to read it, and a fault of ours is logged here and answered
without its details.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocks_network.server.api.errors import ApiRefusal, answer_refusal, answer_store_fault, json_answer
from blocks_network.server.http.answering import answering_of, head_of
from blocks_network.server.store.database import StoreFault
from blocks_network.wire.versions import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_HEADER,
    SUPPORTED_PROTOCOL_VERSIONS,
    is_supported,
)

__all__ = ["Conventions", "Direct"]

log = logging.getLogger(__name__)

AFFINITY_S = 5
"""How long after a write its caller is to be served by who took it. One node always is; clients of several ask."""
SHOWN_CHARS = 256
"""Of what a client sent, in a sentence for people."""
_VERSION = PROTOCOL_VERSION_HEADER.lower().encode("ascii")
_EVERY_ANSWER = [(_VERSION, PROTOCOL_VERSION.encode("ascii")), (b"x-content-type-options", b"nosniff")]

Endpoint = Callable[[Request], Awaitable[Response]]


class Conventions:
    """Around a framework's own way to a route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_added(scope, message["status"])]
            await send(message)

        refusal = _refused_version(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # what was sent of the answer cannot be taken back: the connection ends
            await _failed()(scope, receive, send_with_headers)


class Direct:
    """Serves some addresses, by (method, path), without the framework's way there; `rest` serves all others.

    For calls that every task makes: the way is longer than what most of them do.
    """

    def __init__(self, rest: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._rest, self._endpoints = rest, dict(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._rest(scope, receive, send)
            return
        response = _refused_version(scope) or await self._respond(endpoint, Request(scope, receive))
        headers = [*response.raw_headers, *_added(scope, response.status_code)]
        answering = answering_of(scope)
        if answering is not None:
            shared = head_of(*(header for header in headers if header[0] != b"content-length"))
            if answering.whole(response.status_code, shared, bytes(response.body)):
                return
        response.raw_headers = headers
        await response(scope, receive, send)

    async def _respond(self, endpoint: Endpoint, request: Request) -> Response:
        try:
            return await endpoint(request)
        except ApiRefusal as refusal:
            return await answer_refusal(request, refusal)
        except StoreFault as fault:
            return await answer_store_fault(request, fault)
        except Exception:  # the edge: a fault of one call must not end its connection without an answer
            log.exception("%s %s failed", request.method, request.url.path)
            return _failed()


def _refused_version(scope: Scope) -> Response | None:
    version = dict(scope["headers"]).get(_VERSION)
    if version is None or is_supported(version.decode("latin-1")):
        return None
    shown, spoken = version.decode("latin-1")[:SHOWN_CHARS], ", ".join(SUPPORTED_PROTOCOL_VERSIONS)
    error = f"this network speaks protocol version {spoken}, the call says {shown!r}"
    return json_answer({"code": "UNSUPPORTED_PROTOCOL_VERSION", "error": error}, 400)


def _added(scope: Scope, status: int) -> list[tuple[bytes, bytes]]:
    """The headers of every answer."""
    if status >= 400 or scope["method"] in ("GET", "HEAD"):
        return _EVERY_ANSWER
    return [*_EVERY_ANSWER, (b"x-write-affinity", b"%d" % (int(time.time()) + AFFINITY_S))]


def _failed() -> Response:
    error = "the network has failed at this call; its log says why"
    return json_answer({"code": "INTERNAL_ERROR", "error": error}, 500)
