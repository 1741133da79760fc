"""StreamClient: one end of one stream, to write, to read, or both."""

from __future__ import annotations

import io
import itertools
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from blocks_network import settings
from blocks_network.errors import TransportError
from blocks_network.stream.alive import Pulse
from blocks_network.stream.descriptor import StreamDescriptor
from blocks_network.stream.endings import Endings
from blocks_network.stream.errors import StreamEndedError, StreamError
from blocks_network.stream.inbox import InboundMessage, StreamFile
from blocks_network.stream.kept import FEATURE, Replay
from blocks_network.stream.reader import StreamReader
from blocks_network.stream.threads import StreamThreads
from blocks_network.stream.writer import StreamBundleConfig, StreamWriter
from blocks_network.transport.pubnub import DEFAULT_ORIGIN, PubNubKeys, make_client
from blocks_network.wire.frames import StreamFormat
from blocks_network.wire.setup import DIRECTIONS, FORMATS, stream_channel, validate_stream_id

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["StreamClient"]

log = logging.getLogger(__name__)

FLUSH_S = 10.0
"""How long `end` waits for the network to take what was written. What is left then goes on in the background."""
JOIN_S = 1.0
"""How long `end` waits for the reader's thread, which may be inside a callback of the user's."""
POLL_S = 310
REPLAY_POLL_S = 5
"""How long a poll may stay unanswered. In a replay everything is there already: silence says that some of it is not."""
_NUMBERS = itertools.count(1)


