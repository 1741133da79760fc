"""The platform API as one ASGI callable: every noun's routes, under the conventions that hold for all of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from blocks_network.server.api import admin, cdm, files, keys, registry, tasks, tokens, webhooks
from blocks_network.server.api.conventions import Conventions, Direct
from blocks_network.server.api.errors import (
    ApiRefusal,
    answer_http_exception,
    answer_refusal,
    answer_store_fault,
    json_answer,
)
from blocks_network.server.api.observed import RPC_PATH, Observed
from blocks_network.server.api.services import Services
from blocks_network.server.outcomes import Observe
from blocks_network.server.store.database import StoreFault

__all__ = ["build_api"]

SHOWN_CHARS = 256
"""Of an address, in a sentence for people."""


def build_api(services: Services, observe: Observe) -> Observed:
    """Built once; belongs to one event loop. From now on an API key that is revoked here ends its access tokens."""
    services.api_keys.on_revoked(services.access_tokens.refuse_key)
    nouns = (cdm, tokens, registry, tasks, files, webhooks, keys, admin)
    routes = [route for noun in nouns for route in noun.routes(services)]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Conventions)],
        exception_handlers={
            ApiRefusal: answer_refusal,
            HTTPException: answer_http_exception,
            StoreFault: answer_store_fault,
        },
    )
    app.router.redirect_slashes = False  # some clients follow a redirect with a GET, and without the body
    app.router.default = _nothing_here
    direct = {("POST", route.path): route.endpoint for route in routes if route.path == RPC_PATH}
    return Observed(Direct(app, direct), routes, observe)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    error = f"nothing is served at {scope['path'][:SHOWN_CHARS]}; GET /config.json says where the network is"
    await json_answer({"code": "NOT_FOUND", "error": error}, 404)(scope, receive, send)
