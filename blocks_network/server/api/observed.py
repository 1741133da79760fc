"""Tells of every call of the platform API how it ended, by looking at what is asked and answered.

The reason of a refusal is the `code` that its answer carries, of a JSON-RPC call the code in `error.data`; so no route
has to know that it is counted. The label of an operation is its route's path, of a JSON-RPC call its method.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from time import perf_counter

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocks_network.server.http.answering import Answering, answering_of, offer
from blocks_network.server.outcomes import Observe, Outcome

__all__ = ["OPERATION", "RPC_PATH", "Observed"]

OPERATION = "blocks.operation"
"""A route that serves several operations puts the one that it is into the scope, from a fixed set."""
RPC_PATH = "/api/v1/rpc"
GONE = 499
PEEK_BYTES = 64 * 1024
"""Answers that are larger are no refusals."""


class _Data(msgspec.Struct):
    code: str = ""


class _Error(msgspec.Struct):
    data: _Data | None = None


class _RpcAnswer(msgspec.Struct):
    error: _Error | None = None


class _Refused(msgspec.Struct):
    code: str = ""


_rpc_answer = msgspec.json.Decoder(_RpcAnswer | list[_RpcAnswer])
_refused = msgspec.json.Decoder(_Refused)


class Observed:
    """Around the whole API. `routes` are all that it serves."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], observe: Observe) -> None:
        self._app, self._observe = app, observe
        self.routes = tuple(routes)
        served = [route for route in self.routes if isinstance(route, Route)]
        self._plain = {route.path for route in served if "{" not in route.path}
        self._patterns = [(route.path_regex, route.path) for route in served if "{" in route.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        path: str = scope["path"]
        is_rpc = path == RPC_PATH
        status, answer = GONE, b""

        async def send_on(message: Message) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
            elif (is_rpc or status >= HTTPStatus.BAD_REQUEST) and not answer:
                answer = message.get("body", b"")
            await send(message)

        overheard = _Overheard(answering_of(scope))
        offer(scope, overheard)
        try:
            await self._app(scope, receive, send_on)
        finally:
            if overheard.status:
                status, answer = overheard.status, overheard.answer
            self._observe(
                Outcome(
                    door="platform",
                    operation=scope.get(OPERATION) or self._operation(path),
                    method=scope["method"],
                    client=(scope.get("client") or ("", 0))[0],
                    status=status,
                    reason=_reason(status, answer, is_rpc=is_rpc),
                    seconds=perf_counter() - began,
                )
            )

    def _operation(self, path: str) -> str:
        if path in self._plain:
            return path
        return next((name for pattern, name in self._patterns if pattern.match(path)), "none")


class _Overheard:
    """Notes a whole answer. The API has no other kind that is not sent by messages."""

    __slots__ = ("_answering", "answer", "status")

    def __init__(self, answering: Answering | None) -> None:
        self._answering = answering
        self.status, self.answer = 0, b""

    def whole(self, status: int, head: bytes, body: bytes) -> bool:
        if self._answering is None or not self._answering.whole(status, head, body):
            return False
        self.status, self.answer = status, body
        return True

    def begin(self, status: int, head: bytes, piece: bytes) -> bool:
        return False

    def more(self, piece: bytes) -> bool:
        raise NotImplementedError("no answer was begun")

    def end(self) -> None: ...


def _reason(status: int, answer: bytes, *, is_rpc: bool) -> str:
    """The word for a refusal; empty when it was none."""
    if status == GONE:
        return "gone"
    code = _rpc_code(answer) if is_rpc else ""
    if code or status < HTTPStatus.BAD_REQUEST:
        return code
    return _code(answer) or _name(status)


def _code(answer: bytes) -> str:
    try:
        return _refused.decode(answer).code if len(answer) <= PEEK_BYTES else ""
    except (msgspec.DecodeError, UnicodeDecodeError):  # no body of ours: its status says enough
        return ""


def _rpc_code(answer: bytes) -> str:
    """Of several calls in one request, that of the first refusal."""
    try:
        decoded = _rpc_answer.decode(answer) if len(answer) <= PEEK_BYTES else []
    except (msgspec.DecodeError, UnicodeDecodeError):  # refused before it was read as a call
        return ""
    answers = decoded if isinstance(decoded, list) else [decoded]
    error = next((answer.error for answer in answers if answer.error is not None), None)
    if error is None:
        return ""
    return (error.data.code if error.data is not None else "") or "RpcError"


def _name(status: int) -> str:
    try:
        return HTTPStatus(status).name
    except ValueError:
        return "REFUSED"
