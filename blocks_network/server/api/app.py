"""The platform API as one ASGI callable: every noun's routes, and the conventions that hold for all of them."""

from __future__ import annotations

import logging
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocks_network.server.api import cdm, files, registry, tasks, tokens
from blocks_network.server.api.errors import ApiRefusal, answer_http_exception, answer_refusal, json_answer
from blocks_network.server.api.services import Services
from blocks_network.wire.versions import PROTOCOL_VERSION_HEADER, SUPPORTED_PROTOCOL_VERSIONS, is_supported

__all__ = ["build_api"]

log = logging.getLogger(__name__)

AFFINITY_S = 5
"""How long after a write its caller is to be served by who took it. One node always is; clients of several ask."""
_VERSION = PROTOCOL_VERSION_HEADER.lower().encode()


def build_api(services: Services) -> ASGIApp:
    """Built once; belongs to one event loop."""
    nouns = (cdm, tokens, registry, tasks, files)
    app = Starlette(
        routes=[route for noun in nouns for route in noun.routes(services)],
        exception_handlers={
            ApiRefusal: answer_refusal,
            HTTPException: answer_http_exception,
            Exception: _answer_fault,
        },
    )
    return Conventions(app)


class Conventions:
    """What holds for every call: the version is one that is spoken here, and a write says where to read it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = next((value for name, value in scope["headers"] if name == _VERSION), None)
        if version is not None and not is_supported(version.decode("latin-1")):
            spoken = ", ".join(SUPPORTED_PROTOCOL_VERSIONS)
            refusal = json_answer(
                {"code": "UNSUPPORTED_PROTOCOL_VERSION", "error": f"this network speaks protocol version {spoken}"}, 400
            )
            await refusal(scope, receive, send)
            return

        async def send_with_affinity(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400 and scope["method"] != "GET":
                until = str(int(time.time()) + AFFINITY_S).encode()
                message["headers"] = [*message["headers"], (b"x-write-affinity", until)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_affinity)
        except Exception:  # the edge: it was answered with 500, and the connection goes on
            log.exception("%s %s failed", scope["method"], scope["path"])


async def _answer_fault(_request: Request, _fault: Exception) -> Response:
    return json_answer(
        {"code": "INTERNAL_ERROR", "error": "the network has failed at this call; its log says why"}, 500
    )
