"""The platform API as one ASGI callable: every noun's routes, and the conventions that hold for all of them."""

from __future__ import annotations

import logging
import time

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocks_network.server.api import admin, cdm, files, keys, registry, tasks, tokens, webhooks
from blocks_network.server.api.errors import (
    ApiRefusal,
    answer_http_exception,
    answer_refusal,
    answer_store_fault,
    json_answer,
)
from blocks_network.server.api.services import Services
from blocks_network.server.store.database import StoreFault
from blocks_network.wire.versions import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_HEADER,
    SUPPORTED_PROTOCOL_VERSIONS,
    is_supported,
)

__all__ = ["build_api"]

log = logging.getLogger(__name__)

AFFINITY_S = 5
"""How long after a write its caller is to be served by who took it. One node always is; clients of several ask."""
SHOWN_CHARS = 256
"""Of what a client sent, in a sentence for people."""


def build_api(services: Services) -> Starlette:
    """Built once; belongs to one event loop. From now on an API key that is revoked here ends its access tokens."""
    services.api_keys.on_revoked(services.access_tokens.refuse_key)
    nouns = (cdm, tokens, registry, tasks, files, webhooks, keys, admin)
    app = Starlette(
        routes=[route for noun in nouns for route in noun.routes(services)],
        middleware=[Middleware(Conventions)],
        exception_handlers={
            ApiRefusal: answer_refusal,
            HTTPException: answer_http_exception,
            StoreFault: answer_store_fault,
        },
    )
    app.router.redirect_slashes = False  # some clients follow a redirect with a GET, and without the body
    app.router.default = _nothing_here
    return app


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    error = f"nothing is served at {scope['path'][:SHOWN_CHARS]}; GET /config.json says where the network is"
    await json_answer({"code": "NOT_FOUND", "error": error}, 404)(scope, receive, send)


class Conventions:
    """What holds for every call: its version is one that is spoken here, a write says where to read it, and a fault
    of ours is logged here and answered without its details."""

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
                headers = MutableHeaders(scope=message)
                headers[PROTOCOL_VERSION_HEADER] = PROTOCOL_VERSION
                headers["X-Content-Type-Options"] = "nosniff"
                if message["status"] < 400 and scope["method"] not in ("GET", "HEAD"):
                    headers["X-Write-Affinity"] = str(int(time.time()) + AFFINITY_S)
            await send(message)

        version = Headers(scope=scope).get(PROTOCOL_VERSION_HEADER)
        if version is not None and not is_supported(version):
            spoken = ", ".join(SUPPORTED_PROTOCOL_VERSIONS)
            error = f"this network speaks protocol version {spoken}, the call says {version[:SHOWN_CHARS]!r}"
            answer = json_answer({"code": "UNSUPPORTED_PROTOCOL_VERSION", "error": error}, 400)
            await answer(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # what was sent of the answer cannot be taken back: the connection ends
            error = "the network has failed at this call; its log says why"
            await json_answer({"code": "INTERNAL_ERROR", "error": error}, 500)(scope, receive, send_with_headers)
