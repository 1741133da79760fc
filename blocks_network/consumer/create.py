"""`create_task_client`: a client in one line, its credential from `.env` or the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from blocks_network import settings
from blocks_network.auth.endpoint import TokenEndpointConfig, TokenResult
from blocks_network.consumer.client import TaskClient
from blocks_network.errors import ConfigurationError, CredentialsMissingError

__all__ = ["create_task_client"]

_BILLING_OF = {"playground": "free", "network": "paid"}


def create_task_client(
    billing_mode: str = "free",
    *,
    api_key: str | None = None,
    token_endpoint: str | TokenEndpointConfig | None = None,
    token_provider: Callable[[], TokenResult] | None = None,
    env: Literal["playground", "network"] | None = None,
    **kwargs: Any,
) -> TaskClient:
    """`TaskClient.create`, with BLOCKS_API_KEY where no credential is given. `kwargs` go to `create`.

    `.env` is searched from the working directory upward; what is set already wins. `env` names the billing mode by
    its keyset: "playground" is free, "network" is paid. CredentialsMissingError (KeyError) without any credential.
    """
    from dotenv import find_dotenv, load_dotenv

    load_dotenv(find_dotenv(usecwd=True))
    if env is not None:
        if env not in _BILLING_OF:
            raise ConfigurationError(f"env is 'playground' or 'network', not {env!r}")
        billing_mode = _BILLING_OF[env]
    modes = (api_key, token_endpoint, token_provider, kwargs.get("anon_fingerprint"))
    if all(mode is None for mode in modes):
        api_key = settings.API_KEY.read()
        if api_key is None:
            raise CredentialsMissingError(
                f"{settings.API_KEY.name} is not set",
                hint="set it (a .env file will do), or give api_key, token_endpoint or token_provider",
            )
    return TaskClient.create(
        billing_mode, api_key=api_key, token_endpoint=token_endpoint, token_provider=token_provider, **kwargs
    )
