"""The gateway: one ASGI callable that routes requests of the PubNub protocol to its operations.

How an operation is added (presence, groups, grants, actions, files do it in their `routes(gateway)`):

    async def here_now(request: Request, keyset: Keyset) -> Reply:
        channels = request.names(4)                     # raw path segments count from 0: /v2/presence/sub-key/{sub}/...
        gateway.authorize(request, keyset, [Need(name, Bits.READ) for name in channels])
        return json_reply({"status": 200, "message": "OK", "service": "Presence"})

    gateway.add("GET", "/v2/presence/sub-key/{sub}/channel/{channels}", here_now, service="Presence")

- A handler is `async def (request, keyset) -> Reply | Streamed | Held`. The pattern holds `{sub}` exactly once; the
  gateway has found the keyset by it, and has answered an unknown one. Bound methods are fine.
- A path without a subscribe key (an upload form, a signed download) goes in by `add_open`; its handler takes the
  request alone.
- The first literal of the path decides before a parameter does. Segments are compared undecoded.
- Refusals are raised (`reply.Refusal` and its makers). Anything else that escapes is logged and answered with 500.
- `authorize` returns the request's grant, or raises the 403. A body takes part in signatures: pass it.
- `Streamed` sends chunks (a file), `Held` answers later (a poll).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from blocks_network.server.access.authorizer import Denied, Need
from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.bus import Bus, BusFull, Interceptor
from blocks_network.server.gateway import batch, history, publish, subscribe, time
from blocks_network.server.gateway.polls import Polls
from blocks_network.server.gateway.refusals import denial, unavailable, unknown_keyset
from blocks_network.server.gateway.reply import Refusal, Reply, json_reply, not_found
from blocks_network.server.gateway.request import Receive, Request, Scope, Send
from blocks_network.server.gateway.routing import Answer, Handler, OpenHandler, Route, Routes
from blocks_network.server.gateway.sending import Held, Streamed, send_preflight, send_reply, send_streamed
from blocks_network.server.limits import Limits
from blocks_network.server.outcomes import Observe, Outcome
from blocks_network.server.presence import Presence

if TYPE_CHECKING:
    from blocks_network.server.access.authorizer import Authorizer, Grant

__all__ = ["Gateway", "Groups", "Part"]

log = logging.getLogger(__name__)


class Groups(Protocol):
    """Channel groups, as subscribing needs them. Implemented by `gateway/memberships.py`."""

    def channels_of(self, keyset: str, group: str) -> Collection[str]:
        """The members as they are now; empty for an unknown group. `keyset` is the subscribe key."""

    def on_change(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        """Calls `changed(keyset, group)` in the loop after a group's members changed. Returns the way to stop."""


class Part(Protocol):
    """Something of an operation's own that lives as long as the gateway is open."""

    async def start(self) -> None:
        """The bus and presence have been started."""

    async def stop(self) -> None:
        """The bus still runs. May be repeated."""


