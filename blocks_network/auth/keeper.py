"""One bearer, kept fresh: renewed before it ends, or after a 401, by one renewal at a time that all share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from blocks_network.api.tokens import Identity
from blocks_network.backoff import Backoff
from blocks_network.errors import BlocksError

__all__ = ["TokenKeeper"]

log = logging.getLogger(__name__)

RENEW_AT_SHARE = 0.8
"""Of a token's life; the rest is for retries."""
MIN_INTERVAL_S = 1.0
ATTEMPTS = 3
RETRY = Backoff(first_s=5, factor=2, cap_s=30, jitter=0)
SHARE_WAIT_S = 30.0
FRESH_S = 1.0
"""A 401 that comes so soon after a renewal was caused by the token before it: the renewal is shared, not repeated."""


class TokenKeeper:
    """Holds an identity. `acquire` gets the current one (None at first) and returns the next.

    One thread renews ahead of time. `on_failure` hears the cause when that has failed three times over; the token in
    hand stays in use, and the next call that meets the recorded failure tries once more itself.
    """

    def __init__(
        self,
        acquire: Callable[[Identity | None], Identity],
        *,
        whose: str,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._acquire, self._whose, self._on_failure = acquire, whose, on_failure
        self._changed = threading.Condition()
        self._identity: Identity | None = None
        self._renewed_at = 0.0
        self._renewing = False
        self._failure: Exception | None = None
        self._stopped = False
        self._due: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def identity(self) -> Identity | None:
        return self._identity

    @property
    def failure(self) -> Exception | None:
        """Why the last renewal failed; None since the last success."""
        return self._failure

    def ensure_started(self) -> None:
        """Acquires the first token, once; raises what went wrong. Free afterwards."""
        if self._identity is not None:
            return
        if not self.renew() and self._identity is None:
            raise self._failure or BlocksError(f"no token for {self._whose}")

    def adopt(self, identity: Identity) -> None:
        """Takes a token that came another way."""
        with self._changed:
            self._store(identity)

    def renew(self) -> bool:
        """Gets the next token now, or shares the renewal under way. False when it failed, or after `stop`."""
        with self._changed:
            if self._stopped:
                return False
            if self._renewing:
                self._changed.wait_for(lambda: not self._renewing or self._stopped, SHARE_WAIT_S)
                return self._is_fresh()
            if self._identity is not None and time.monotonic() - self._renewed_at < FRESH_S and not self._failure:
                return True
            self._renewing = True
            current = self._identity
        try:
            identity = self._acquire(current)
        except Exception as fault:  # noqa: BLE001 - whatever a user's provider raises is its failure
            with self._changed:
                self._failure = fault
                self._renewing = False
                self._changed.notify_all()
            return False
        with self._changed:
            self._store(identity)
            self._renewing = False
            self._changed.notify_all()
        return True

    def _is_fresh(self) -> bool:
        """With the lock held."""
        return not self._renewing and self._failure is None and not self._stopped

    def stop(self) -> None:
        """Ends renewals at once. The token in hand stays readable, for calls in progress."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _store(self, identity: Identity) -> None:
        """With the lock held. What the new answer leaves out stays as it was."""
        if self._identity is not None:
            identity = replace(
                identity,
                user_id=identity.user_id or self._identity.user_id,
                refresh_token=identity.refresh_token or self._identity.refresh_token,
            )
        self._identity, self._failure, self._renewed_at = identity, None, time.monotonic()
        self._due = time.monotonic() + max(MIN_INTERVAL_S, identity.expires_in_s * RENEW_AT_SHARE)
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name=f"blocks-token-{self._whose}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_until_due():
            if not self._renew_patiently():
                return

    def _wait_until_due(self) -> bool:
        with self._changed:
            while not self._stopped:
                left = (self._due or 0.0) - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def _renew_patiently(self) -> bool:
        """Three attempts. False when the thread has nothing more to do."""
        for attempt in range(1, ATTEMPTS + 1):
            if self.renew():
                return True
            if attempt < ATTEMPTS:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, RETRY.delay(attempt))
            if self._stopped:
                return False
        failure = self._failure
        log.error("the token of %s could not be renewed: %s", self._whose, failure)
        with self._changed:
            self._thread = None  # the next success, by a call that tries again, starts another
        if failure is not None and self._on_failure is not None and not self._stopped:
            try:
                self._on_failure(failure)
            except Exception:
                log.exception("on_auth_error of %s raised", self._whose)
        return False
