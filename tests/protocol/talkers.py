"""The two Python clients of `pubnub` behind one front, so that a test can be run with both.

    talker.do(lambda client: client.publish().channel("room").message("hello")).timetoken

`SyncTalker` is `PubNub` with its threads, `AsyncTalker` is `PubNubAsyncio` with the Event Engine in a loop of its own.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway_harness import DEADLINE_S, Ear, GatewayNode
from pubnub.enums import PNReconnectionPolicy
from pubnub.exceptions import PubNubAsyncioException, PubNubException
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub_asyncio import PubNubAsyncio

__all__ = ["AsyncTalker", "FullEar", "Refused", "SyncTalker", "Talker", "TalkerFactory"]

Build = Callable[[Any], Any]
QUICK = {"reconnect_policy": PNReconnectionPolicy.LINEAR, "reconnection_interval": 0}
"""Clients come back at once after a failure (10.8 adds up to a second), in place of 4 s and more."""


class Refused(Exception):
    """The network said no: `status` of HTTP and the JSON of the answer as far as the client hands it out."""

    def __init__(self, status: int | None, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class FullEar(Ear):
    """Also takes signals, and knows which thread told the latest status."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: queue.Queue[Any] = queue.Queue()
        self._teller: threading.Thread | None = None

    def status(self, pubnub: Any, status: Any) -> None:
        self._teller = threading.current_thread()
        super().status(pubnub, status)

    def wait_told(self) -> None:
        """Until the sync client has done what follows a failed poll; it does so in that poll's own thread."""
        assert self._teller is not None
        self._teller.join(DEADLINE_S)

    def signal(self, pubnub: Any, signal: Any) -> None:
        self.signals.put(signal)

    def next_signal(self) -> Any:
        return self.signals.get(timeout=DEADLINE_S)


class Talker(Protocol):
    """What tests do with either client."""

    def do(self, build: Build) -> Any:
        """Builds a call on the client and makes it: its result. Refused when the network refuses."""

    def listen(
        self,
        channels: Iterable[str] = (),
        groups: Iterable[str] = (),
        *,
        presence: bool = False,
        since: int | None = None,
        wait: bool = True,
    ) -> FullEar:
        """Subscribes, and returns when the client is connected, or with `wait` off at once."""

    def use(self, token: str) -> None:
        """From the next request on."""


TalkerFactory = Callable[..., Talker]
"""`talker("u1", token=..., secret=..., **settings)`, closed when the test ends."""


def _subscribe(client: Any, ear: FullEar, channels: Any, groups: Any, presence: bool, since: int | None) -> None:
    client.add_listener(ear)
    builder = client.subscribe().channels(list(channels)).channel_groups(list(groups))
    if presence:
        builder = builder.with_presence()
    if since is not None:
        builder = builder.with_timetoken(since)
    builder.execute()


class SyncTalker:
    def __init__(self, gateway: GatewayNode, uuid: str, **settings: Any) -> None:
        self.client = gateway.client(uuid, **{**QUICK, **settings})

    def do(self, build: Build) -> Any:
        try:
            return build(self.client).sync().result
        except PubNubException as fault:
            raise Refused(int(fault.get_status_code()), fault._errormsg) from fault

    def listen(
        self,
        channels: Iterable[str] = (),
        groups: Iterable[str] = (),
        *,
        presence: bool = False,
        since: int | None = None,
        wait: bool = True,
    ) -> FullEar:
        ear = FullEar()
        _subscribe(self.client, ear, channels, groups, presence, since)
        if wait:
            ear.wait_connected()
        return ear

    def use(self, token: str) -> None:
        self.client.set_token(token)

    def close(self) -> None:
        """The node closes it with all its others."""


class AsyncTalker:
    """One thread runs the loop; the client lives in it alone, and listeners are called in it."""

    def __init__(
        self,
        gateway: GatewayNode,
        uuid: str,
        *,
        token: str | None = None,
        secret: bool = False,
        **settings: Any,
    ) -> None:
        keyset = gateway.keyset if token or secret else gateway.open_keyset
        self._config = PNConfiguration()
        self._config.publish_key, self._config.subscribe_key = keyset.publish_key, keyset.subscribe_key
        if secret:
            self._config.secret_key = keyset.secret_key
        self._config.uuid, self._config.origin, self._config.ssl = uuid, gateway.origin, False
        for name, value in {**QUICK, **settings}.items():
            setattr(self._config, name, value)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"async-talker-{uuid}", daemon=True)
        self._thread.start()
        self.client = self._run(self._make(token))

    async def _make(self, token: str | None) -> PubNubAsyncio:
        client = PubNubAsyncio(self._config, custom_event_loop=self._loop)
        client._subscription_manager.loop.close()  # made by the library, never used, and left open
        if token:
            client.set_token(token)
        return client

    def _run(self, call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(DEADLINE_S)

    def do(self, build: Build) -> Any:
        async def made() -> Any:
            return await build(self.client).future()

        envelope = self._run(made())
        if isinstance(envelope, PubNubAsyncioException):  # the library returns it
            status = envelope.status
            cause = getattr(status.error_data, "exception", None)
            raise Refused(status.status_code, getattr(cause, "_errormsg", "") or str(cause))
        return envelope.result

    def listen(
        self,
        channels: Iterable[str] = (),
        groups: Iterable[str] = (),
        *,
        presence: bool = False,
        since: int | None = None,
        wait: bool = True,
    ) -> FullEar:
        ear = FullEar()

        async def subscribed() -> None:
            _subscribe(self.client, ear, channels, groups, presence, since)

        self._run(subscribed())
        if wait:
            ear.wait_connected()
        return ear

    def use(self, token: str) -> None:
        async def used() -> None:
            self.client.set_token(token)

        self._run(used())

    def close(self) -> None:
        async def closed() -> None:
            await self.client.stop()
            this = asyncio.current_task()
            while rest := [task for task in asyncio.all_tasks() if task is not this]:  # the client may start more
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)

        self._run(closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()
