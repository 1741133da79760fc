"""An instance's place on the network: connected, heard on its control channel, moved when its agent changes sides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from blocks_network.agent.control import FIRST_POLL_S, ControlLink
from blocks_network.agent.identity import InstanceIdentity
from blocks_network.agent.timers import Timers
from blocks_network.api.tokens import Connected
from blocks_network.errors import AccessDeniedError, AgentAuthFatalError, ApiError, BlocksError, TransportError
from blocks_network.logs import said_of
from blocks_network.transport.pubnub import PubNubKeys
from blocks_network.transport.subscription import Received

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["Connection", "Environment"]

log = logging.getLogger(__name__)

Environment = Literal["playground", "network"]
ENVIRONMENTS: tuple[str, ...] = ("playground", "network")
JOIN_S = 5.0
CONNECT_FIRST_S, CONNECT_CAP_S = 0.2, 5.0
"""Pauses between attempts to connect at the start."""
BUSY = frozenset({429, 502, 503, 504})
"""What a network says while it starts, stops, or has too much to do: no verdict on the agent."""
RENEW_AT_SHARE = 0.8
"""Of a capability token's life: an instance that gets no work gets no token with it, and would be deaf at its end."""
RENEW_AGAIN_S = 60.0
"""After a renewal that failed, and at the least: clocks differ. The token's very end is met by `denied`."""


