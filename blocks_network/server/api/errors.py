"""What the platform refuses, and the JSON bodies that say so: `{"code", "error"}` and, where they help, more fields.

| status | when |
| --- | --- |
| 400 | the request cannot be read: its JSON, a field's type, its protocol version |
| 401 | nobody is identified: no bearer, or one that does not hold (any more) |
| 403 | somebody is, who may not |
| 404 | it does not exist, or the caller may not know that it does |
| 409 | it contradicts what is there |
| 413 | the body is larger than the network takes |
| 422 | it can be read, and what it describes cannot be accepted |
| 503 | the network cannot store anything now; nothing was changed, call again later |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = [
    "ApiRefusal",
    "answer_http_exception",
    "answer_refusal",
    "answer_store_fault",
    "bad_request",
    "forbidden",
    "json_answer",
    "not_found",
    "unauthenticated",
]

log = logging.getLogger(__name__)


class ApiRefusal(Exception):
    """A request that is refused. `code` is the word for programs, `error` the sentence for people.

    `more` goes into the body beside the two; `headers` into the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        *,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.code, self.error = status, code, error
        self.more, self.headers = dict(more or {}), dict(headers or {})


def bad_request(error: str, code: str = "INVALID_REQUEST") -> ApiRefusal:
    return ApiRefusal(400, code, error)


def unauthenticated(error: str, code: str = "UNAUTHENTICATED") -> ApiRefusal:
    return ApiRefusal(401, code, error, headers={"WWW-Authenticate": "Bearer"})


def forbidden(error: str, code: str = "FORBIDDEN") -> ApiRefusal:
    return ApiRefusal(403, code, error)


def not_found(error: str, code: str = "NOT_FOUND") -> ApiRefusal:
    return ApiRefusal(404, code, error)


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that must not be kept by anybody on the way: most answers hold tokens, all depend on who asks."""
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


async def answer_refusal(_request: Request, fault: Exception) -> Response:
    """Starlette's handler for ApiRefusal."""
    assert isinstance(fault, ApiRefusal)
    return json_answer({"code": fault.code, "error": fault.error, **fault.more}, fault.status, fault.headers)


async def answer_store_fault(request: Request, fault: Exception) -> Response:
    """Starlette's handler for a database that refuses: a full disk, above all."""
    cause = getattr(fault, "orig", None) or fault
    log.error("%s %s was not done: the database refuses (%s)", request.method, request.url.path, cause)
    error = "the network cannot store anything now; nothing was changed, call again later"
    return json_answer({"code": "STORE_UNAVAILABLE", "error": error}, 503, {"Retry-After": "1"})


async def answer_http_exception(_request: Request, fault: Exception) -> Response:
    """Starlette's handler for its own refusals: no such path, no such method."""
    assert isinstance(fault, HTTPException)
    try:
        code = HTTPStatus(fault.status_code).name
    except ValueError:
        code = "REFUSED"
    return json_answer({"code": code, "error": fault.detail}, fault.status_code, fault.headers)
