"""StreamRef: a stream that was announced, and the one client that opens it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from blocks_network.errors import StreamUnavailableError
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.errors import StreamEndedError

if TYPE_CHECKING:
    from blocks_network.stream.client import StreamClient

__all__ = ["StreamRef"]


class StreamRef:
    """Made by a session for each stream of its task. Safe for threads: whoever opens first makes the client.

    `make(descriptor, reorder_timeout_ms)` makes the client; `terminal_state()` is the task's state once it has ended,
    None before; `opened(client)` is called once, after the client was made and outside any lock. `replay`, where the
    network keeps streams, makes the client of one whose task has ended.
    """

    def __init__(
        self,
        descriptor: StreamDescriptor,
        *,
        make: Callable[[StreamDescriptor, float | None], StreamClient],
        terminal_state: Callable[[], str | None],
        opened: Callable[[StreamClient], None] | None = None,
        replay: Callable[[StreamDescriptor, float | None], StreamClient] | None = None,
    ) -> None:
        self.descriptor = descriptor
        self._make, self._terminal_state, self._opened, self._replay = make, terminal_state, opened, replay
        self._lock = threading.Lock()
        self._client: StreamClient | None = None

    @property
    def is_open(self) -> bool:
        """True from `open` until the client's end."""
        client = self._client
        return client is not None and client.is_active

    @property
    def client(self) -> StreamClient | None:
        """The client that `open` made, also after its end; None before."""
        return self._client

    def open(self, *, reorder_timeout_ms: float | None = None) -> StreamClient:
        """The stream's client, made by the first call; `reorder_timeout_ms` counts for that one.

        RuntimeError when it was opened and has ended; StreamUnavailableError when the task has ended and it was never
        opened, and the network does not keep streams: where it does, this reads what was kept, which asks the network
        (TransportError).
        """
        with self._lock:
            if self._client is not None:
                if self._client.is_active:
                    return self._client
                raise StreamEndedError(
                    f"stream {self.descriptor.stream_id} has ended",
                    task_id=self.descriptor.task_id,
                    hint="a stream is opened once; what it carried was delivered to its reader",
                )
            state = self._terminal_state()
            make = self._make if state is None else self._replay
            if make is None:
                raise StreamUnavailableError(
                    self.descriptor.task_id, self.descriptor.stream_id, str(state), self.descriptor.declared_stream
                )
            client = self._client = make(self.descriptor, reorder_timeout_ms)
        if self._opened is not None:
            self._opened(client)
        return client

    def __repr__(self) -> str:
        return f"StreamRef({self.descriptor.declared_stream or self.descriptor.stream_id!r}, open={self.is_open})"
