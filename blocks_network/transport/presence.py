"""Keeps a client present on a channel, with a state that others read. One thread; the state's newest value wins."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pubnub.endpoints.presence.heartbeat import Heartbeat
from pubnub.endpoints.presence.set_state import SetState
from pubnub.pubnub import PubNub

from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.pubnub import call

__all__ = ["PresenceKeeper"]

log = logging.getLogger(__name__)

STATE_INTERVAL_S = 0.25
"""Between two states: a busy instance changes its load a thousand times a second, and nobody reads that often."""
RETRY_S = 2.0
"""After a beat that failed."""


class PresenceKeeper:
    """Beats every `every_s` with the current state, and sends a changed state soon after `changed`.

    `state` is asked on the keeper's thread. `recovered` is called after beats that failed and one that did not.
    """

    def __init__(
        self,
        client: PubNub,
        channel: str,
        state: Callable[[], dict[str, Any]],
        *,
        every_s: float,
        whose: str,
        recovered: Callable[[], None],
    ) -> None:
        self._client, self._channel, self._state = client, channel, state
        self._every_s, self._whose, self._recovered = every_s, whose, recovered
        self._changed = threading.Condition()
        self._stale = True
        self._failing = False
        self._ending = False
        self._known = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"blocks-presence-{whose}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_known(self, timeout_s: float) -> bool:
        """True once the network has taken a beat or a state."""
        return self._known.wait(timeout_s)

    @property
    def reachable(self) -> bool:
        """Whether the network took the last beat or state; False before the first."""
        return self._known.is_set() and not self._failing

    def changed(self) -> None:
        """The state is another now. Never blocks."""
        with self._changed:
            if not self._stale:
                self._stale = True
                self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        if self._thread is threading.current_thread() or not self._thread.ident:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        beat_at = sent_at = float("-inf")
        while True:
            beat, send = self._wait(beat_at + self._every_s, sent_at + STATE_INTERVAL_S)
            if not (beat or send):
                return
            now = time.monotonic()
            if send and self._try(self._send_state):
                sent_at = now
            if beat:
                beat_at = now if self._try(self._beat) else now - self._every_s + min(RETRY_S, self._every_s)

    def _wait(self, beat_at: float, send_at: float) -> tuple[bool, bool]:
        """Until something is due: (a beat, the state). Neither at the end."""
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                if self._failing:  # the state travels with the next beat
                    beat, send = now >= beat_at, False
                else:
                    beat, send = now >= beat_at, self._stale and now >= send_at
                if beat or send:
                    if send:
                        self._stale = False
                    return beat, send
                due = min(beat_at, send_at) if self._stale and not self._failing else beat_at
                self._changed.wait(due - now)
            return False, False

    def _beat(self) -> None:
        call(Heartbeat(self._client, self._channel, None, {self._channel: self._state()}))

    def _send_state(self) -> None:
        call(SetState(self._client, None, self._channel, None, self._state()))

    def _try(self, send: Callable[[], None]) -> bool:
        try:
            send()
        except AccessDeniedError as fault:  # the subscription meets the same refusal, and its owner answers it
            log.debug("presence of %s refused: %s", self._whose, fault)
            return False
        except TransportError as fault:
            if not self._failing:
                log.warning("presence of %s not delivered: %s", self._whose, fault)
            self._failing = True
            return False
        self._known.set()
        if self._failing:
            self._failing = False
            log.warning("presence of %s delivered again", self._whose)
            self._recovered()
        return True