class _Ears:
    """Listens on one link: at a switch two of them do, and only the newer one's refusals count."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.link: ControlLink | None = None
        self._lost = False

    def received(self, message: Received) -> None:
        self._connection.received(message)

    def connected(self) -> None:
        if not self._lost:
            log.debug("instance %s is subscribed", self._connection.instance_id)
            return
        self._lost = False
        self._connection.tell(logging.INFO, "transport_recovered", "transport recovered: it listens again")

    def disconnected(self, fault: TransportError) -> None:
        self._lost = True
        self._connection.tell(logging.WARNING, "transport_retry", f"transport retrying: {fault}")

    def denied(self, fault: AccessDeniedError) -> bool:
        return self.link is not None and self._connection.denied(self.link, fault)


class Connection:
    """Owns the control link, and the threads of its switches and renewals.

    `received` gets every control message, on the link's thread. `shut_out(fault)` hears that the network will not take
    the agent back; `moved()` that another environment's keys hold from now on.
    """

    def __init__(
        self,
        identity: InstanceIdentity,
        *,
        token: str | None,
        client: PubNub | None,
        timers: Timers,
        state: Callable[[], dict[str, Any]],
        received: Callable[[Received], None],
        shut_out: Callable[[AgentAuthFatalError], None],
        moved: Callable[[], None],
    ) -> None:
        self._identity, self._token, self._client, self._timers = identity, token, client, timers
        self._state, self.received, self._shut_out, self._moved = state, received, shut_out, moved
        self.instance_id = identity.instance_id
        self.keys: PubNubKeys = identity.keys
        self.environment: Environment = "playground" if identity.billing_mode == "free" else "network"
        self._lock = threading.Lock()
        self._link: ControlLink | None = None
        self._newest_token: str | None = None
        self._ending = threading.Event()
        self._errands: list[threading.Thread] = []
        self._withdraw_renewal: Callable[[], None] | None = None

    def tell(self, level: int, event: str, what: str) -> None:
        """A line that programs look for."""
        log.log(
            level,
            "instance %s: %s",
            self.instance_id,
            what,
            extra=said_of(event, self.instance_id, self._identity.agent_name),
        )

    @property
    def link(self) -> ControlLink:
        """RuntimeError before the first one."""
        if self._link is None:
            raise RuntimeError("the instance has not connected yet")
        return self._link

    def start(self, deadline: float) -> None:
        """Connects, subscribes, announces, all before `deadline` (monotonic). TransportError says what did not go."""
        connected = self._connect(deadline)
        link = self._make_link(self.keys, connected.control_channel, self._token or connected.pam_token, self._client)
        self._link = link
        heard = link.start(min(FIRST_POLL_S, max(0.1, deadline - time.monotonic())))
        if not heard or not link.announce(max(0.1, deadline - time.monotonic())):
            raise TransportError(
                f"agent {self._identity.agent_name} connected, but the network does not answer on its control channel",
                hint="check that the PubNub origin of the network can be reached from here",
            )
        self._plan_renewal(link)

    def load_changed(self) -> None:
        if self._link is not None:
            self._link.load_changed()

    def set_token(self, token: str) -> None:
        """A newer one for the control channel, as tasks bring them: mostly the same again."""
        if token != self._newest_token:
            self._newest_token = token
            self.link.set_token(token)
            self._plan_renewal(self.link)

    def stop(self) -> None:
        """Leaves the network; nothing is heard any more. A start or switch under way ends too."""
        self._ending.set()
        with self._lock:
            link = self._link
            if self._withdraw_renewal is not None:
                self._withdraw_renewal()
            errands = list(self._errands)
        if link is not None:
            link.stop(JOIN_S)
        for errand in errands:
            if errand is not threading.current_thread():  # an instance that is shut out ends on one
                errand.join(JOIN_S)

    def _run_beside(self, what: str, run: Callable[[], None]) -> None:
        errand = threading.Thread(target=run, name=f"blocks-{what}-{self.instance_id}", daemon=True)
        with self._lock:
            if self._ending.is_set():
                return
            self._errands = [one for one in self._errands if one.is_alive()] + [errand]
            errand.start()

    def _connect(self, deadline: float) -> Connected:
        """Tries again while the network is out of reach or busy, until the deadline."""
        pause_s = CONNECT_FIRST_S
        while True:
            try:
                return self._identity.auth.init(self._identity.connect_payload)
            except AgentAuthFatalError as fault:
                self.tell(logging.ERROR, "agent_registration_failed", f"the network does not take the agent: {fault}")
                raise
            except (TransportError, ApiError) as fault:
                verdict = isinstance(fault, ApiError) and fault.status not in BUSY
                if verdict or time.monotonic() + pause_s >= deadline:
                    raise
                log.warning("agent %s cannot connect yet: %s", self._identity.agent_name, fault)
                self._ending.wait(pause_s)
                pause_s = min(pause_s * 2, CONNECT_CAP_S)

    def _make_link(
        self, keys: PubNubKeys, channel: str, token: str | None, client: PubNub | None = None
    ) -> ControlLink:
        ears = _Ears(self)
        link = ears.link = ControlLink(
            keys, channel, token, instance_id=self.instance_id, listener=ears, state=self._state, client=client
        )
        return link

    # --- the token of the control channel

    def denied(self, link: ControlLink, fault: AccessDeniedError) -> bool:
        """The link's token has ended: connect again for a fresh one. True: poll on from where it stopped."""
        if link is not self._link:
            return self._link is None  # a newer link hears what this one would have
        log.warning("instance %s: %s; connecting again", self.instance_id, fault)
        try:
            self._renew(link)
        except AgentAuthFatalError as fatal:
            self._shut_out(fatal)
            return False
        except BlocksError as failure:
            log.warning("instance %s cannot connect again yet: %s", self.instance_id, failure)
        return True

    def _renew(self, link: ControlLink) -> None:
        connected = self._identity.auth.init()
        if connected.pam_token:
            link.set_token(connected.pam_token)
            self._plan_renewal(link)

    def _plan_renewal(self, link: ControlLink) -> None:
        """Before the token ends, where it says when."""
        lifetime_s = link.token_lifetime_s()
        if lifetime_s is not None:
            self._renew_after(link, max(RENEW_AGAIN_S, lifetime_s * RENEW_AT_SHARE))

    def _renew_after(self, link: ControlLink, delay_s: float) -> None:
        def due() -> None:  # on the timers' thread, which must not wait for the network
            self._run_beside("renewal", lambda: self._renew_early(link))

        with self._lock:
            if self._withdraw_renewal is not None:
                self._withdraw_renewal()
            self._withdraw_renewal = None if self._ending.is_set() else self._timers.after(delay_s, due)

    def _renew_early(self, link: ControlLink) -> None:
        if self._ending.is_set() or link is not self._link:
            return
        try:
            self._renew(link)
        except AgentAuthFatalError as fatal:
            self._shut_out(fatal)
        except BlocksError as failure:
            log.warning("instance %s could not renew its token yet: %s", self.instance_id, failure)
            self._renew_after(link, RENEW_AGAIN_S)

    # --- SwitchEnvironment

    def switch(self, wire: Mapping[str, Any]) -> None:
        """Returns at once. Ignored when the environment is unknown or already the instance's."""
        environment, token = wire.get("environment"), wire.get("pamToken")
        if environment not in ENVIRONMENTS or environment == self.environment:
            log.warning("ignored a switch to environment %r", environment)
            return
        if not isinstance(token, str) or not token or self._identity.cdm is None:
            log.error("a switch to environment %s came without a token", environment)
            return
        to: Environment = "playground" if environment == "playground" else "network"
        self.environment = to
        self._run_beside("switch", lambda: self._switch_to(to, token))

    def _switch_to(self, environment: Environment, token: str) -> None:
        """Both links listen until the new one is sure to, then the old one ends: no message falls between them.

        A task that arrives on both is run once. From here on the instance also connects as what its agent now is.
        """
        assert self._identity.cdm is not None
        billing_mode: Literal["free", "paid"] = "free" if environment == "playground" else "paid"
        self._identity.auth.amend({"billingMode": billing_mode})
        keys, old = self._identity.cdm.keys(billing_mode), self.link
        link = self._make_link(keys, old.channel, token)
        with self._lock:
            if self._ending.is_set():
                return
            self.keys, self._link = keys, link
        if not link.start(FIRST_POLL_S):
            text = f"transport failed: environment {environment} does not answer; it goes on trying"
            self.tell(logging.ERROR, "transport_failed", text)
        link.announce(FIRST_POLL_S)
        old.stop(JOIN_S)
        self._plan_renewal(link)
        self._moved()
        log.info("instance %s is on environment %s", self.instance_id, environment)
