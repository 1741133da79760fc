"""The streams of one session: those that were opened, and what a drain waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from blocks_network.errors import BlocksError
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.refs import StreamRef
from blocks_network.transport.pubnub import PubNubKeys

if TYPE_CHECKING:
    from blocks_network.stream.client import StreamClient

__all__ = ["SessionStreams"]

log = logging.getLogger(__name__)


class SessionStreams:
    """Makes the refs of announced streams, and remembers the clients that users opened from them.

    `opened(client)` is called when a user opened one; `drained()` when a stream
    that a drain waits for is done, on whatever thread that happens. `durable`: the network keeps streams; `renew()`
    gets a token that still reads this task's own, when the announced one has ended.
    """

    def __init__(
        self,
        *,
        task_id: str,
        owner_id: str,
        keys: PubNubKeys,
        terminal_state: Callable[[], str | None],
        opened: Callable[[StreamClient], None],
        drained: Callable[[], None],
        durable: bool = False,
        renew: Callable[[], str | None] | None = None,
        ending: threading.Event | None = None,
    ) -> None:
        """Who reads, or waits for room, is let go once `ending` is set, with `wake`."""
        self._ending = ending
        self._task_id, self._owner_id, self._keys = task_id, owner_id, keys
        self._terminal_state, self._opened_by_user, self._drained = terminal_state, opened, drained
        self._durable, self._renew = durable, renew
        self._lock = threading.Lock()
        self._pending: list[StreamClient] = []
        self._opened: list[StreamClient] = []

    def ref(self, descriptor: StreamDescriptor) -> StreamRef:
        """What only the consumer writes cannot be read again by it."""
        replayed = self._durable and descriptor.local_direction != "outbound"
        return StreamRef(
            descriptor,
            make=self._make,
            terminal_state=self._terminal_state,
            opened=self._note_opened,
            replay=self._make_replay if replayed else None,
        )

    def pending(self) -> bool:
        """True while a stream is open whose data may still come, or that only the user can end."""
        with self._lock:
            return bool(self._pending)

    def wake(self) -> None:
        if self._ending is None:
            return
        with self._lock:
            clients = list(self._opened)
        for client in clients:
            client.wake_readers()
            client.wake_writers()

    def end_all(self) -> None:
        """Ends every client; their readers finish."""
        with self._lock:
            clients, self._opened, self._pending = self._opened, [], []
        for client in clients:
            try:
                client.end()
            except (BlocksError, RuntimeError):
                log.debug("a stream of task %s did not end cleanly", self._task_id, exc_info=True)

    def _make_replay(self, descriptor: StreamDescriptor, reorder_timeout_ms: float | None) -> StreamClient:
        return self._make(descriptor, reorder_timeout_ms, replay=True)

    def _make(
        self, descriptor: StreamDescriptor, reorder_timeout_ms: float | None, *, replay: bool = False
    ) -> StreamClient:
        from blocks_network.stream.client import StreamClient  # users without streams do not pay for loading it

        return StreamClient.from_descriptor(
            descriptor,
            keys=self._keys,
            reorder_timeout_ms=reorder_timeout_ms,
            consumer_user_id=self._owner_id or None,
            durable=self._durable,
            replay=replay,
            until=self._ending,
            renew=self._renew if replay or descriptor.local_direction == "inbound" else None,
        )

    def _note_opened(self, client: StreamClient) -> None:
        with self._lock:
            self._opened.append(client)
            if not client.is_replay:
                self._pending.append(client)
        if not client.is_replay:  # which has an end of its own, and no window
            self._opened_by_user(client)
        client.on_end(lambda: self._done(client))
        if self._reads_only(client):
            client.on_inbound_done(lambda: self._inbound_done(client))

    def _inbound_done(self, client: StreamClient) -> None:
        """Its data is complete: the client is ended for the user."""
        client.end()
        self._done(client)

    def _done(self, client: StreamClient) -> None:
        with self._lock:
            if client in self._pending:
                self._pending.remove(client)
        self._drained()

    @staticmethod
    def _reads_only(client: StreamClient) -> bool:
        return client.direction == "inbound"
