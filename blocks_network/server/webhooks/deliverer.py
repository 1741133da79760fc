"""The deliverer: takes deliveries from the database as they become due, and tries each until it has arrived.

At least once: an attempt is noted after its answer, so a crash between the two repeats it, under the same id. A
delivery is tried for a day, with growing pauses. Those of one organisation do not hold up another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from blocks_network.backoff import Backoff
from blocks_network.server.limits import Limits
from blocks_network.server.store import webhooks as store
from blocks_network.server.store.database import Database, StoreFault
from blocks_network.server.store.webhooks import DELIVERED, FAILED, PENDING, Delivery
from blocks_network.server.webhooks.config import Webhook
from blocks_network.server.webhooks.sender import Outcome, Sender
from blocks_network.server.webhooks.signing import signed_headers
from blocks_network.server.webhooks.targets import Resolve, look_up
from blocks_network.wire.versions import SDK_VERSION

__all__ = ["Deliverer"]

log = logging.getLogger(__name__)

HEADERS = {"Content-Type": "application/json", "User-Agent": f"blocks-network/{SDK_VERSION}"}
CLAIM_MARGIN_S = 15.0
"""Beyond an attempt's own time: after a crash its delivery is due again when both are over."""
PRUNE_EVERY_S = 60 * 60
STORE_RETRY = Backoff(first_s=0.5, cap_s=30)


class Deliverer:
    """Belongs to the event loop that `start` ran on; the database runs already then. `clock` gives Unix seconds."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        *,
        allow_private: bool = False,
        resolve: Resolve = look_up,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._limits, self._allow_private, self._clock = database, limits, allow_private, clock
        self._sender = Sender(limits, allow_private=allow_private, resolve=resolve)
        self._retry = Backoff(limits.webhook_retry_first_s, 3, limits.webhook_retry_cap_s)
        self._under_way: dict[asyncio.Task[None], Delivery] = {}
        self._wanted = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._ending = False
        self._prune_at_s = 0.0

    def read(self, wire: object) -> Webhook:
        """SendMessage's `pushNotificationConfig`. ValueError names what is wrong, also an address that is refused."""
        return Webhook.from_wire(wire, allow_private=self._allow_private)

    async def start(self) -> None:
        self._ending = False
        self._loop_task = asyncio.get_running_loop().create_task(self._run(), name="blocks-webhooks")

    async def stop(self) -> None:
        """Attempts under way are given up, and due again at the next start. The database still runs."""
        if self._loop_task is None:
            return
        self._ending = True  # a cancel that comes with a wake-up is lost by asyncio.wait_for, before Python 3.12
        deliveries = [delivery.delivery_id for delivery in self._under_way.values()]
        ending = [self._loop_task, *self._under_way]
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        self._loop_task = None
        now_ms = self._now_ms()
        try:
            await self._database.write(lambda connection: store.release(connection, deliveries, now_ms))
        except (StoreFault, RuntimeError) as fault:
            log.warning("%d webhook deliveries wait for their claims to end: %s", len(deliveries), fault)
        await self._sender.close()

    def wake(self) -> None:
        """There are new deliveries in the database."""
        self._wanted.set()

    async def _run(self) -> None:
        failures = 0
        while not self._ending:
            self._wanted.clear()
            try:
                due_ms = await self._take()
                failures = 0
            except (StoreFault, RuntimeError) as fault:
                failures += 1
                log.error("webhook deliveries cannot be read: %s", fault)
                due_ms = self._now_ms() + int(STORE_RETRY.delay(failures) * 1000)
            pause_s = self._prune_at_s - self._clock()
            if due_ms is not None:
                pause_s = min(pause_s, due_ms / 1000 - self._clock())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), max(0.001, pause_s))

    async def _take(self) -> int | None:
        """Begins what is due and has room; the instant (Unix ms) at which something else is due."""
        now_ms = self._now_ms()
        if self._prune_at_s <= self._clock():
            self._prune_at_s = self._clock() + PRUNE_EVERY_S
            ended_before_ms = now_ms - int(self._limits.webhook_log_s * 1000)
            await self._database.write(partial(store.prune, before_ms=ended_before_ms))
        room = self._limits.webhooks_at_once - len(self._under_way)
        if room <= 0:
            return None  # the end of an attempt wakes us
        per_org = self._limits.webhooks_at_once_per_org
        until_ms = now_ms + int((self._limits.webhook_timeout_s + CLAIM_MARGIN_S) * 1000)

        def take(connection: store.Connection) -> tuple[list[Delivery], int | None]:
            running = Counter(delivery.org_id for delivery in under_way)
            claimed = store.claim(
                connection, now_ms=now_ms, until_ms=until_ms, room=room, running=running, per_org=per_org
            )
            running.update(delivery.org_id for delivery in claimed)
            return claimed, store.next_due_ms(connection, running=running, per_org=per_org)

        under_way = list(self._under_way.values())
        claimed, due_ms = await self._database.write(take)
        loop = asyncio.get_running_loop()
        for delivery in claimed:
            task = loop.create_task(self._deliver(delivery), name=f"blocks-webhook-{delivery.delivery_id}")
            self._under_way[task] = delivery
            task.add_done_callback(self._ended)
        full = len(self._under_way) >= self._limits.webhooks_at_once
        return None if full else due_ms

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._wanted.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt, and its line in the log."""
        webhook = Webhook.from_text(delivery.webhook)
        began_s = self._clock()
        body = delivery.body.encode()
        headers = {**HEADERS, **signed_headers(webhook.secret, delivery.delivery_id, int(began_s), body)}
        outcome = await self._sender.post(webhook.url, headers, body)
        attempt = _attempt(outcome, int(began_s * 1000), round((self._clock() - began_s) * 1000))
        state, next_at_ms = self._after(delivery, outcome)
        if state == FAILED:
            host = urlsplit(webhook.url).hostname  # the whole address may hold a secret of the receiver's
            why = outcome.error or f"HTTP {outcome.status}"
            log.warning("webhook %s of task %s to %s: %s", delivery.delivery_id, delivery.task_id, host, why)
        note = partial(
            store.note_attempt,
            delivery=delivery,
            attempt=attempt,
            state=state,
            next_at_ms=next_at_ms,
            ended_at_ms=None if state == PENDING else self._now_ms(),
        )
        try:
            await self._database.write(note)
        except (StoreFault, RuntimeError) as fault:
            log.error("the attempt at webhook %s was not noted, it is repeated: %s", delivery.delivery_id, fault)

    def _after(self, delivery: Delivery, outcome: Outcome) -> tuple[str, int]:
        """(state, when it is due again) after an attempt."""
        now_ms = self._now_ms()
        last_ms = delivery.created_at_ms + int(self._limits.webhook_keep_trying_s * 1000)
        if outcome.arrived:
            return DELIVERED, now_ms
        if outcome.final or now_ms >= last_ms:
            return FAILED, now_ms
        pause_s = max(self._retry.delay(delivery.attempts + 1), outcome.retry_after_s or 0.0)
        pause_s = min(pause_s, self._limits.webhook_retry_cap_s)
        return PENDING, min(now_ms + int(pause_s * 1000), last_ms)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _attempt(outcome: Outcome, at_ms: int, took_ms: int) -> dict[str, Any]:
    line = {"atMs": at_ms, "tookMs": took_ms, "status": outcome.status, "error": outcome.error}
    return {key: value for key, value in line.items() if value is not None}