class StreamClient:
    """`direction` is local: outbound writes, inbound reads, bidirectional does both. Safe for threads.

    Sizes: argument, else environment, else default. `reorder_timeout_ms` is how long a missing frame is waited for
    (750; 0 hands frames on as they come). `gating` and `max_latency_ms` have no effect. `origin` (host:port) is where
    the network serves; without it the document of BLOCKS_CDM_URL says so when it knows the subscribe key, else it is
    the hosted network. `durable` says whether the network keeps the frames, for readers that come later; without it
    that document does. `replay` reads what was kept of a stream that is over, and ends. `threads`, `keys`, `renew`,
    `lost` and `until` are for sessions and instances, which own several streams.
    """

    def __init__(
        self,
        *,
        subscribe_key: str = "",
        publish_key: str | None = None,
        token: str | None,
        agent_name: str,
        stream_id: str,
        channel: str | None = None,
        format: str = "bytes",  # noqa: A002 - the protocol's word
        direction: str = "outbound",
        max_message_size: int | None = None,
        bundle_size_bytes: int | None = None,
        max_latency_ms: int | None = None,
        gating: bool | None = None,
        reorder_timeout_ms: float | None = None,
        affinity: str = "dedicated",
        origin: str | None = None,
        ssl: bool = True,
        keys: PubNubKeys | None = None,
        user_name: str | None = None,
        threads: StreamThreads | None = None,
        renew: Callable[[], str | None] | None = None,
        lost: Callable[[TransportError], None] | None = None,
        durable: bool | None = None,
        replay: Replay | None = None,
        until: threading.Event | None = None,
    ) -> None:
        if not agent_name:
            raise ValueError("agent_name is required: it names the stream's channel")
        if format not in FORMATS:
            raise ValueError(f"format {format!r} is none of {', '.join(FORMATS)}")
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} is none of {', '.join(DIRECTIONS)}")
        if affinity not in ("dedicated", "shared"):
            log.warning("stream %s: affinity %r is unknown, dedicated holds", stream_id, affinity)
            affinity = "dedicated"
        self.stream_id = validate_stream_id(stream_id)
        self.agent_name, self.format, self.direction, self.affinity = agent_name, format, direction, affinity
        self.channel = channel or stream_channel(agent_name, stream_id)
        self.uuid = _uuid(user_name or agent_name)
        config = StreamBundleConfig.resolved(max_message_size, bundle_size_bytes, max_latency_ms, self.uuid)
        self._own_threads = StreamThreads(self.uuid) if threads is None else None
        self._threads = threads or cast(StreamThreads, self._own_threads)
        self._lost, self._until = lost, until
        self._pulse: Pulse | None = None
        self._endings = Endings(self.stream_id)
        self._state = threading.Lock()
        self._ending = False
        if keys is None:
            keys, announced = _network(subscribe_key, publish_key, origin, ssl)
            durable = announced if durable is None else durable
        self._durable, self._replay = bool(durable), replay
        patience_s = POLL_S if replay is None else REPLAY_POLL_S
        client = make_client(keys, user_id=self.uuid, token=token, subscribe_timeout_s=patience_s)
        self._writer = self._make_writer(client, config, renew) if direction != "inbound" else None
        self._reader = self._make_reader(client, reorder_timeout_ms, renew) if direction != "outbound" else None
        if self._reader is not None:
            self._start_reading(self._reader)

    def _start_reading(self, reader: StreamReader) -> None:
        try:
            reader.start()
        except TransportError:  # a replay asks first what there is
            self.end()
            raise

    def _make_writer(
        self, client: PubNub, config: StreamBundleConfig, renew: Callable[[], str | None] | None
    ) -> StreamWriter:
        return StreamWriter(
            client,
            self._threads.sender,
            channel=self.channel,
            stream_id=self.stream_id,
            format=cast(StreamFormat, self.format),
            config=config,
            marker=self.direction == "outbound" and self.affinity == "dedicated",
            durable=self._durable,
            lost=self._not_delivered,
            renew=renew,
        )

    def _make_reader(
        self, client: PubNub, reorder_timeout_ms: float | None, renew: Callable[[], str | None] | None
    ) -> StreamReader:
        return StreamReader(
            client,
            self._threads,
            channel=self.channel,
            stream_id=self.stream_id,
            format=cast(StreamFormat, self.format),
            shared=self.affinity == "shared",
            own_uuid=self.uuid if self.direction == "bidirectional" else None,
            reorder_timeout_ms=reorder_timeout_ms,
            failed=self._failed,
            finished=self._endings.inbound_done,
            renew=renew,
            durable=self._durable,
            replay=self._replay,
        )

    @classmethod
    def from_descriptor(
        cls,
        descriptor: StreamDescriptor,
        *,
        subscribe_key: str = "",
        publish_key: str | None = None,
        max_message_size: int | None = None,
        bundle_size_bytes: int | None = None,
        max_latency_ms: int | None = None,
        gating: bool | None = None,
        reorder_timeout_ms: float | None = None,
        consumer_user_id: str | None = None,
        origin: str | None = None,
        ssl: bool = True,
        keys: PubNubKeys | None = None,
        threads: StreamThreads | None = None,
        renew: Callable[[], str | None] | None = None,
        durable: bool | None = None,
        replay: bool = False,
        until: threading.Event | None = None,
    ) -> StreamClient:
        """The consumer's end of an announced stream. Its uuid is named after `consumer_user_id`, else the agent.

        `replay` only reads, also what both sides may write.
        """
        made = cls(
            subscribe_key=subscribe_key,
            publish_key=publish_key,
            token=descriptor.token,
            agent_name=descriptor.agent_name,
            stream_id=descriptor.stream_id,
            channel=descriptor.channel,
            format=descriptor.format,
            direction="inbound" if replay else descriptor.local_direction,
            max_message_size=max_message_size,
            bundle_size_bytes=bundle_size_bytes,
            max_latency_ms=max_latency_ms,
            gating=gating,
            reorder_timeout_ms=reorder_timeout_ms,
            affinity=descriptor.affinity,
            origin=origin,
            ssl=ssl,
            keys=keys,
            user_name=consumer_user_id,
            threads=threads,
            renew=renew,
            durable=durable,
            until=until,
            replay=_replay_of(descriptor, consumer_user_id) if replay else None,
        )
        made._let_readers_know()
        return made

    def _let_readers_know(self) -> None:
        """The agent's handler hears when this consumer is gone, however that came about."""
        if self._writer is not None:
            self._writer.promise()
            self._pulse = Pulse(self._threads.after, self._writer.say_alive)
            self._pulse.start()

    @property
    def is_replay(self) -> bool:
        """True when it reads what was kept, and ends by itself."""
        return self._replay is not None

    @property
    def is_active(self) -> bool:
        """True until `end`, or a fault that ends the stream."""
        return not self._ending

    # --- writing ---

    def write(self, data: Any, *, timeout_s: float | None = None, until: threading.Event | None = None) -> None:
        """Sends one chunk (str or bytes-like) or one event (any JSON value but a bare string), in the background.

        Blocks while the buffer is full. RuntimeError when the stream has ended or is inbound only, or when the buffer
        is full and `until` is set; StreamFullError when the buffer is still full after `timeout_s`; TypeError and
        ValueError for data that cannot travel.
        """
        if self._writer is None:
            raise RuntimeError(f"stream {self.stream_id} is inbound only: it cannot be written")
        self._writer.write(data, timeout_s=timeout_s, until=until or self._until)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Waits until the network has taken everything written so far. True when it has, within `timeout_s`."""
        return self._writer is None or self._writer.wait_sent(timeout_s)

    def write_periodic(
        self, interval_sec: float, generator: Callable[[int], Any], stop_event: threading.Event | None = None
    ) -> threading.Thread:
        """Writes generator(1), generator(2), ... on a daemon thread, until the end, `stop_event`, or an exception."""
        ended = stop_event
        if ended is None:
            ended = threading.Event()
            self.on_end(ended.set)

        def run() -> None:
            for number in itertools.count(1):
                if ended.is_set() or not self.is_active:
                    return
                try:
                    self.write(generator(number))
                except StreamEndedError:
                    return
                except Exception:
                    log.exception("periodic writing to stream %s stops", self.stream_id)
                    return
                ended.wait(interval_sec)

        thread = threading.Thread(target=run, name=f"blocks-stream-periodic-{self.stream_id}", daemon=True)
        thread.start()
        return thread

    # --- reading ---

    @property
    def inbound(self) -> Iterator[InboundMessage]:
        """Whole frames. Blocks for the next one; finishes at the stream's end. RuntimeError when outbound only."""
        return self._reading().inbox.messages(self._until)

    def bytes(self, *, until: threading.Event | None = None) -> Iterator[bytes]:
        """The chunks, text as UTF-8. RuntimeError at the first step when outbound only, or on a stream of events.

        `until` ends this iterator alone, at once when `wake_readers` is called after it was set.
        """
        yield from self._reading().inbox.chunks(until or self._until)

    def events(self, *, until: threading.Event | None = None) -> Iterator[Any]:
        """The events. RuntimeError at the first step when outbound only, or on a stream of bytes. `until`: as bytes."""
        yield from self._reading().inbox.events(until or self._until)

    def as_file(self, *, until: threading.Event | None = None) -> io.BufferedReader:
        """`bytes()` as a file that gives what is there: a short read is not the end, b"" is. `until`: as bytes."""
        return StreamFile(self.bytes(until=until))

    def messages_until(self, until: threading.Event) -> Iterator[InboundMessage]:
        """`inbound`, with an end of its own: as `until` of bytes."""
        return self._reading().inbox.messages(until)

    def wake_readers(self) -> None:
        """Iterators look again whether their `until` is set."""
        if self._reader is not None:
            self._reader.inbox.wake()

    def wake_writers(self) -> None:
        """Writes that wait for room do the same."""
        if self._writer is not None:
            self._writer.wake()

    def wait_ready(self, timeout_s: float) -> bool:
        """True when the network has answered a poll of this reader within `timeout_s`; on an empty stream that is with
        the first frame. Nobody has to wait for it: a reader begins with what the network still holds."""
        return self._reader is None or self._reader.wait_ready(timeout_s)

    def consume_in_background(self, callback: Callable[[Any], None]) -> threading.Thread:
        """Calls `callback` for each event or chunk on a daemon thread, until the end or its exception."""
        self._reading()

        def run() -> None:
            try:
                for item in self.events() if self.format == "events" else self.bytes():
                    callback(item)
            except Exception:
                log.exception("reading stream %s in the background stops", self.stream_id)

        thread = threading.Thread(target=run, name=f"blocks-stream-consumer-{self.stream_id}", daemon=True)
        thread.start()
        return thread

    def _reading(self) -> StreamReader:
        if self._reader is None:
            raise RuntimeError(f"stream {self.stream_id} is outbound only: it cannot be read")
        return self._reader

    # --- the end ---

    def on_end(self, callback: Callable[[], None]) -> None:
        """Called once after `end`; at once when it has ended already."""
        self._endings.on_end(callback)

    def on_inbound_done(self, callback: Callable[[], None]) -> None:
        """Called once when nothing more will be received; at once when that is so already."""
        self._endings.on_inbound_done(callback)

    def on_error(self, callback: Callable[[StreamError], None]) -> None:
        """Called for every fault, in the order of registration; at once with the fault that has ended the stream, and
        with those that nobody has heard yet."""
        self._endings.on_error(callback)

    def end(self, *, timeout_s: float = FLUSH_S, error: str | None = None) -> None:
        """Sends what was written, tells readers where the stream has a marker, finishes iterators. Idempotent.

        Waits at most `timeout_s` for the network; never raises. Callable from any thread and callback. `error` is
        told to readers with the marker.
        """
        with self._state:
            if self._ending:
                return
            self._ending = True
        if self._pulse is not None:
            self._pulse.stop()
        if self._writer is not None:
            self._writer.close(error)
            self._writer.wait_sent(timeout_s)
        if self._reader is not None:
            self._reader.close()
        self._endings.inbound_done()
        if self._reader is not None:
            self._reader.join(JOIN_S)
        if self._own_threads is not None:
            self._own_threads.finish()
        self._endings.ended()

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def _failed(self, error: StreamError) -> None:
        """Callbacks first, then the end, so that iterators finish."""
        self._endings.failed(error)
        if error.fatal:
            self.end()

    def _not_delivered(self, fault: TransportError) -> None:
        """On a sender's thread: what was written will never arrive."""
        if self._lost is not None:
            self._lost(fault)
        self._failed(StreamError.of_fault(fault, self.channel, publishing=True))


