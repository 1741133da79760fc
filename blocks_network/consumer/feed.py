"""Reads a task's channel for its session, for as long as the task lives: outages and ended tokens included."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from blocks_network.consumer.link import Link, Role
from blocks_network.consumer.refusals import is_final
from blocks_network.errors import AccessDeniedError, BlocksError, TransportError
from blocks_network.transport.subscription import Received, Subscription

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["Feed", "Reader"]

log = logging.getLogger(__name__)

MAX_RENEWALS, RENEWALS_WITHIN_S = 5, 60.0
"""A network that refuses so many fresh tokens in a row will not take the next one either."""


class Reader(Protocol):
    """The session, as its feed sees it. Called on the feed's thread."""

    def accept(self, payload: Any, timetoken: int) -> None: ...

    def hampered(self, fault: Exception) -> None:
        """Nothing arrives for now; the feed goes on trying."""

    def cut_off(self, fault: Exception) -> None:
        """Nothing will arrive any more."""


class Feed:
    """One subscription on one channel. A refused read token is renewed, and reading goes on where it had stopped.

    A class of its own, so that a network which offers one channel group for all tasks of a client can be read by one
    subscription for all: only this class would change.
    """

    def __init__(
        self,
        client: PubNub,
        channel: str,
        reader: Reader,
        link: Link,
        *,
        task_id: str,
        role: Role,
        cursor: int,
        renewed: Callable[[str], None],
    ) -> None:
        self._reader, self._link = reader, link
        self._task_id, self._role, self._renewed = task_id, role, renewed
        self._renewals: deque[float] = deque(maxlen=MAX_RENEWALS)
        self._down = False
        self._subscription = Subscription(client, [channel], self, name=f"task-{task_id}", cursor=cursor)

    def start(self) -> None:
        self._subscription.start()

    def stop(self) -> None:
        """At once, from any thread; nothing is delivered afterwards."""
        self._subscription.stop()

    def received(self, message: Received) -> None:
        self._reader.accept(message.payload, message.timetoken)

    def connected(self) -> None:
        if self._down:
            self._down = False
            log.info("task %s is followed again", self._task_id)

    def disconnected(self, fault: TransportError) -> None:
        self._down = True
        self._reader.hampered(fault)

    def denied(self, fault: AccessDeniedError) -> bool:
        """The read token has ended, or was revoked: gets another one, unless the network says no to that too."""
        now = time.monotonic()
        if len(self._renewals) == MAX_RENEWALS and now - self._renewals[0] < RENEWALS_WITHIN_S:
            self._reader.cut_off(fault)
            return False
        self._renewals.append(now)
        try:
            token = self._link.read_token(self._task_id, self._role)
        except BlocksError as refusal:
            if is_final(refusal):
                self._reader.cut_off(refusal)
                return False
            self._reader.hampered(refusal)
            return True
        self._subscription.set_token(token.token)
        self._renewed(token.token)
        return True