class Gateway:
    """Serves the PubNub protocol. All but the constructor belongs to one event loop.

    `public_base` is the address that clients reach it by, behind a proxy ("https://host"); without it each
    request's own.
    """

    def __init__(
        self,
        *,
        keysets: Keysets,
        bus: Bus,
        presence: Presence,
        authorizer: Authorizer | None,
        limits: Limits,
        public_base: str | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.keysets, self.bus, self.presence, self.limits = keysets, bus, presence, limits
        self.authorizer, self.public_base, self.observe = authorizer, public_base, observe
        self.groups: Groups | None = None
        """Set once, before `start`, by `gateway/groups.py`."""
        self.interceptors: dict[str, Interceptor] = {}
        self.unattended: tuple[str, ...] = ()
        """Channels that start so have no presence: nobody asks who reads them, and they are many."""
        self.polls = Polls(bus, limits)
        self.publishing: publish.Publishing
        """Set by `publish.routes`; for other operations that let a client publish."""
        self._routes = Routes()
        self._parts: list[Part] = []
        self._stops: list[Callable[[], None]] = []
        for operations in (publish, batch, subscribe, history, time):
            operations.routes(self)

    # -- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to hear the bus. The bus and presence have been started, and all routes are added."""
        for part in self._parts:
            await part.start()
        self._stops.append(self.bus.follow("", self.polls.deliver, self.polls.settled))
        if self.groups is not None:
            groups = self.groups
            self._stops.append(groups.on_change(lambda keyset, group: self.polls.regroup(groups, keyset, group)))
        if self.authorizer is not None:
            self.authorizer.on_revoked(self.polls.revoked)

    async def release(self) -> None:
        """Answers all waiting polls, and every poll from now on, at once with an empty list."""
        self.polls.release()

    async def stop(self) -> None:
        """Releases, and hears the bus no more. The bus is stopped after it. May be repeated."""
        self.polls.release()
        for part in reversed(self._parts):
            await part.stop()
        for stop in self._stops:
            stop()
        self._stops.clear()
        self.polls.stop()

    # -- what is served ------------------------------------------------------------------------------------------

    def add(self, method: str, pattern: str, handler: Handler, *, service: str, operation: str = "") -> None:
        """Serves a path that names its subscribe key as `{sub}`. ValueError when it is served already."""
        keyset_at = pattern.split("/")[1:].index("{sub}")
        name = operation or getattr(handler, "__name__", service).strip("_")
        self._routes.add(method, pattern, Route(name, service, keyset_at, handler=handler))

    def add_open(self, method: str, pattern: str, handler: OpenHandler, *, service: str, operation: str = "") -> None:
        """Serves a path without a subscribe key; nothing was checked before the handler runs."""
        name = operation or getattr(handler, "__name__", service).strip("_")
        self._routes.add(method, pattern, Route(name, service, -1, open_handler=handler))

    def own(self, part: Part) -> None:
        """Starts and stops the part with the gateway, in the order of these calls and back."""
        self._parts.append(part)

    def intercept(self, prefix: str, interceptor: Interceptor) -> None:
        """Asks the interceptor before a publish to a channel whose name begins with `prefix`."""
        self.interceptors[prefix] = interceptor

    @property
    def operations(self) -> list[tuple[str, str]]:
        """(method, pattern) of everything that is served."""
        return self._routes.patterns

    def serves(self, path: str) -> bool:
        """Whether this door answers the path, be it with 404: its first segment is one of the protocol's."""
        return self._routes.opens_with(path.split("/", 2)[1].encode() if path.startswith("/") else b"")

    def base_of(self, request: Request) -> str:
        """The absolute address, without a slash at the end, under which this client reaches the gateway."""
        if self.public_base:
            return self.public_base.rstrip("/")
        host = request.header("host")
        if not host:
            address, port = request.scope.get("server") or ("127.0.0.1", 80)
            host = f"{address}:{port}"
        return f"{request.scope.get('scheme', 'http')}://{host}"

    # -- what is allowed -----------------------------------------------------------------------------------------

    def authorize(
        self,
        request: Request,
        keyset: Keyset,
        needs: Sequence[Need],
        body: bytes = b"",
        *,
        signature_only: bool = False,
        query: Mapping[str, str] | None = None,
    ) -> Grant | None:
        """The request's grant; raises the 403 when a signature, the token or a permission is missing.

        None on a keyset without access control. With `signature_only` no token is enough. `query` stands in for the
        request's own.
        """
        if not keyset.access_control and not signature_only:
            return None
        if self.authorizer is None:
            raise denial(Denied())
        try:
            return self.authorizer.check(
                keyset,
                method=request.method,
                raw_path=request.raw_path,
                raw_query=request.raw_query,
                query=request.query if query is None else query,
                body=body,
                needs=needs,
                signature_only=signature_only,
            )
        except Denied as denied:
            raise denial(denied) from None

    def permitted(self, request: Request, keyset: Keyset, needs: Sequence[Need]) -> list[Need]:
        """Those of the needs that the request is allowed; raises the 403 only where it proves nothing at all."""
        self.authorize(request, keyset, ())
        allowed = []
        for need in needs:
            try:
                self.authorize(request, keyset, (need,))
            except Refusal:
                continue
            allowed.append(need)
        return allowed

    # -- one request ---------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        operation, reason, held = "none", "", False
        try:
            if scope["method"] == "OPTIONS":
                await send_preflight(send)
                return
            request = Request(scope, receive, self.limits)
            route = self._routes.find(request.method, request.pieces)
            if route is None:
                raise not_found()
            operation, request.service = route.operation, route.service
            answer = await self._ask(route, request)
            held = isinstance(answer, Held)
            status = await self._send(answer, request, send)
        except Refusal as refusal:
            status, reason = refusal.reply.status, refusal.reason
            await send_reply(scope, send, refusal.reply)
        except BusFull as full:
            log.warning("%s refused: %s", operation, full)
            status, reason = 503, "full"
            await send_reply(scope, send, unavailable())
        except ConnectionError:
            status, reason = 499, "gone"  # the client left before it was answered
        except Exception:  # the edge: a fault of one request must not end its connection without an answer
            log.exception("%s failed", operation)
            status, reason = 500, "fault"
            body = {"status": 500, "error": True, "message": "Internal error"}
            await send_reply(scope, send, json_reply(body, 500))
        if self.observe is not None:
            client: str = (scope.get("client") or ("", 0))[0]
            seconds = perf_counter() - began
            self.observe(Outcome("gateway", operation, scope["method"], client, status, reason, seconds, held))

    async def _ask(self, route: Route, request: Request) -> Answer:
        if route.open_handler is not None:
            return await route.open_handler(request)
        assert route.handler is not None
        keyset = self.keysets.by_subscribe_key(request.pieces[route.keyset_at].decode("latin-1"))
        if keyset is None:
            raise unknown_keyset()
        return await route.handler(request, keyset)

    async def _send(self, answer: Answer, request: Request, send: Send) -> int:
        """Returns the status for the metrics."""
        if isinstance(answer, Reply):
            await send_reply(request.scope, send, answer)
            return answer.status
        if isinstance(answer, Streamed):
            await send_streamed(send, answer, request.from_browser)
            return answer.status
        await answer.run(request, send)
        return answer.answered.status if answer.answered is not None else 499
