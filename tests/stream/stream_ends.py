"""What the streams' tests hold: both ends of a stream on a gateway, and a gate between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

from gateway_harness import DEADLINE_S, GatewayNode

from blocks_network.server.bus import Answered, Draft
from blocks_network.stream import StreamClient
from blocks_network.transport.pubnub import PubNubKeys

__all__ = ["DEADLINE_S", "Ends", "Gate"]


class Gate:
    """Stands before the stream channels: sees each frame that arrives, and can hold them or answer in their place."""

    def __init__(self, node: GatewayNode) -> None:
        self._node = node
        self._changed = threading.Condition()
        self.frames: list[dict[str, Any]] = []
        self._open = asyncio.Event()
        self._open.set()
        self.answer: Callable[[dict[str, Any]], Answered | None] = lambda frame: None
        node.gateway.intercept("stream.", self)

    async def __call__(self, draft: Draft) -> Answered | None:
        frame = json.loads(draft.payload)
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()
        await self._open.wait()
        return self.answer(frame)

    def shut(self) -> None:
        self._node.call(self._open.clear)

    def open(self) -> None:
        self._node.call(self._open.set)

    def wait_frames(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.frames) >= number, DEADLINE_S), self.frames


class Ends:
    """Makes clients of streams on the gateway's open keyset; all are ended with the test."""

    def __init__(self, node: GatewayNode) -> None:
        self._node, self._clients = node, list[StreamClient]()
        self._numbers = itertools.count(1)
        self.stream_id = "t1-1"

    @property
    def keys(self) -> PubNubKeys:
        keyset = self._node.open_keyset
        return PubNubKeys(keyset.subscribe_key, keyset.publish_key, self._node.origin, False)

    def _make(self, direction: str, options: dict[str, Any]) -> StreamClient:
        settings = {"agent_name": "acme", "stream_id": self.stream_id, "token": None, "keys": self.keys, **options}
        client = StreamClient(direction=direction, **settings)
        self._clients.append(client)
        return client

    def writer(self, **options: Any) -> StreamClient:
        return self._make("outbound", options)

    def reader(self, **options: Any) -> StreamClient:
        return self._make("inbound", options)

    def both(self, **options: Any) -> StreamClient:
        return self._make("bidirectional", options)

    def close(self) -> None:
        for client in self._clients:
            client.end(timeout_s=1)