def _uuid(name: str) -> str:
    """Unique beyond this process, and safe inside a filter expression, where it stands in quotes."""
    return f"{_uuid_prefix(name)}{next(_NUMBERS):04d}-{secrets.token_hex(4)}"


def _uuid_prefix(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9_.@:-]", "_", name)[:128]
    return f"{safe}-stream-"


def _replay_of(descriptor: StreamDescriptor, consumer_user_id: str | None) -> Replay:
    both = descriptor.agent_direction == "bidirectional"
    own = _uuid_prefix(consumer_user_id) if both and consumer_user_id else None
    return Replay(has_end=not both and descriptor.affinity == "dedicated", without=own)


def _network(subscribe_key: str, publish_key: str | None, origin: str | None, ssl: bool) -> tuple[PubNubKeys, bool]:
    """Where the network is, and whether it says that it keeps streams."""
    if origin is not None:
        return PubNubKeys(subscribe_key, publish_key, origin, ssl), False
    if settings.CDM_URL.read():
        from blocks_network.api.cdm import fetch_cdm_config

        config = fetch_cdm_config()
        if subscribe_key in (config.playground.subscribe_key, config.network.subscribe_key):
            keys = replace(config.keys("free"), subscribe_key=subscribe_key, publish_key=publish_key)
            return keys, FEATURE in config.features
    return PubNubKeys(subscribe_key, publish_key, DEFAULT_ORIGIN, True), False
