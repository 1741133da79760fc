"""What a handler holds of a stream: its task's reference to it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from blocks_network.stream.client import FLUSH_S, StreamClient
from blocks_network.stream.endings import Endings
from blocks_network.stream.errors import StreamEndedError, StreamError
from blocks_network.stream.inbox import InboundMessage

__all__ = ["ExternalStreamObject", "OnActivateCallback", "StreamObject"]


class StreamObject:
    """One task's stream. On a shared stream `end` gives back this task's reference; the last one ends the stream.

    `checkpoint` is called before each write: it blocks while the task is paused. `released(object, timeout_s)` is
    called once, by the first `end`. The owner of the client calls `stream_failed` and `stream_ended`.
    """

    external = False

    def __init__(
        self,
        client: StreamClient,
        *,
        shared: bool = False,
        checkpoint: Callable[[], None],
        released: Callable[[StreamObject, float], None],
    ) -> None:
        self._client, self._shared, self._checkpoint, self._released = client, shared, checkpoint, released
        self._endings = Endings(client.stream_id)
        self._lock = threading.Lock()
        self._ended = False
        self._left = threading.Event()

    @property
    def stream_id(self) -> str:
        return self._client.stream_id

    @property
    def channel(self) -> str:
        return self._client.channel

    @property
    def uuid(self) -> str:
        return self._client.uuid

    @property
    def direction(self) -> str:
        """The agent's: outbound, inbound or bidirectional."""
        return self._client.direction

    @property
    def is_active(self) -> bool:
        return not self._ended and self._client.is_active

    def write(self, data: Any, *, timeout_s: float | None = None) -> None:
        """As StreamClient.write. RuntimeError once the stream has ended, by whomever: a handler's sign to stop.

        Also when it would have to wait for room although the task was asked to end; what still fits goes out.
        """
        if self._ended:
            raise StreamEndedError(f"stream {self.stream_id} has ended")
        self._checkpoint()
        self._client.write(data, timeout_s=timeout_s, until=self._left)

    @property
    def inbound(self) -> Iterator[InboundMessage]:
        """As StreamClient.inbound; finishes also when the task is asked to end."""
        return self._client.messages_until(self._left)

    def bytes(self) -> Iterator[bytes]:
        """As StreamClient.bytes; finishes also when the task is asked to end."""
        return self._client.bytes(until=self._left)

    def events(self) -> Iterator[Any]:
        """As StreamClient.events; finishes also when the task is asked to end."""
        return self._client.events(until=self._left)

    def as_file(self) -> io.BufferedReader:
        """As StreamClient.as_file; its end is also the moment when the task is asked to end."""
        return self._client.as_file(until=self._left)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Called once when this task is no longer on the stream; at once when that is so already."""
        self._endings.on_end(callback)

    def on_error(self, callback: Callable[[StreamError], None]) -> None:
        """As StreamClient.on_error, for as long as this task is on the stream."""
        self._endings.on_error(callback)

    def end(self, *, timeout_s: float = FLUSH_S) -> None:
        """Ends the task's part in the stream. Idempotent, never raises.

        The last one waits, at most `timeout_s`, until the network has taken what was written.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if self._shared:  # the others read on
            self.stop_waiting()
        self._released(self, timeout_s)
        self._endings.ended()

    def stop_waiting(self) -> None:
        """Iterators of this object end, and no write waits for room; what waits to be read is left to others."""
        self._left.set()
        self._client.wake_readers()
        self._client.wake_writers()

    def stream_failed(self, error: StreamError) -> None:
        self._endings.failed(error)

    def stream_ended(self) -> None:
        """The stream itself is over: a fault, `fail_stream`, or the last reference."""
        self._ended = True
        self._endings.ended()

    def __enter__(self) -> StreamObject:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()


class ExternalStreamObject:
    """A stream that another process writes, with a StreamClient of its own made from `token`, `channel` and the ids.

    `announce(metadata)` tells the consumer; `released(object)` is called once, by the first `end`.
    """

    external = True

    def __init__(
        self,
        stream_id: str,
        channel: str,
        token: str,
        *,
        metadata: Mapping[str, Any] | None,
        announce: Callable[[Mapping[str, Any] | None], None],
        released: Callable[[ExternalStreamObject], None],
    ) -> None:
        self.stream_id, self.channel, self.token = stream_id, channel, token
        self._metadata, self._announce, self._released = metadata, announce, released
        self._endings = Endings(stream_id)
        self._ended = False

    @property
    def is_active(self) -> bool:
        """True until `end`: whether the other process is there is not known here."""
        return not self._ended

    def activate(self, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Announces the stream to the consumer, with this metadata or else what create_stream was given.

        RuntimeError when the stream has ended or the network refuses.
        """
        if self._ended:
            raise StreamEndedError(f"stream {self.stream_id} has ended")
        self._announce(self._metadata if metadata is None else metadata)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Called once, at once when it has ended already."""
        self._endings.on_end(callback)

    def end(self, *, timeout_s: float = FLUSH_S) -> None:
        """Local: runs the callbacks, tells nobody, waits for nothing. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._released(self)
        self._endings.ended()

    def write(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._elsewhere("write")

    @property
    def inbound(self) -> NoReturn:
        raise self._elsewhere("inbound")

    @property
    def uuid(self) -> NoReturn:
        raise self._elsewhere("uuid")

    def bytes(self) -> NoReturn:
        raise self._elsewhere("bytes")

    def events(self) -> NoReturn:
        raise self._elsewhere("events")

    def as_file(self) -> NoReturn:
        raise self._elsewhere("as_file")

    def on_error(self, *args: Any) -> NoReturn:
        raise self._elsewhere("on_error")

    def _elsewhere(self, member: str) -> RuntimeError:
        return RuntimeError(
            f"{member}: stream {self.stream_id} is external; the process that holds its token reads and writes it"
        )


OnActivateCallback = Callable[[StreamObject], None]
"""Given to create_stream: called with the stream on a thread of its own once it is set up."""
