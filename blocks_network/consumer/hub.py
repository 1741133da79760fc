"""One poll for all sessions of a client, where the network offers `channel-group-sessions`.

The client sends its name with each task, and reads a channel group of that name. What arrives before its session is
known (the answer to SendMessage may be slower than the task) waits here. After an outage every session first reads
its own channel for what the group may have dropped.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from blocks_network.api.caller import Caller
from blocks_network.api.tokens import reader_token
from blocks_network.consumer.refusals import is_final
from blocks_network.errors import AccessDeniedError, BlocksError, TransportError
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.transport.subscription import Received, Subscription

if TYPE_CHECKING:
    from blocks_network.consumer.callbacks import Callbacks, Timer

__all__ = ["FEATURE", "Hub", "HubReader", "Place"]

log = logging.getLogger(__name__)

FEATURE = "channel-group-sessions"
EARLY_CHANNELS = 2_000
"""Tasks whose messages wait for their session; beyond that the oldest one's have to be read from its channel."""
LATE_S = 60.0
"""After an outage a session that joins reads its channel first: the answer to its SendMessage may have been as slow."""
MAX_REFUSALS = 5
IDLE_S = 30.0
"""How long the poll goes on when no session is left."""


class HubReader(Protocol):
    """A session, as the hub sees it. Called on the hub's thread, or on the thread that joins."""

    def accept(self, payload: Any, timetoken: int) -> None: ...

    def resync(self) -> None:
        """Reads from the task's own channel what it has not seen. BlocksError when that cannot be done now."""

    def hampered(self, fault: Exception) -> None: ...

    def cut_off(self, fault: Exception) -> None: ...


@dataclass(slots=True)
class Place:
    """A session's place at the hub. `stop` gives it up; nothing is delivered afterwards."""

    hub: Hub
    channel: str
    reader: HubReader

    def stop(self) -> None:
        self.hub.leave(self)


