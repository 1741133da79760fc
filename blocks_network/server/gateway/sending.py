"""How an answer leaves: whole, in chunks, or later than its request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from blocks_network.server.gateway.reply import Reply
from blocks_network.server.gateway.request import Request, Scope, Send, is_from_browser
from blocks_network.server.http.answering import answering_of, head_of

__all__ = ["Held", "Streamed", "headers_of", "send_preflight", "send_reply", "send_streamed"]

_EVERY_ANSWER = [(b"cache-control", b"no-cache")]
_TO_BROWSERS = [
    *_EVERY_ANSWER,
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"Origin, X-Requested-With, Content-Type, Accept"),
    (b"access-control-expose-headers", b"*"),
]
_PREFLIGHT = [*_TO_BROWSERS, (b"access-control-max-age", b"86400"), (b"content-length", b"0")]


@dataclass(slots=True)
class Streamed:
    """A file on its way out: its `chunks` are sent as they come. `length_bytes` None leaves the length open."""

    status: int
    chunks: AsyncIterator[bytes]
    content_type: str
    length_bytes: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Held:
    """An answer that comes later: the request's own task waits for its client's end, whoever answers sends.

    So a waiting request costs one task and no timer. `left` is called when it is answered, or its client has gone.
    """

    __slots__ = ("_scope", "_send", "_sending", "answered")

    def __init__(self) -> None:
        self.answered: Reply | None = None
        self._scope: Scope = {}
        self._send: Send | None = None
        self._sending: asyncio.Task[None] | None = None

    def answer(self, reply: Reply) -> bool:
        """Sends the reply; only the first one counts. Must be called in the loop. False when it is not sent."""
        if self.answered is not None:
            return False
        self.answered = reply
        self.left()
        if self._send is not None and not _sent_whole(self._scope, reply):
            self._sending = asyncio.get_running_loop().create_task(send_reply(self._scope, self._send, reply))
        return True

    def left(self) -> None:
        """It is answered, or its client has gone: gives up what it holds. May be called again."""

    async def run(self, request: Request, send: Send) -> None:
        """Returns when the answer is sent or the client has gone."""
        try:
            if self.answered is not None:
                await send_reply(request.scope, send, self.answered)
                return
            self._scope, self._send = request.scope, send
            await request.gone()
            if self._sending is not None:
                await self._sending
        finally:
            self._scope, self._send = {}, None
            self.left()


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    """To a browser with the headers that let its pages read the answer; every other client would only parse them."""
    if _sent_whole(scope, reply):
        return
    headers = [(b"content-length", b"%d" % len(reply.body)), *headers_of(scope, reply)]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _sent_whole(scope: Scope, reply: Reply) -> bool:
    answering = answering_of(scope)
    return answering is not None and answering.whole(reply.status, head_of(*headers_of(scope, reply)), reply.body)


def headers_of(scope: Scope, reply: Reply) -> list[tuple[bytes, bytes]]:
    """All but those that say how long it is."""
    common = _TO_BROWSERS if is_from_browser(scope) else _EVERY_ANSWER
    headers = [(b"content-type", reply.content_type.encode("latin-1")), *common]
    return _with(headers, reply.headers) if reply.headers else headers


async def send_streamed(send: Send, streamed: Streamed, browser: bool) -> None:
    common = _TO_BROWSERS if browser else _EVERY_ANSWER
    headers = [(b"content-type", streamed.content_type.encode("latin-1")), *common]
    if streamed.length_bytes is not None:
        headers.append((b"content-length", b"%d" % streamed.length_bytes))
    await send({"type": "http.response.start", "status": streamed.status, "headers": _with(headers, streamed.headers)})
    async for chunk in streamed.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def send_preflight(send: Send) -> None:
    """The answer to a browser that asks what it may send."""
    await send({"type": "http.response.start", "status": 200, "headers": _PREFLIGHT})
    await send({"type": "http.response.body", "body": b""})


def _with(headers: list[tuple[bytes, bytes]], extra: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Extra headers take the place of ours of the same name."""
    given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in extra.items()]
    names = {name for name, _ in given}
    return [header for header in headers if header[0] not in names] + given
