"""A client lent for one errand: an agent's task that gives work to others. Its waits end when the errand is to end."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blocks_network.api.caller import Caller
from blocks_network.consumer.link import Link
from blocks_network.errors import BlocksError
from blocks_network.transport.pubnub import PubNubKeys

if TYPE_CHECKING:
    from blocks_network.consumer.client import TaskClient
    from blocks_network.consumer.following import Following

__all__ = ["Errand", "lend"]


class Errand:
    """`ending` is set when the errand is to end; whoever sets it calls `wake`. `fault()` is what waits then raise."""

    def __init__(self, ending: threading.Event, fault: Callable[[], BlocksError]) -> None:
        self.ending, self.fault = ending, fault
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Following] = weakref.WeakSet()

    def add(self, session: Following) -> None:
        with self._lock:
            self._sessions.add(session)

    def wake(self) -> None:
        """Waits on sessions and on their streams look again whether they are to end. From any thread."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.notice_ending()


class ErrandLink(Link):
    """The client's own link in everything else: identity, poll, threads of callbacks. Calls go out also when the errand
    is to end (an agent cancels what it has given away), but are not tried again then."""

    def __init__(self, whole: Link, errand: Errand) -> None:
        self._whole, self._errand = whole, errand

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @property
    def ending(self) -> threading.Event | None:
        return self._errand.ending

    def over(self) -> BlocksError | None:
        return self._errand.fault() if self._errand.ending.is_set() else None

    def caller(self) -> Caller:
        return self._whole.caller().patient_until(self._errand.ending)

    def reader_for(self, keys: PubNubKeys, billing_mode: str) -> str | None:
        return self._whole.reader_for(keys, billing_mode)

    def add(self, session: Following) -> None:
        self._errand.add(session)
        self._whole.add(session)

    def end(self) -> None:
        """The errand's sessions alone: the client is lent to others too."""
        self.destroyed = True
        self._errand.wake()


def lend(client: TaskClient, errand: Errand) -> TaskClient:
    """The same client, for one errand: whoever waits with it is let go when that is to end. Destroying it ends nothing
    of the client's own."""
    lent = copy.copy(client)
    lent._link = ErrandLink(client._link, errand)
    lent._consumer_auth, lent._owns_pubnub = None, False
    return lent
