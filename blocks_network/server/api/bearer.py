"""Who calls: the bearer of a request, an API key or an access token, read into a principal."""

from __future__ import annotations

from starlette.requests import Request

from blocks_network.server.access.apikeys import KEY_PREFIX
from blocks_network.server.access.jwts import TokenRefused, UnknownSigningKey
from blocks_network.server.access.principal import Principal
from blocks_network.server.api.errors import forbidden, unauthenticated
from blocks_network.server.api.services import Services
from blocks_network.server.http.headers import header_of

__all__ = [
    "API_KEY_INVALID",
    "bearer_of",
    "key_owner_of",
    "optional_principal_of",
    "principal_by",
    "principal_of",
    "principal_of_key",
]

API_KEY_INVALID = "API_KEY_INVALID"
"""Clients of the protocol end their process on this one, so it is said of API keys alone."""


def bearer_of(request: Request) -> str | None:
    """The credential of the Authorization header, None when there is none of the kind Bearer."""
    kind, _, credential = header_of(request.scope, b"authorization").decode("latin-1").strip().partition(" ")
    return credential.strip() or None if kind.lower() == "bearer" else None


async def principal_of(request: Request, services: Services, *, scope: str | None = None) -> Principal:
    """The caller, by API key or access token. ApiRefusal: 401 nobody, 403 somebody without `scope`."""
    credential = bearer_of(request)
    if credential is None:
        raise unauthenticated("this call needs an API key or an access token as its bearer")
    return _in_scope(await principal_by(credential, services), scope)


async def principal_by(credential: str, services: Services) -> Principal:
    """Whoever an API key or an access token stands for. ApiRefusal 401."""
    if credential.startswith(KEY_PREFIX):
        return await principal_of_key(credential, services)
    return await _principal_of_token(credential, services)


async def key_owner_of(request: Request, services: Services, *, scope: str | None = None) -> Principal:
    """The caller, by API key alone: for calls that give out tokens."""
    credential = bearer_of(request)
    if credential is None:
        raise unauthenticated("this call needs an API key as its bearer")
    return _in_scope(await principal_of_key(credential, services), scope)


async def optional_principal_of(request: Request, services: Services) -> Principal | None:
    """The caller of a call that is open to all: a bearer that does not hold counts as none."""
    credential = bearer_of(request)
    if credential is None:
        return None
    if credential.startswith(KEY_PREFIX):
        return await services.api_keys.verify(credential)
    try:
        return services.access_tokens.verify(credential)
    except TokenRefused:
        return None


async def principal_of_key(secret: str, services: Services) -> Principal:
    """ApiRefusal 401 with API_KEY_INVALID: unknown or revoked, nobody learns which."""
    principal = await services.api_keys.verify(secret)
    if principal is None:
        raise unauthenticated("the API key is unknown or revoked", API_KEY_INVALID)
    return principal


async def _principal_of_token(token: str, services: Services) -> Principal:
    try:
        try:
            return services.access_tokens.verify(token)
        except UnknownSigningKey:
            await services.access_tokens.reload()  # another node may have made the key a moment ago
            return services.access_tokens.verify(token)
    except TokenRefused as fault:
        raise unauthenticated(str(fault), fault.code) from fault


def _in_scope(principal: Principal, scope: str | None) -> Principal:
    if scope is not None and not principal.may(scope):
        raise forbidden(f"this identity lacks the scope {scope!r}", "SCOPE_MISSING")
    return principal
