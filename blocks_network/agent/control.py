"""The instance's link to one keyset of the network: control client, subscription, presence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blocks_network.errors import TransportError
from blocks_network.transport.presence import PresenceKeeper
from blocks_network.transport.pubnub import PubNubKeys, make_client, token_lifetime_s
from blocks_network.transport.subscription import Listener, Subscription

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["ControlLink"]

log = logging.getLogger(__name__)

PRESENCE_TIMEOUT_S = 20
HEARTBEAT_S = PRESENCE_TIMEOUT_S / 2 - 1
FIRST_POLL_S = 10.0


class ControlLink:
    """Listens on the control channel and is present there, from `start` to `stop`."""

    def __init__(
        self,
        keys: PubNubKeys,
        channel: str,
        token: str | None,
        *,
        instance_id: str,
        listener: Listener,
        state: Callable[[], dict[str, Any]],
        client: PubNub | None = None,
    ) -> None:
        self.keys, self.channel = keys, channel
        self.client = client or make_client(
            keys, user_id=instance_id, token=token, presence_timeout_s=PRESENCE_TIMEOUT_S
        )
        if client is not None and token:
            client.set_token(token)
        self._subscription = Subscription(
            self.client,
            [channel],
            listener,
            name=instance_id,
            filter_expression=f"meta.instance == '{instance_id}' || meta.broadcast == \"true\"",
        )
        self._presence = PresenceKeeper(
            self.client,
            channel,
            state,
            every_s=HEARTBEAT_S,
            whose=instance_id,
            recovered=self._subscription.reconnect,  # the poll of before the outage may hang for minutes
        )

    def start(self, timeout_s: float) -> bool:
        """Subscribes. True when the network has answered: what it sends from now on arrives."""
        self._subscription.start()
        return self._subscription.wait_ready(timeout_s)

    def announce(self, timeout_s: float) -> bool:
        """Present from now on. After `start`, so that nobody sends work to an instance that does not listen yet.

        True when the network has taken it.
        """
        self._presence.start()
        return self._presence.wait_known(timeout_s)

    def load_changed(self) -> None:
        self._presence.changed()

    def set_token(self, token: str) -> None:
        self._subscription.set_token(token)

    def token_lifetime_s(self) -> float | None:
        """How long the token still holds; None when there is none, or it does not say."""
        return token_lifetime_s(self.client)

    def stop(self, timeout_s: float, *, leave: bool = True) -> None:
        """Stops listening, then leaves, so that the network places what it would send us elsewhere at once."""
        leave = leave and self._presence.reachable  # else it would be waited for in vain
        self._presence.stop()
        self._subscription.stop()
        self._presence.join(timeout_s)
        self._subscription.join(timeout_s)
        if leave:
            try:
                self._subscription.leave()
            except TransportError as fault:  # it notices by itself after the presence timeout
                log.info("the network could not be told that the instance leaves: %s", fault)
