"""The whole network as one ASGI callable: the only file that knows all parts.

    gateway (PubNub protocol) | platform API | /healthz /readyz /metrics
    tasks
    bus, presence, database, blobs, access

The doors do not know each other: the gateway and the tasks meet on the bus, and where the platform owns a channel, an
interceptor that is connected here answers in place of a delivery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

from blocks_network.errors import ConfigurationError
from blocks_network.server.access.apikeys import ALL_SCOPES, ApiKeys
from blocks_network.server.access.authorizer import Authorizer
from blocks_network.server.access.jwts import AccessTokens
from blocks_network.server.access.keysets import Keysets
from blocks_network.server.access.principal import OPERATOR
from blocks_network.server.access.refresh import RefreshTokens
from blocks_network.server.access.revocations import Revocations
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.accesslog import AccessLog
from blocks_network.server.api.app import build_api
from blocks_network.server.api.services import Services
from blocks_network.server.blobs.directory import DirectoryBlobs
from blocks_network.server.blobs.sessions import UploadSessions
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import ROOM_HINT, DataDirectory, Identity
from blocks_network.server.gateway import actions, files, grants, groups, presence
from blocks_network.server.gateway.app import Gateway
from blocks_network.server.gateway.request import Receive, Scope, Send
from blocks_network.server.metrics import CONTENT_TYPE, Metrics
from blocks_network.server.outcomes import Outcome
from blocks_network.server.presence.embedded import EmbeddedPresence
from blocks_network.server.store.database import IN_MEMORY, Database
from blocks_network.server.tasks.service import TaskService
from blocks_network.server.tasks.streams import SETUP_PREFIX, StreamSetups
from blocks_network.server.webhooks.deliverer import Deliverer
from blocks_network.wire.channels import SESSIONS_PREFIX

__all__ = ["Network"]

log = logging.getLogger(__name__)

OWNER_ORG, OWNER_USER = "org_local", "user_local"
"""Who the API key of a node stands for."""
OWN_SCOPES = ALL_SCOPES | {OPERATOR}
TASK_PREFIX = "u."


class Part(Protocol):
    """What is opened before a network can be used, and closed after it."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Network:
    """Built, then `start`, requests, `release`, `stop`. All of it belongs to one event loop.

    `base_url`, `origin` (host:port) and `ssl` are how clients reach it, as the configuration document says. `clock`
    (Unix seconds) is that of bus, presence and tasks: a test's own moves them through hours in no time.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        *,
        directory: DataDirectory | None,
        base_url: str,
        origin: str,
        ssl: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        limits, keysets = config.limits, identity.keysets
        self._database_is_apart = config.database is not None
        self._directory, self._api_key = directory, identity.api_key
        self.metrics = Metrics()
        self._access_log = AccessLog() if config.access_log else None

        # what everything rests on
        self.database = _database(config, directory)
        clock_ns = time.time_ns if clock is time.time else lambda: int(clock() * 1_000_000_000)
        self.bus = EmbeddedBus(directory.bus_path if directory else None, limits, fsync=config.fsync, clock_ns=clock_ns)
        self.presence = EmbeddedPresence(clock, limits=limits)
        self.blobs = DirectoryBlobs(directory.blobs_path if directory else None, capacity_bytes=limits.blobs_bytes)

        # who may do what
        revocations = Revocations(directory.revocations_path if directory else None)
        tokens = CapabilityTokens(revocations, limits=limits)
        authorizer = Authorizer(tokens, skew_s=limits.token_skew_s)
        self.api_keys = ApiKeys(self.database)
        self.access_tokens = AccessTokens(self.database)

        # the brain, and its two doors
        self.webhooks = Deliverer(self.database, limits, allow_private=config.allow_private_webhooks)
        self.tasks = self._make_tasks(config, keysets, tokens, clock)
        self.gateway = Gateway(
            keysets=keysets,
            bus=self.bus,
            presence=self.presence,
            authorizer=authorizer,
            limits=limits,
            public_base=config.public_base,
            observe=self._observe,
        )
        self._open_gateway(tokens)
        self.api = build_api(
            Services(
                keysets=keysets,
                limits=limits,
                database=self.database,
                bus=self.bus,
                presence=self.presence,
                capability_tokens=tokens,
                api_keys=self.api_keys,
                access_tokens=self.access_tokens,
                refresh_tokens=RefreshTokens(self.database),
                tasks=self.tasks,
                blobs=self.blobs,
                public_base=base_url,
                origin=origin,
                ssl=ssl,
                features=config.features,
            ),
            self._observe,
        )
        self._measure()
        self._running, self._ready = AsyncExitStack(), False

    def _make_tasks(
        self, config: NodeConfig, keysets: Keysets, tokens: CapabilityTokens, clock: Callable[[], float]
    ) -> TaskService:
        return TaskService(
            database=self.database,
            bus=self.bus,
            presence=self.presence,
            keysets=keysets,
            capability_tokens=tokens,
            limits=config.limits,
            clock=clock,
            uploads=UploadSessions(blobs=self.blobs, keysets=keysets),
            webhooks=self.webhooks,
            keeps_streams="durable-streams" in config.features,
        )

    def _open_gateway(self, tokens: CapabilityTokens) -> None:
        """The operations that the gateway does not bring itself, and the channels on which the tasks have a say."""
        for operations in (groups, presence, actions):
            operations.routes(self.gateway)
        self.gateway.unattended = (TASK_PREFIX, SETUP_PREFIX, SESSIONS_PREFIX)
        self.gateway.intercept(TASK_PREFIX, self.tasks.intercept)
        self.gateway.intercept(SETUP_PREFIX, StreamSetups(find=self.tasks.living, bus=self.bus, tokens=tokens))
        grants.routes(self.gateway, tokens)
        files.routes(self.gateway, self.blobs)

    async def start(self) -> None:
        """From the disk outwards, so that each part finds what it rests on. A fault closes what was opened."""
        async with AsyncExitStack() as opened:
            for part in (self.database, self.bus, self.presence, self.blobs):
                await self._open(part)
                opened.push_async_callback(part.stop)
            await self.access_tokens.start()
            opened.push_async_callback(self.access_tokens.stop)
            await self.api_keys.ensure(
                self._api_key, org_id=OWNER_ORG, user_id=OWNER_USER, scopes=OWN_SCOPES, label="the node's own"
            )
            # tasks left by the last run go on before the first request
            for brain in (self.webhooks, self.tasks, self.gateway):
                await brain.start()
                opened.push_async_callback(brain.stop)
            self._running = opened.pop_all()
        self._ready = True

    async def _open(self, part: Part) -> None:
        try:
            await (self.database.start(alone=True) if part is self.database else part.start())
        except Exception as fault:
            if self._directory is None:
                raise
            cause = getattr(fault, "orig", None) or fault  # the database's own words, without the statement
            if part is self.database and self._database_is_apart:
                hint = "check that PostgreSQL runs, and what --database says"
                raise ConfigurationError(f"the database cannot be opened: {cause}", hint=hint) from fault
            full = self._directory.is_full  # SQLite speaks of an I/O error at times
            raise ConfigurationError(
                f"the data directory {self._directory.path} cannot be opened: {cause}",
                hint=ROOM_HINT if full else "it may be of a newer version, or damaged; choose another one with --data",
            ) from fault

    async def release(self) -> None:
        """Answers everybody who waits, and lets nobody wait from now on."""
        self._ready = False
        await self.gateway.release()

    async def stop(self) -> None:
        """From the doors to the disk: each part may still write to the ones below it."""
        self._ready = False
        await self._running.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if self.gateway.serves(path):  # first: this is where a network is busy
            await self.gateway(scope, receive, send)
        elif path in ("/healthz", "/readyz", "/metrics"):
            await self._tell_health(path, send)
        else:
            await self.api(scope, receive, send)

    async def _tell_health(self, path: str, send: Send) -> None:
        """`/healthz`: the process answers. `/readyz`: it also takes work, 503 while it does not."""
        status, kind, body = 200, "text/plain; charset=utf-8", b"ok\n"
        if path == "/metrics":
            kind, body = CONTENT_TYPE, self.metrics.render()
        elif path == "/readyz" and not self._ready:
            status, body = 503, b"not ready\n"
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _observe(self, outcome: Outcome) -> None:
        self.metrics.observe(outcome)
        if self._access_log is not None:
            self._access_log(outcome)

    def _measure(self) -> None:
        """What the parts know of themselves."""
        gauge, polls, bus = self.metrics.gauge, self.gateway.polls, self.bus
        gauge("waiting_polls", "Readers that wait for news: polls, and answers that go on", lambda: len(polls))
        gauge("tail_bytes", "Memory of the newest messages of all channels", lambda: bus.tails_bytes)
        gauge("log_lag_seconds", "Age of the oldest message that is not visible yet", lambda: bus.lag_s)
        gauge("log_backlog", "Appends that the log has still to write", lambda: bus.backlog)
        gauge("presence_records", "Places held in presence, each a uuid on a channel", lambda: self.presence.records)
        self.metrics.counter("delivered_messages", "Messages handed to readers", lambda: polls.delivered)
        bus.follow("", self.metrics.published)


def _database(config: NodeConfig, directory: DataDirectory | None) -> Database:
    kept = directory.database_url if directory else IN_MEMORY
    try:
        return Database(config.database or kept, fsync=config.fsync)
    except ValueError as fault:
        raise ConfigurationError(str(fault), hint="write it as postgresql://USER@HOST/NAME") from None
