"""Reading channels: one thread per subscription, which polls, reconnects and delivers each message once, in order."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pubnub.endpoints.presence.leave import Leave
from pubnub.pubnub import PubNub

from blocks_network.backoff import Backoff
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.answers import Polled, Pushed
from blocks_network.transport.faults import Interrupted, Interruption, TimedOut
from blocks_network.transport.pubnub import call, keys_of
from blocks_network.wire.timetokens import ANY_REGION

__all__ = ["Listener", "Received", "Subscription"]

log = logging.getLogger(__name__)

RECONNECT = Backoff(first_s=0.1, factor=2, cap_s=10)
SEEN_TIMETOKENS = 200
"""How many delivered messages are remembered, so that a network that repeats itself is not believed twice."""


@dataclass(slots=True)  # a frozen one takes twice as long to make
class Received:
    """One message. `payload` and `meta` are parsed JSON; `publisher` is a uuid, empty for the network's own."""

    channel: str
    payload: Any
    meta: Any
    timetoken: int
    publisher: str


class Listener(Protocol):
    """What the owner of a subscription does with it. All methods are called on the subscription's thread.

    What `received` raises is logged and stops nothing; the others must not raise.
    """

    def received(self, message: Received) -> None: ...

    def connected(self) -> None:
        """The first poll was answered, or the first after `disconnected`."""

    def disconnected(self, fault: TransportError) -> None:
        """Said once an outage. The subscription goes on trying, and resumes at its cursor."""

    def denied(self, fault: AccessDeniedError) -> bool:
        """The network refused the token. True: try again (with the client's new token); False: it ends here."""


class Subscription:
    """Reads channels with one pubnub client, from `cursor` (0: from now on), until `stop`."""

    def __init__(
        self,
        client: PubNub,
        channels: Sequence[str],
        listener: Listener,
        *,
        name: str,
        cursor: int = 0,
        groups: Sequence[str] = (),
        filter_expression: str | None = None,
        idle: Callable[[], None] | None = None,
        moved: Callable[[], None] | None = None,
    ) -> None:
        """`idle` is called, on the thread, when a poll was given up unanswered: the client's subscribe timeout.

        `moved`: called when the answers come from another region than before, and then the listener's `connected`. Our
        network has another one at each start, which may have been between two polls.
        """
        self._idle, self._moved = idle, moved
        self._answered_from: str | None = None
        self._client, self._channels, self._listener = client, list(channels), listener
        self._groups = list(groups)
        self._cursor, self._region = cursor, ANY_REGION if cursor else None
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._ending = threading.Event()
        self._nudged = threading.Event()
        self._ready = threading.Event()
        self._interruption = Interruption()
        self._answers = (Pushed if keys_of(client).pushes else Polled)(
            client,
            self._interruption,
            channels=self._channels,
            groups=self._groups,
            filter_expression=filter_expression,
        )
        self._thread = threading.Thread(target=self._run, name=f"blocks-subscription-{name}", daemon=True)

    @property
    def cursor(self) -> int:
        """The timetoken up to which everything was delivered."""
        return self._cursor

    def seek(self, cursor: int) -> None:
        """Begins elsewhere than it was made for. Before `start`."""
        self._cursor, self._region = cursor, ANY_REGION if cursor else None

    def start(self) -> None:
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """True when the network has answered a poll: what is published from now on will be delivered."""
        return self._ready.wait(timeout_s)

    def set_token(self, token: str) -> None:
        """The capability token of later polls."""
        self._client.set_token(token)
        self._answers.set_token(token)

    def reconnect(self) -> None:
        """Gives up the poll under way, or the pause before the next one: somebody knows that the network is back."""
        self._nudged.set()
        self._answers.give_up()

    def stop(self) -> None:
        """Ask it to end, at once; `join` waits. Nothing is delivered after the end. Does not leave the channels."""
        self._ending.set()
        self._nudged.set()
        self._interruption.interrupt()

    def join(self, timeout_s: float) -> bool:
        """True when the thread has ended. From the thread itself, True at once."""
        if self._thread is threading.current_thread() or not self._thread.ident:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Tells the network that this client is gone. TransportError when it cannot be told."""
        call(Leave(self._client).channels(self._channels).channel_groups(self._groups))

    def _run(self) -> None:
        try:
            self._read()
        finally:
            self._answers.close()

    def _read(self) -> None:
        failures = 0
        while not self._ending.is_set():
            try:
                answer = self._poll()
            except TimedOut:  # a hold longer than our patience; the cursor is kept
                if self._idle is not None and not self._ending.is_set():
                    self._idle()
                continue
            except Interrupted:
                break
            except AccessDeniedError as fault:
                if self._ending.is_set() or not self._listener.denied(fault):
                    break
                self._pause(failures := failures + 1)
                continue
            except TransportError as fault:
                self._answers.close()  # what follows something that cannot be read may have a later cursor
                failures += 1
                if failures == 1 and not self._ending.is_set():
                    self._listener.disconnected(fault)
                self._ready.clear()
                self._region = None  # so the next poll is answered at once: its owner hears that the outage is over
                self._pause(failures)
                continue
            failures = 0
            self._accept(*answer)

    def _pause(self, failures: int) -> None:
        """Before another try; cut short by `reconnect` and by the end."""
        self._nudged.wait(RECONNECT.delay(failures))
        self._nudged.clear()

    def _poll(self) -> tuple[int, str, list[dict[str, Any]]]:
        try:
            answer = self._answers.next(self._cursor, self._region)
            return int(answer["t"]["t"]), str(answer["t"]["r"]), list(answer["m"])
        except (KeyError, TypeError, ValueError) as fault:
            raise TransportError("the network answered a poll with something else") from fault

    def _accept(self, cursor: int, region: str, envelopes: list[dict[str, Any]]) -> None:
        moved = self._moved is not None and self._answered_from not in (None, region)
        self._answered_from = region
        if moved and self._moved is not None:
            self._moved()
        if moved or not self._ready.is_set():
            self._ready.set()
            self._listener.connected()
        for envelope in envelopes:
            if self._ending.is_set():
                return
            message = _parsed(envelope)
            if message is None or self._repeated(message):
                continue
            try:
                self._listener.received(message)
            except Exception:
                log.exception("message %s of %s was not digested", message.timetoken, message.channel)
        self._cursor, self._region = cursor, region

    def _repeated(self, message: Received) -> bool:
        key = (message.channel, message.timetoken)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > SEEN_TIMETOKENS:
            self._seen.popitem(last=False)
        return False


def _parsed(envelope: Any) -> Received | None:
    """None, with a line in the log, for what is no envelope."""
    try:
        return Received(
            channel=envelope["c"],
            payload=envelope["d"],
            meta=envelope.get("u"),
            timetoken=int(envelope["p"]["t"]),
            publisher=envelope.get("i") or "",
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        log.warning("an envelope without channel, payload or timetoken was passed over")
        return None