class Hub:
    """Owns one thread while there are sessions, and for IDLE_S after the last one."""

    def __init__(
        self, ready_caller: Callable[[], Caller], keys: PubNubKeys, billing_mode: str, callbacks: Callbacks
    ) -> None:
        self._ready_caller, self._keys, self._billing_mode = ready_caller, keys, billing_mode
        self._callbacks = callbacks
        self.name = secrets.token_hex(16)
        """Goes with each task; whoever knows it and is this user may read them."""
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._early: OrderedDict[str, list[Received]] = OrderedDict()
        self._lost_early = False
        self._subscription: Subscription | None = None
        self._since = 0
        """Where the subscription began to read."""
        self._idle: Timer | None = None
        self._left_at = 0.0
        self._joining = 0
        self._down = False
        self._refusals = 0
        self._outage_over_at: float | None = None

    def join(self, channel: str, reader: HubReader, cursor: int) -> Place:
        """Delivers what comes on the task's channel above `cursor`. BlocksError when the group cannot be read."""
        with self._lock:
            self._joining += 1  # so that the poll does not end for want of sessions
        try:
            self._start(cursor)
            place = Place(self, channel, reader)
            lost = self._take_place(place, cursor)
        finally:
            with self._lock:
                self._joining -= 1
                self._note_leaving()
        if lost:
            try:
                reader.resync()
            except BaseException:
                self.leave(place)
                raise
        return place

    def _take_place(self, place: Place, cursor: int) -> bool:
        """Whether something for it may have got lost before: it may be of a task that was sent, but not joined, before
        the one with which the poll began."""
        while True:
            with self._lock:
                early = self._early.pop(place.channel, None)
                if early is None:
                    self._places[place.channel] = place
                    return cursor < self._since or self._lost_early or self._was_down()
            for message in early:  # outside the lock: the session has one of its own
                place.reader.accept(message.payload, message.timetoken)

    def leave(self, place: Place) -> None:
        with self._lock:
            if self._places.get(place.channel) is place:
                del self._places[place.channel]
            self._note_leaving()

    def _note_leaving(self) -> None:
        """With the lock held. One timer for many tasks: each of its own would wake a thread."""
        if not self._is_needed() and self._subscription is not None:
            self._left_at = time.monotonic()
            if self._idle is None:
                self._idle = self._callbacks.later(IDLE_S, self._stop_idle)

    def _is_needed(self) -> bool:
        return bool(self._places or self._joining)

    # --- its thread: Listener of the subscription

    def received(self, message: Received) -> None:
        with self._lock:
            place = self._places.get(message.channel)
            if place is None:
                self._early.setdefault(message.channel, []).append(message)
                if len(self._early) > EARLY_CHANNELS:
                    self._early.popitem(last=False)
                    self._lost_early = True
                return
        place.reader.accept(message.payload, message.timetoken)

    def connected(self) -> None:
        """After an outage: first what was missed, then what comes."""
        if not self._down:
            return
        for place in self._all():
            try:
                place.reader.resync()
            except BlocksError as fault:
                log.warning("the channel %s could not be read after an outage: %s", place.channel, fault)
                place.reader.hampered(fault)
        self._down = False

    def _moved(self) -> None:
        """The network was started anew. What it published before, and had not delivered, stands on the tasks' own
        channels alone."""
        with self._lock:
            self._down, self._outage_over_at = True, time.monotonic()

    def _was_down(self) -> bool:
        """With the lock held: whether a task may be older than the last outage, though its session joins only now."""
        return self._outage_over_at is not None and time.monotonic() - self._outage_over_at < LATE_S

    def disconnected(self, fault: TransportError) -> None:
        with self._lock:
            self._down, self._outage_over_at = True, time.monotonic()
        for place in self._all():
            place.reader.hampered(fault)

    def denied(self, fault: AccessDeniedError) -> bool:
        """The group's token has ended: gets another one, unless the network says no to that too."""
        try:
            token, _ = self._token()
        except BlocksError as refusal:
            if not self._is_final(refusal):
                log.debug("no token for the sessions' group now: %s", refusal)
                return True
            with self._lock:
                self._subscription = None  # the next session begins anew, under whatever identity there is then
            for place in self._all():
                place.reader.cut_off(refusal)
            return False
        self._refusals = 0
        with self._lock:
            subscription = self._subscription
        if subscription is not None:
            subscription.set_token(token)
        return True

    def _is_final(self, refusal: BlocksError) -> bool:
        """Whether asking again is in vain. A 401 may be of a bearer that ends just now, a few times in a row."""
        if not is_final(refusal):
            return False
        self._refusals += 1
        return getattr(refusal, "status", 0) != 401 or self._refusals > MAX_REFUSALS

    # --- the poll's life

    def _start(self, cursor: int) -> None:
        if self._is_polling():
            return
        token, group = self._token()
        client = make_client(self._keys, user_id=f"blocks-sessions-{self.name[:12]}", token=token)
        name = f"sessions-{self.name[:6]}"
        subscription = Subscription(client, [], self, groups=[group], name=name, cursor=cursor, moved=self._moved)
        with self._lock:
            if not self._is_polling():
                self._subscription, self._since = subscription, cursor
                subscription.start()

    def _is_polling(self) -> bool:
        return self._subscription is not None

    def _stop_idle(self) -> None:
        with self._lock:
            self._idle = None
            if self._is_needed() or self._subscription is None:
                return
            left_s = self._left_at + IDLE_S - time.monotonic()
            if left_s > 0:
                self._idle = self._callbacks.later(left_s, self._stop_idle)
                return
            subscription, self._subscription = self._subscription, None
            self._early.clear()
            self._lost_early = False
        subscription.stop()

    def _token(self) -> tuple[str, str]:
        granted = reader_token(self._ready_caller(), self.name, self._billing_mode)
        return granted.token, granted.channel

    def _all(self) -> list[Place]:
        with self._lock:
            return list(self._places.values())
