"""`subscribe_to_task`: a task's raw events to plain callbacks, without a session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks_network.consumer.delivery import CallbackErrorContext
from blocks_network.consumer.feed import Feed
from blocks_network.consumer.link import Link
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.pubnub import PubNubKeys
from blocks_network.transport.subscription import Received, Subscription
from blocks_network.wire.channels import task_channel
from blocks_network.wire.events import is_terminal_event
from blocks_network.wire.timetokens import ALL_CACHED

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["CallbackErrorContext", "TaskEventCallbacks", "TaskSubscription", "follow_task", "subscribe_to_task"]

log = logging.getLogger(__name__)

EventCallback = Callable[[dict[str, Any]], object]


@dataclass(slots=True)
class TaskEventCallbacks:
    """Each gets the event as the network sent it; `on_event` gets every one, before the callback of its kind.

    Called on the subscription's own thread, one after another. `on_error(exception, context)` hears what the others
    raise, and outages; without it they are logged.
    """

    on_progress: EventCallback | None = None
    on_artifact: EventCallback | None = None
    on_terminal: EventCallback | None = None
    on_cancel_requested: EventCallback | None = None
    on_system: EventCallback | None = None
    on_event: EventCallback | None = None
    on_error: Callable[[Exception, CallbackErrorContext], object] | None = None


class TaskSubscription:
    """A task that is being followed, until `unsubscribe`."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def unsubscribe(self) -> None:
        """Idempotent, from any thread. No callback begins afterwards."""
        self._stop()


def subscribe_to_task(pubnub: PubNub, task_id: str, owner_id: str, callbacks: TaskEventCallbacks) -> TaskSubscription:
    """Follows a task from the oldest event that the network keeps, with the token and the keys of `pubnub`.

    The object is neither changed nor stopped. When its token ends, the one set on it in the meantime is taken.
    """
    told = _Told(task_id, callbacks)
    listener = _Listener(told, pubnub)
    subscription = Subscription(
        pubnub, [task_channel(task_id, owner_id)], listener, name=f"task-{task_id}", cursor=ALL_CACHED
    )
    listener.subscription = subscription
    subscription.start()
    return TaskSubscription(lambda: told.stop(subscription.stop))


def follow_task(link: Link, keys: PubNubKeys, task_id: str, callbacks: TaskEventCallbacks) -> TaskSubscription:
    """The same for a client without a PubNub object: under a read token of its own, which is renewed."""
    token = link.read_token(task_id, "consumer")
    told = _Told(task_id, callbacks)
    client = link.session_pubnub(keys, token.token, own_keyset=True)
    feed = Feed(
        client,
        token.channel,
        told,
        link,
        task_id=task_id,
        role="consumer",
        cursor=ALL_CACHED,
        renewed=lambda _token: None,
    )
    feed.start()

    def stop() -> None:
        feed.stop()
        link.release_pubnub(client)

    return TaskSubscription(lambda: told.stop(stop))


class _Told:
    """What one subscription has told its callbacks: one terminal, at most one cancel request before it."""

    def __init__(self, task_id: str, callbacks: TaskEventCallbacks) -> None:
        self._task_id, self._callbacks = task_id, callbacks
        self._ended = self._cancel_requested = self._stopped = False

    def accept(self, payload: Any, timetoken: int) -> None:
        """One event, on the subscription's thread."""
        if not isinstance(payload, dict) or not self._is_news(payload):
            return
        self._call("onEvent", self._callbacks.on_event, payload)
        kind = payload.get("type")
        for name, word, callback in (
            ("progress", "onProgress", self._callbacks.on_progress),
            ("artifact", "onArtifact", self._callbacks.on_artifact),
            ("terminal", "onTerminal", self._callbacks.on_terminal),
            ("cancel_requested", "onCancelRequested", self._callbacks.on_cancel_requested),
            ("system", "onSystem", self._callbacks.on_system),
        ):
            if name == kind:
                self._call(word, callback, payload)

    def hampered(self, fault: Exception) -> None:
        self._report(fault, CallbackErrorContext("subscribeToTask", "subscription"))

    def cut_off(self, fault: Exception) -> None:
        self._report(fault, CallbackErrorContext("subscribeToTask", "subscription"))

    def stop(self, stop: Callable[[], None]) -> None:
        if not self._stopped:
            self._stopped = True
            stop()

    def _is_news(self, event: dict[str, Any]) -> bool:
        kind = event.get("type")
        if kind == "terminal":
            if self._ended or not is_terminal_event(event):
                return False
            self._ended = True
        elif kind == "cancel_requested":
            if self._ended or self._cancel_requested:
                return False
            self._cancel_requested = True
        return True

    def _call(self, word: str, callback: EventCallback | None, event: dict[str, Any]) -> None:
        if callback is None or self._stopped:
            return
        try:
            callback(event)
        except Exception as fault:  # noqa: BLE001 - users' code: its fault goes to its on_error and stops nothing
            self._report(fault, CallbackErrorContext("subscribeToTask", word, event))

    def _report(self, fault: Exception, context: CallbackErrorContext) -> None:
        if self._callbacks.on_error is None:
            log.warning("%s of task %s: %s", context.callback_type, self._task_id, fault, exc_info=fault)
            return
        try:
            self._callbacks.on_error(fault, context)
        except Exception:
            log.debug("on_error of task %s raised", self._task_id, exc_info=True)


class _Listener:
    """The subscription's listener under a PubNub object of the user's."""

    def __init__(self, told: _Told, pubnub: PubNub) -> None:
        self._told, self._pubnub = told, pubnub
        self._token = pubnub._get_token()
        self.subscription: Subscription | None = None

    def received(self, message: Received) -> None:
        self._told.accept(message.payload, message.timetoken)

    def connected(self) -> None:
        log.debug("a task is followed")

    def disconnected(self, fault: TransportError) -> None:
        self._told.hampered(fault)

    def denied(self, fault: AccessDeniedError) -> bool:
        newer = self._pubnub._get_token()
        if newer == self._token or self.subscription is None:
            self._told.cut_off(fault)
            return False
        self._token = newer
        self.subscription.set_token(newer)
        return True
