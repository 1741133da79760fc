"""Which handler serves a path: a tree over the raw path segments, literals before parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.gateway.reply import Reply
from blocks_network.server.gateway.request import Request
from blocks_network.server.gateway.sending import Held, Streamed

__all__ = ["Answer", "Handler", "OpenHandler", "Route", "Routes"]

Answer: TypeAlias = Reply | Streamed | Held
Handler = Callable[[Request, Keyset], Awaitable[Answer]]
OpenHandler = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. Exactly one of `handler` (for a keyset) and `open_handler` (for none) is set."""

    operation: str
    """Its name in the metrics."""
    service: str
    """Its name in error bodies."""
    keyset_at: int
    """The index of the subscribe key among the path's segments; -1 without one."""
    handler: Handler | None = None
    open_handler: OpenHandler | None = None


class _Node:
    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}


class Routes:
    """Patterns are paths whose parameters stand in braces, as "/v2/subscribe/{sub}/{channels}/0"."""

    def __init__(self) -> None:
        self._root = _Node()
        self.patterns: list[tuple[str, str]] = []
        """(method, pattern) of each route, in the order in which they were added."""

    def add(self, method: str, pattern: str, route: Route) -> None:
        node = self._root
        for segment in pattern.split("/")[1:]:
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment.encode(), _Node())
        if method in node.routes:
            raise ValueError(f"{method} {pattern} is served already")
        node.routes[method] = route
        self.patterns.append((method, pattern))

    def find(self, method: str, pieces: list[bytes]) -> Route | None:
        """None when nothing serves this path with this method."""
        node: _Node | None = self._root
        for piece in pieces:
            assert node is not None
            node = node.literals.get(piece) or node.parameter
            if node is None:
                return None
        return node.routes.get(method) if node is not None else None

    def opens_with(self, segment: bytes) -> bool:
        """Whether some pattern's first segment is this literal."""
        return segment in self._root.literals
