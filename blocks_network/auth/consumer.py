"""A consumer's identity in one of three modes: API key, token endpoint, token function."""

from __future__ import annotations

from collections.abc import Callable

from blocks_network.api.caller import Caller
from blocks_network.api.tokens import REFRESH_TOKEN_INVALID, Identity, consumer_token, refresh
from blocks_network.auth.endpoint import TokenEndpointConfig, TokenResult, endpoint_token, provided_token
from blocks_network.auth.keeper import TokenKeeper
from blocks_network.errors import ApiError, AuthRefreshFailedError, ConfigurationError

__all__ = ["ConsumerAuth"]

PATIENCE_S = 10.0
"""With a network that says that it has no time."""


class ConsumerAuth:
    """Keeps a consumer's bearer fresh. Exactly one mode; `api_key` needs `base_url`.

    `on_auth_error(exc)` hears the cause when the token could not be renewed in time, on the renewing thread.
    Implements `AuthProvider` with both optional methods.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        token_endpoint: str | TokenEndpointConfig | None = None,
        token_provider: Callable[[], TokenResult] | None = None,
        base_url: str | None = None,
        on_auth_error: Callable[[Exception], None] | None = None,
    ) -> None:
        modes = [mode for mode in (api_key, token_endpoint, token_provider) if mode]
        if len(modes) != 1:
            raise ConfigurationError("exactly one of api_key, token_endpoint and token_provider is needed")
        if api_key and not base_url:
            raise ConfigurationError("api_key needs base_url")
        self._api_key = api_key
        self._endpoint, self._provider = token_endpoint, token_provider
        self._caller = Caller(base_url, patience_s=PATIENCE_S) if base_url else None
        self._keeper = TokenKeeper(self._acquire, whose="consumer", on_failure=on_auth_error)

    def init(self) -> None:
        """Acquires the first token; raises what went wrong."""
        self._keeper.ensure_started()

    def ensure_ready(self) -> None:
        """`init` once, for providers that are made before they are needed."""
        self._keeper.ensure_started()

    def get_auth_header(self) -> str | None:
        identity = self._keeper.identity
        return f"Bearer {identity.access_token}" if identity else None

    def get_user_id(self) -> str | None:
        identity = self._keeper.identity
        return identity.user_id if identity else None

    def get_last_auth_error(self) -> AuthRefreshFailedError | None:
        """Why the last renewal failed, its cause as `__cause__`; None since the last success."""
        failure = self._keeper.failure
        if failure is None:
            return None
        error = AuthRefreshFailedError(
            f"the token could not be renewed: {failure}", hint="check the API key or the token endpoint"
        )
        error.__cause__ = failure
        return error

    def on_auth_failure(self) -> bool:
        """Renews after a 401; callers at the same time share one renewal."""
        return self._keeper.renew()

    def destroy(self) -> None:
        """Ends renewals. The last token stays readable."""
        self._keeper.stop()

    def _acquire(self, current: Identity | None) -> Identity:
        if self._endpoint:
            return endpoint_token(self._endpoint)
        if self._provider is not None:
            return provided_token(self._provider())
        caller, api_key = self._caller, self._api_key
        if caller is None or api_key is None:
            raise ConfigurationError("no API key")
        if current is not None and current.refresh_token:
            try:
                return refresh(caller, api_key, current.refresh_token)
            except ApiError as fault:
                if fault.code != REFRESH_TOKEN_INVALID:
                    raise
        return consumer_token(caller, api_key)
