"""What a client and its sessions share: who they are, how they call, and the threads that call back."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

from blocks_network.api import tasks, tokens
from blocks_network.api.caller import AuthProvider, Caller
from blocks_network.api.gathering import FEATURE as BATCH_CALLS
from blocks_network.api.gathering import Gathering
from blocks_network.consumer.callbacks import Callbacks
from blocks_network.consumer.hub import FEATURE as GROUP_SESSIONS
from blocks_network.consumer.hub import Hub
from blocks_network.errors import BlocksError, ConfigurationError, SessionClosedError
from blocks_network.transport.pubnub import PubNubKeys, make_client

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

    from blocks_network.consumer.following import Following

__all__ = ["Link", "Role"]

log = logging.getLogger(__name__)

Role = Literal["consumer", "provider"]


class Link:
    """Safe for threads. `destroyed` sessions go on receiving, but nobody may wait on them any more."""

    def __init__(
        self,
        caller: Caller | None,
        *,
        token_caller: Caller | None = None,
        anon_fingerprint: str | None = None,
        create_session_pubnub: Callable[[], PubNub] | None = None,
        features: Collection[str] = (),
    ) -> None:
        self.features = frozenset(features)
        """What the network says that it offers beyond the protocol."""
        self.gathering = Gathering() if BATCH_CALLS in self.features else None
        """Of this client's tasks that are sent at the same time, where the network takes several at once."""
        self._caller = caller
        self._token_caller = token_caller or caller
        self._anon_fingerprint = anon_fingerprint
        self._create_session_pubnub = create_session_pubnub
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Following] = weakref.WeakSet()
        self._hub: Hub | None = None
        self.destroyed = False
        self.callbacks = Callbacks(secrets.token_hex(3))

    @property
    def anonymous(self) -> bool:
        return self._anon_fingerprint is not None

    @property
    def auth(self) -> AuthProvider | None:
        return self._caller.auth if self._caller else None

    def caller(self) -> Caller:
        """For calls to the platform. ConfigurationError without a base URL, or in a forked child."""
        self.check_process()
        if self._caller is None:
            raise ConfigurationError("this client has no base URL", hint="create it with base_url")
        return self._caller

    def ready_caller(self) -> Caller:
        """`caller` once the identity is in order: acquired, and its last failure (if any) overcome.

        Raises the recorded AuthRefreshFailedError when one more renewal fails too, before any request.
        """
        caller = self.caller()
        make_ready(caller.auth)
        return caller

    def ready_token_caller(self) -> Caller:
        """`ready_caller` for read tokens, which a service may ask for under another identity than it calls with."""
        self.caller()
        assert self._token_caller is not None
        make_ready(self._token_caller.auth)
        return self._token_caller

    def control(self, method: str, task_id: str) -> None:
        """CancelTask, TerminateTask, ..."""
        tasks.task_control(self.ready_caller(), method, task_id)

    def read_token(self, task_id: str, role: Role) -> tokens.ReadToken:
        """Permission to read a task's channel, as whoever this client is."""
        if self._anon_fingerprint is not None:
            return tokens.anonymous_read_token(self.caller(), task_id, self._anon_fingerprint)
        return tokens.task_read_token(self.ready_token_caller(), task_id, role)

    def reader_for(self, keys: PubNubKeys, billing_mode: str) -> str | None:
        """The name to send with a task so that this client's one poll hears of it; None where there is none."""
        if GROUP_SESSIONS not in self.features or self._create_session_pubnub is not None:
            return None
        with self._lock:
            if self._hub is None:
                self._hub = Hub(self.ready_token_caller, keys, billing_mode, self.callbacks)
            return self._hub.name

    @property
    def hub(self) -> Hub | None:
        """What follows all sessions with one poll, once a task was sent with its name."""
        return self._hub

    def session_pubnub(self, keys: PubNubKeys, token: str | None, *, own_keyset: bool) -> PubNub:
        """A PubNub client for one session: sessions must not share one, their tokens differ."""
        if self._create_session_pubnub is not None and own_keyset:
            try:
                client = self._create_session_pubnub()
                if token:
                    client.set_token(token)
            except Exception:  # users' code: its fault must not hide a task that was sent
                log.exception("create_session_pubnub failed; the session gets a PubNub client of ours")
            else:
                return client
        return make_client(keys, user_id=f"blocks-task-{secrets.token_hex(6)}", token=token)

    def release_pubnub(self, client: PubNub) -> None:
        """Stops what a user's factory made; a client of ours has nothing to stop."""
        if self._create_session_pubnub is not None:
            self.stop_pubnub(client)

    def stop_pubnub(self, client: PubNub) -> None:
        """Ends an object that a user's factory made, threads and all."""
        try:
            client.stop()
        except Exception:  # whatever the factory's object is, a session's end must not fail over it
            log.debug("a PubNub object did not stop cleanly", exc_info=True)

    def add(self, session: Following) -> None:
        with self._lock:
            self._sessions.add(session)

    @property
    def ending(self) -> threading.Event | None:
        """Set when whoever waits is to give up; None: never."""
        return None

    def over(self) -> BlocksError | None:
        """What waits raise once they are to give up, None before."""
        return None

    def end(self) -> None:
        """Wakes whoever waits on a session of this client."""
        with self._lock:
            self.destroyed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.notice_ending()

    @property
    def forked(self) -> bool:
        """True in a child process of the one that made the client."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Threads and connections do not survive a fork, so neither does a client."""
        if self.forked:
            raise SessionClosedError(
                "this TaskClient was made in another process", hint="create a client after the fork, one per process"
            )


def make_ready(provider: AuthProvider | None) -> None:
    """The two optional methods of a provider, where it has them."""
    if provider is None:
        return
    last_error = getattr(provider, "get_last_auth_error", None)
    if callable(last_error) and last_error() is not None and not provider.on_auth_failure():
        fault = last_error()
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            raise BlocksError(f"the identity could not be renewed: {fault}")
    ensure_ready = getattr(provider, "ensure_ready", None)
    if callable(ensure_ready):
        ensure_ready()
