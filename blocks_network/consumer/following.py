"""The inside of a session: how a task is followed, from the first event to the end of its last open stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from blocks_network.consumer.callbacks import Timer
from blocks_network.consumer.catchup import Past, read_history
from blocks_network.consumer.changed import Changed
from blocks_network.consumer.delivery import Delivery, Interest
from blocks_network.consumer.feed import Feed
from blocks_network.consumer.hub import Hub, Place
from blocks_network.consumer.link import Link, Role
from blocks_network.consumer.record import TaskRecord
from blocks_network.consumer.streams import SessionStreams
from blocks_network.errors import AccessDeniedError, BlocksError, SessionClosedError
from blocks_network.stream.descriptor import descriptors_of
from blocks_network.stream.kept import FEATURE
from blocks_network.transport.pubnub import PubNubKeys
from blocks_network.wire.timetokens import ALL_CACHED

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

    from blocks_network.stream.client import StreamClient

__all__ = ["Following", "SessionFacts"]

log = logging.getLogger(__name__)
T = TypeVar("T")

LINGER_S = 2.0
"""How long a session that has closed itself still takes artifacts, on a network that may announce uploads late."""


@dataclass(slots=True)  # a frozen one takes twice as long to make
class SessionFacts:
    """What the network said when the session was made. `own_keyset`: the task lives on the client's keyset.

    `artifacts_may_be_late`: nothing promises that the terminal is this network's last word on a task.
    """

    task_id: str
    owner_id: str
    keys: PubNubKeys
    channel: str
    agent_name: str = ""
    read_token: str | None = None
    idempotent: bool = False
    queued: bool = False
    push_config_id: str | None = None
    role: Role = "consumer"
    own_keyset: bool = True
    artifacts_may_be_late: bool = False


class Following:
    """State of one session, guarded by `changed`. Two ways to begin: `follow` a living task, `conclude` a dead one.

    The end as a story: the terminal is recorded; when everybody was told, `_settled` notes it and wakes the waiters;
    open streams drain, within a window; then the feed stops. `close` takes the short way, at any time.
    """

    def __init__(self, facts: SessionFacts, link: Link, *, auto_drain: bool, drain_window_s: float) -> None:
        self.facts, self.link = facts, link
        self._auto_drain, self._drain_window_s = auto_drain, drain_window_s
        self.changed = Changed()
        self._streams: SessionStreams | None = None
        """Of a task that has announced some."""
        self.record = TaskRecord(facts.task_id)
        self.delivery = Delivery(self.record, self.changed, link.callbacks)
        self.token = facts.read_token
        self.ended = False
        """The terminal is known, and everybody was told."""
        self.closed = False
        self.abandoned = False
        """Closed by the user, or born closed: not by the task's end."""
        self._feed: Feed | Place | None = None
        self._pubnub: PubNub | None = None
        self._drain_timer: Timer | None = None
        self._recalling = threading.Lock()
        self._unread_end: str | None = None
        self._end_known = False
        self._cut_off: Exception | None = None
        self._lingers = False

    def remember(self, past: list[Past]) -> int:
        """Takes a channel's history; returns the cursor from which to read on."""
        with self.changed:
            for message in past:
                self._record(message.payload, message.timetoken)
                if self.record.crowded():
                    self.record.forget(self.delivery.oldest_needed())
        return past[-1].timetoken if past else ALL_CACHED

    def join(self, hub: Hub, cursor: int) -> None:
        """As `follow`, through the client's one poll."""
        place = hub.join(self.facts.channel, self, cursor)
        with self.changed:
            if not self.closed:
                self._feed = place
                return
        place.stop()

    def resync(self) -> None:
        past = self.reading(lambda pubnub: read_history(pubnub, self.facts.channel))
        for message in past:
            self.accept(message.payload, message.timetoken)

    def follow(self, cursor: int) -> None:
        """Reads the task's channel from `cursor` on, in the background. What it meets is told to the session."""
        feed = Feed(
            self.pubnub(),
            self.facts.channel,
            self,
            self.link,
            task_id=self.facts.task_id,
            role=self.facts.role,
            cursor=cursor,
            renewed=self._renewed,
        )
        with self.changed:
            if self.closed:
                return
            self._feed = feed
        feed.start()

    def conclude(self, state: str, *, closed: bool) -> None:
        """The task is over already. `closed`: nothing was read yet; its history will be, when somebody asks."""
        with self.changed:
            if closed:
                self.closed = self.abandoned = True
                self._unread_end = state
                return
            if self.record.terminal is None:
                self.record.end(state)
            self.ended = self._end_known = True
            self.changed.notify_all()

    @property
    def task_id(self) -> str:
        return self.facts.task_id

    def note_state(self, state: str | None) -> None:
        """What the network said of a task before its events were read."""
        with self.changed:
            self.record.state = state

    def recall(self) -> None:
        """Reads the history of a task that was over when the session was made; once, at the first use.

        SessionClosedError in a forked child, where neither locks nor connections can be used. BlocksError when it
        cannot be read now: a task without events would be a wrong answer, and the next use asks again.
        """
        self.link.check_process()
        if not self._unread():
            return
        with self._recalling:
            state = self._unread()
            if not state:
                return
            self.remember(self.reading(lambda pubnub: read_history(pubnub, self.facts.channel)))
            with self.changed:
                if self.record.terminal is None:
                    self.record.end(state)
                self.ended = True
                self._unread_end = None
                self.changed.notify_all()

    @property
    def is_unread(self) -> bool:
        """True when `recall` has something to read."""
        return self._unread() is not None

    def _unread(self) -> str | None:
        """The state in which the task ended, while its history was not read."""
        return self._unread_end

    def state(self) -> str | None:
        return self._unread_end or self.record.state

    def terminal_state(self) -> str | None:
        """The state in which the task has ended, None before."""
        with self.changed:
            return self._unread_end or (self.record.state if self.record.terminal is not None else None)

    def note_known(self) -> None:
        """With the lock held: if the task has ended, the user knows it from now on."""
        self._end_known = self._end_known or self.record.terminal is not None

    def _streams_gone(self) -> str | None:
        """The terminal state once no announced stream can be opened any more, None before.

        A quick task is over before its caller could open what it announced, and the network still has the data: so
        the end counts here only when the caller knows of it.
        """
        with self.changed:
            known = self._end_known or not self._auto_drain or self.abandoned
        return self.terminal_state() if known else None

    def _stream_token(self) -> str | None:
        """On a stream's thread: what the announced token no longer opens."""
        try:
            return self.link.read_token(self.facts.task_id, self.facts.role).token
        except BlocksError as fault:
            log.warning("no new token for the streams of task %s: %s", self.facts.task_id, fault)
            return None

    def _opened_late(self, client: StreamClient) -> None:
        """A stream was opened. After the session's own end its drain window is all that is left to it."""
        with self.changed:
            late = self.closed
        if late:
            self.link.callbacks.later(self._drain_window_s, client.end)

    def accept(self, payload: Any, timetoken: int) -> None:
        """An event arrived."""
        with self.changed:
            late = self.closed and not (
                self._lingers and isinstance(payload, dict) and payload.get("type") == "artifact"
            )
            if late or not self._record(payload, timetoken):
                return
            if self.record.crowded():
                self.record.forget(self.delivery.oldest_needed())
            self.changed.notify_all()
        self.delivery.wake(self._settled)

    def _record(self, payload: Any, timetoken: int) -> bool:
        """With the lock held. False when it says nothing new."""
        if not self.record.add(payload, timetoken):
            return False
        if payload["type"] == "progress":
            for descriptor in descriptors_of(payload, self.facts.agent_name, self.facts.task_id):
                if self._streams is None:
                    self._streams = self._make_streams()
                self.record.add_stream(self._streams.ref(descriptor))
        return True

    def _make_streams(self) -> SessionStreams:
        """Not with each session: most tasks have none, and it would not be freed without the garbage collector."""
        return SessionStreams(
            task_id=self.facts.task_id,
            owner_id=self.facts.owner_id,
            keys=self.facts.keys,
            terminal_state=self._streams_gone,
            opened=self._opened_late,
            drained=self._drained,
            durable=FEATURE in self.link.features,
            renew=self._stream_token if FEATURE in self.link.features else None,
            ending=self.link.ending,
        )

    def _streams_pending(self) -> bool:
        return self._streams is not None and self._streams.pending()

    def _end_streams(self) -> None:
        if self._streams is not None:
            self._streams.end_all()

    def register(self, interest: Interest, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Replays what is known, then delivers what comes. The answer unregisters; twice is fine."""
        return self.delivery.register(interest, callback, self._settled)

    def hampered(self, fault: Exception) -> None:
        if self.closed:
            return  # it only lingers: who waits for nothing misses nothing
        self.delivery.report(fault, "subscription")

    def cut_off(self, fault: Exception) -> None:
        with self.changed:
            if self.closed:
                return
            self._cut_off = fault
            self.changed.notify_all()
        self.delivery.report(fault, "subscription")

    def pubnub(self) -> PubNub:
        """This session's own PubNub client, with a token that reads its channel. BlocksError when there is none."""
        with self.changed:
            if self._pubnub is not None:
                return self._pubnub
        if self.token is None:
            self._renewed(self.link.read_token(self.facts.task_id, self.facts.role).token)
        client = self.link.session_pubnub(self.facts.keys, self.token, own_keyset=self.facts.own_keyset)
        with self.changed:
            if self._pubnub is None:
                self._pubnub = client
            return self._pubnub

    def reading(self, attempt: Callable[[PubNub], T]) -> T:
        """What `attempt` reads with the session's client; once more under a new token when the old one has ended."""
        client = self.pubnub()
        try:
            return attempt(client)
        except AccessDeniedError:
            token = self.link.read_token(self.facts.task_id, self.facts.role).token
        client.set_token(token)
        self._renewed(token)
        return attempt(client)

    def when_over(self, call: Callable[[], None]) -> None:
        """Calls `call` once when a wait for the end would return, or raise; at once when it would now. With the lock
        held, on any thread: it must return at once, and not come back here."""

        def look() -> None:
            if self.ended or self.unwaitable():
                self.changed.remove_watcher(look)
                call()

        with self.changed:
            self.changed.add_watcher(look)
            look()

    def unwaitable(self) -> bool:
        """With the lock held: nothing is left to wait for."""
        return self.closed or self.link.destroyed or self._cut_off is not None or self.link.over() is not None

    def raise_unwaitable(self) -> None:
        """With the lock held: says why a wait ended, if it did not just time out."""
        task = f"task {self.facts.task_id}"
        if self.closed:
            raise SessionClosedError(f"the session of {task} was closed before its end", task_id=self.facts.task_id)
        over = self.link.over()
        if over is not None:
            raise over
        if self.link.destroyed:
            raise SessionClosedError(f"the client of {task} was destroyed before its end", task_id=self.facts.task_id)
        if self._cut_off is not None:
            raise SessionClosedError(
                f"the events of {task} cannot be read: {self._cut_off}",
                task_id=self.facts.task_id,
                hint="the task itself goes on; connect to it again",
            ) from self._cut_off

    def notice_ending(self) -> None:
        """Waits look again whether they are to end: the client is destroyed, or lent for what is over."""
        with self.changed:
            self.changed.notify_all()
        if self._streams is not None:
            self._streams.wake()

    def close(self) -> None:
        """By the user: no callback begins any more, and no drain. Nothing in a forked child: it is the parent's."""
        if self.link.forked:
            return
        with self.changed:
            self.abandoned = self.abandoned or not self.ended
        self._end()
        self._stop_lingering()
        self._end_streams()  # also those that were opened after the session's own end
        self.delivery.clear()

    def _settled(self) -> None:
        with self.changed:
            if self.ended or self.closed or self.record.terminal is None or not self.delivery.idle:
                return
            self.ended = True
        try:
            if not self._auto_drain:
                self._end()
                return
            if self._streams_pending():
                timer = self.link.callbacks.later(self._drain_window_s, self._end)
                with self.changed:
                    self._drain_timer = timer
            self._drained()
        finally:
            with self.changed:
                self.changed.notify_all()  # who waits finds the session closed already, where it closes itself

    def _drained(self) -> None:
        if not self.ended or self._streams_pending():
            return
        self._end(cut=False)
        if self._streams_pending():  # opened at this very moment
            self.link.callbacks.later(self._drain_window_s, self._end_streams)

    def _end(self, *, cut: bool = True) -> None:
        """Idempotent. With `cut`, open streams end first: their readers finish with what they have."""
        with self.changed:
            if self.closed:
                return
            self.closed = True
            self._lingers = not cut and self.facts.artifacts_may_be_late
            timer = self._drain_timer
            self.changed.notify_all()
        if timer is not None:
            timer.cancel()
        if cut:
            self._end_streams()
        if self._lingers:
            self.link.callbacks.later(LINGER_S, self._stop_lingering)
        else:
            self._stop_reading()

    def _stop_lingering(self) -> None:
        with self.changed:
            lingers, self._lingers = self._lingers, False
        if lingers:
            self._stop_reading()

    def _stop_reading(self) -> None:
        with self.changed:
            feed, self._feed = self._feed, None  # it holds this session
            pubnub = self._pubnub
        if feed is not None:
            feed.stop()
        if pubnub is not None:
            self.link.release_pubnub(pubnub)

    def _renewed(self, token: str) -> None:
        self.token = token
