"""Tokens from the user's own side: an endpoint of theirs, or a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from blocks_network.api.caller import post_json
from blocks_network.api.tokens import DEFAULT_EXPIRES_IN_S, Identity
from blocks_network.errors import ApiError, ConfigurationError, TransportError

__all__ = ["TokenEndpointConfig", "TokenResult", "endpoint_token", "provided_token"]


class _Address(TypedDict):
    url: str


class TokenEndpointConfig(_Address, total=False):
    """Where a token endpoint is (`url`) and what to send it. `body` is sent as JSON, `{}` without one."""

    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What a token provider function returns. `expires_in` is in seconds."""

    token: str
    expires_in: int
    user_id: str | None = None


def endpoint_token(config: str | TokenEndpointConfig) -> Identity:
    """Asks a customer's endpoint. It never gets the API key, nor any header of the platform's."""
    spec: TokenEndpointConfig = {"url": config} if isinstance(config, str) else config
    url = spec.get("url")
    if not isinstance(url, str) or not url:
        raise ConfigurationError("token_endpoint has no url", hint="give an address, or {'url': ..., 'headers': ...}")
    body = spec.get("body")
    answer = post_json(url, {} if body is None else body, headers=spec.get("headers"))
    if not answer.ok:
        raise ApiError(f"the token endpoint {url} answered: {answer.error}", status=answer.status, code=answer.code)
    token = answer.body.get("token") if isinstance(answer.body, dict) else None
    if not isinstance(token, str) or not token:
        raise TransportError(f"the token endpoint {url} answered without a token", hint='it must answer {"token": ...}')
    expires = answer.body.get("expiresIn")
    lifetime = expires if isinstance(expires, (int, float)) and not isinstance(expires, bool) else DEFAULT_EXPIRES_IN_S
    return Identity(token, float(lifetime), user_id=answer.body.get("userId"))


def provided_token(result: object) -> Identity:
    """What a provider function returned, checked."""
    if not isinstance(result, TokenResult):
        raise ConfigurationError(
            f"token_provider returned {type(result).__name__}, not a TokenResult",
            hint="return TokenResult(token, expires_in, user_id)",
        )
    return Identity(result.token, float(result.expires_in), user_id=result.user_id)
