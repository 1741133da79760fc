"""Live data beside a task, both ends. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blocks_network.stream.client import StreamClient
    from blocks_network.stream.descriptor import StreamDescriptor, invert_direction
    from blocks_network.stream.errors import StreamEndedError, StreamError, StreamFullError
    from blocks_network.stream.inbox import InboundMessage
    from blocks_network.stream.refs import StreamRef

__all__ = [
    "StreamClient",
    "StreamDescriptor",
    "StreamError",
    "invert_direction",
    "InboundMessage",
    "StreamRef",
    "StreamEndedError",
    "StreamFullError",
]

_HOMES = {
    "StreamClient": "client",
    "StreamDescriptor": "descriptor",
    "StreamError": "errors",
    "invert_direction": "descriptor",
    "InboundMessage": "inbox",
    "StreamRef": "refs",
    "StreamEndedError": "errors",
    "StreamFullError": "errors",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"blocks_network.stream.{_HOMES[name]}"), name)
