"""An agent's identity: connects with the API key, keeps the bearer fresh, notices when the network shuts it out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from blocks_network.api.caller import Caller
from blocks_network.api.tokens import REFRESH_TOKEN_INVALID, Connected, Identity, connect, refresh
from blocks_network.auth.keeper import TokenKeeper
from blocks_network.errors import AgentAuthFatalError, ApiError, ConfigurationError

__all__ = ["AgentAuth"]


class AgentAuth:
    """One instance's identity. `on_fatal(exc)` hears, once, that the network will not take it back."""

    def __init__(
        self, api_key: str, base_url: str, *, on_fatal: Callable[[AgentAuthFatalError], None] | None = None
    ) -> None:
        if not api_key:
            raise ConfigurationError("api_key is required")
        if not base_url:
            raise ConfigurationError("base_url is required")
        self._api_key = api_key
        self._caller = Caller(base_url)
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._registration: dict[str, Any] | None = None
        self._fatal: AgentAuthFatalError | None = None
        self._keeper = TokenKeeper(self._acquire, whose="agent", on_failure=None)
        self._calls = Caller(base_url, self)

    def init(self, registration_payload: Mapping[str, Any] | None = None) -> Connected:
        """Connects. Without payload, with the stored one again."""
        with self._lock:
            if registration_payload is not None:
                self._registration = dict(registration_payload)
        try:
            answer = self._connect()
        except AgentAuthFatalError as fault:
            self._shut_out(fault)
            raise
        self._keeper.adopt(answer.identity)
        return answer

    def _connect(self) -> Connected:
        with self._lock:
            registration = self._registration
        if registration is None:
            raise ConfigurationError("connect needs a registration payload the first time")
        return connect(self._caller, self._api_key, registration)

    def amend(self, changes: Mapping[str, Any]) -> None:
        """Later connects say this of the registration instead: the agent has changed meanwhile."""
        with self._lock:
            self._registration = {**(self._registration or {}), **changes}

    @property
    def caller(self) -> Caller:
        """Calls the platform as this agent."""
        return self._calls

    def get_api_key(self) -> str:
        return self._api_key

    def get_access_token(self) -> str | None:
        identity = self._keeper.identity
        return identity.access_token if identity else None

    def get_auth_header(self) -> str | None:
        token = self.get_access_token()
        return f"Bearer {token}" if token else None

    def on_auth_failure(self) -> bool:
        """After a 401. AgentAuthFatalError when the network has shut this agent out."""
        renewed = self._keeper.renew()
        if self._fatal is not None:
            raise self._fatal
        return renewed

    def refresh(self) -> None:
        """Renews now; raises what went wrong."""
        if not self.on_auth_failure():
            raise self._keeper.failure or ConfigurationError("this identity was closed")

    def authenticated_request(
        self, url: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, int]:
        """(parsed JSON, HTTP status) of a call to the platform as this agent; one renewal and retry on 401."""
        if self._keeper.identity is None:
            raise RuntimeError("init() must be called first")
        base = self._caller.base_url
        if not url.startswith(base):
            raise ConfigurationError(f"{url} is not on this network ({base})")
        answer = Caller(base, self, extra_headers=headers).call(method, url[len(base) :], body)
        return answer.body, answer.status

    def close(self, timeout_s: float = 0.0) -> None:
        """Ends renewals, and waits at most `timeout_s` for one under way; the last token stays readable."""
        self._keeper.stop()
        if timeout_s > 0:
            self._keeper.join(timeout_s)

    def _acquire(self, current: Identity | None) -> Identity:
        try:
            if current is not None and current.refresh_token:
                try:
                    return refresh(self._caller, self._api_key, current.refresh_token)
                except ApiError as fault:
                    if fault.code != REFRESH_TOKEN_INVALID:
                        raise
            return self._connect().identity
        except AgentAuthFatalError as fault:
            self._shut_out(fault)
            raise

    def _shut_out(self, fault: AgentAuthFatalError) -> None:
        with self._lock:
            first = self._fatal is None
            self._fatal = fault
        self._keeper.stop()
        if first and self._on_fatal is not None:
            self._on_fatal(fault)
