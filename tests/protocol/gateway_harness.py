"""A gateway on a port, and unmodified `pubnub` clients for it.

The node has the gateway, the bus, presence and files alone, each the real part, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from pubnub.callbacks import SubscribeCallback
from pubnub.enums import PNStatusCategory
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub

from blocks_network.server.access.authorizer import Authorizer
from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.blobs.directory import DirectoryBlobs
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.gateway import actions, files, grants, groups, presence
from blocks_network.server.gateway.app import Gateway
from blocks_network.server.gateway.polls import Poll
from blocks_network.server.http.listener import Listener, bind
from blocks_network.server.limits import Limits
from blocks_network.server.presence.embedded import EmbeddedPresence

__all__ = ["DEADLINE_S", "Ear", "GatewayNode", "NodeOf", "listen"]

T = TypeVar("T")

DEADLINE_S = 10.0
"""No wait of a test is longer; what is waited for comes within milliseconds."""


class GatewayNode:
    """`keyset` has access control, `open_keyset` has none. `origin` is host:port."""

    def __init__(self, limits: Limits | None = None, *, directory: Path | None = None) -> None:
        self.limits = limits or Limits(hold_s=20.0)
        self.keyset = Keyset("network", "pub-c-network", "sub-c-network", "sec-c-network")
        self.open_keyset = Keyset("playground", "pub-c-open", "sub-c-open", "sec-c-open", access_control=False)
        self.tokens = CapabilityTokens(limits=self.limits)
        self.bus: EmbeddedBus
        self.presence: EmbeddedPresence
        self.gateway: Gateway
        self.origin = ""
        self._directory, self._ahead_s = directory, 0.0
        self._clients: list[PubNub] = []
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._ending: asyncio.Event
        self._fault: BaseException | None = None
        self._held = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="gateway-node", daemon=True)

    # -- its life --------------------------------------------------------------------------------------------------

    def start(self) -> GatewayNode:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self._fault is not None:
            raise self._fault
        return self

    def __enter__(self) -> GatewayNode:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Clients first, so that none of them tries to come back. May be repeated."""
        for client in self._clients:
            client.stop()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(DEADLINE_S)
            assert not self._thread.is_alive(), self._where()
        self._clients.clear()

    def _where(self) -> str:
        """What the node does now, for a test that waited for its end in vain: its thread's stack, and its tasks."""
        assert self._thread.ident is not None
        stack = traceback.format_stack(sys._current_frames()[self._thread.ident])
        return "\n".join(["".join(stack), *map(repr, asyncio.all_tasks(self._loop))])

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())  # as the network itself does
        except BaseException as fault:
            self._fault = fault
            self._ready.set()
            raise

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        self.bus = EmbeddedBus(self._directory / "bus.db" if self._directory else None, self.limits)
        self.presence = EmbeddedPresence(lambda: time.time() + self._ahead_s, limits=self.limits)
        blobs = DirectoryBlobs(self._directory / "blobs" if self._directory else None)
        self.gateway = self._gateway(blobs)
        parts = (self.bus, self.presence, blobs, self.gateway)
        for part in parts:
            await part.start()
        sock = bind("127.0.0.1", 0)
        self.origin = f"127.0.0.1:{sock.getsockname()[1]}"
        listener = Listener(self.gateway, sock, keep_alive_s=75)
        await listener.start()
        self._ready.set()
        await self._ending.wait()
        listener.refuse()  # first, so that nobody polls again when the polls are answered
        await self.gateway.release()
        await listener.drain(5)
        for part in reversed(parts):
            await part.stop()

    def _gateway(self, blobs: DirectoryBlobs) -> Gateway:
        gateway = Gateway(
            keysets=Keysets([self.keyset, self.open_keyset]),
            bus=self.bus,
            presence=self.presence,
            authorizer=Authorizer(self.tokens, skew_s=self.limits.token_skew_s),
            limits=self.limits,
        )
        hold = gateway.polls.hold

        def hold_and_tell(poll: Poll) -> None:
            hold(poll)
            with self._held:
                self._held.notify_all()

        gateway.polls.hold = hold_and_tell  # type: ignore[method-assign]
        groups.routes(gateway)
        presence.routes(gateway)
        actions.routes(gateway)
        grants.routes(gateway, self.tokens)
        files.routes(gateway, blobs)
        return gateway

    # -- what a test does with it ----------------------------------------------------------------------------------

    def mint(self, *, ttl_minutes: int = 60, **kwargs: Any) -> str:
        """A capability token for `keyset`; the arguments are those of `CapabilityTokens.mint`."""
        return self.tokens.mint(self.keyset, ttl_minutes=ttl_minutes, **kwargs)

    def client(
        self,
        uuid: str,
        *,
        token: str | None = None,
        secret: bool = False,
        keyset: Keyset | None = None,
        **settings: Any,
    ) -> PubNub:
        """The sync client, on `keyset` when it has a token or the secret, else on `open_keyset`.

        `settings` are attributes of its configuration.
        """
        keyset = keyset or (self.keyset if token or secret else self.open_keyset)
        config = PNConfiguration()
        config.publish_key, config.subscribe_key = keyset.publish_key, keyset.subscribe_key
        if secret:
            config.secret_key = keyset.secret_key
        config.uuid, config.origin, config.ssl, config.daemon = uuid, self.origin, False, True
        for name, value in settings.items():
            setattr(config, name, value)
        client = PubNub(config)
        if token:
            client.set_token(token)
        self._clients.append(client)
        return client

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
        """A bare request: its status and the JSON of its answer."""
        connection = http.client.HTTPConnection(self.origin, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def wait_held(self, number: int) -> None:
        """Returns when so many polls wait for news."""
        with self._held:
            assert self._held.wait_for(lambda: len(self.gateway.polls) >= number, DEADLINE_S)

    def call(self, function: Callable[[], T]) -> T:
        """Runs it in the node's loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Runs what it returns in the node's loop, to its end."""

        async def run() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def pass_time(self, seconds: float) -> None:
        """For presence: its clock jumps ahead, and who is due has gone when this returns."""

        def jump() -> None:
            self._ahead_s += seconds
            self.presence.expire()

        self.call(jump)


class Ear(SubscribeCallback):
    """A listener whose `messages`, `events` (of presence) and `statuses` a test takes one by one."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        self.events: queue.Queue[Any] = queue.Queue()
        self.statuses: queue.Queue[Any] = queue.Queue()
        self._connected = threading.Event()

    def message(self, pubnub: PubNub, message: Any) -> None:
        self.messages.put(message)

    def presence(self, pubnub: PubNub, presence: Any) -> None:
        self.events.put(presence)

    def status(self, pubnub: PubNub, status: Any) -> None:
        self.statuses.put(status)
        if status.category is PNStatusCategory.PNConnectedCategory:
            self._connected.set()

    def next_message(self) -> Any:
        return self.messages.get(timeout=DEADLINE_S)

    def next_event(self) -> Any:
        return self.events.get(timeout=DEADLINE_S)

    def wait_connected(self) -> None:
        assert self._connected.wait(DEADLINE_S), list(self.statuses.queue)

    def wait_status(self, category: PNStatusCategory) -> Any:
        """The first status of that category; others are skipped."""
        while True:
            status = self.statuses.get(timeout=DEADLINE_S)
            if status.category is category:
                return status


def listen(client: PubNub, channels: Iterable[str] = (), groups: Iterable[str] = (), *, presence: bool = False) -> Ear:
    """Subscribes, and returns when the client is connected."""
    ear = Ear()
    client.add_listener(ear)
    builder = client.subscribe().channels(list(channels)).channel_groups(list(groups))
    if presence:
        builder = builder.with_presence()
    builder.execute()
    ear.wait_connected()
    return ear


NodeOf = Callable[[Limits], GatewayNode]
"""Starts a gateway with these limits, for as long as the test runs."""
