"""Tokens: an instance connects, tokens are renewed, a consumer is let in, a task may be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from blocks_network.api.caller import Answer, Caller, api_error
from blocks_network.errors import AgentAuthFatalError, AnonTaskAccessDenied, ApiError, TransportError

__all__ = [
    "API_KEY_INVALID",
    "Connected",
    "Identity",
    "ReadToken",
    "REFRESH_TOKEN_INVALID",
    "anonymous_read_token",
    "connect",
    "consumer_token",
    "reader_token",
    "refresh",
    "task_read_token",
]

READ_TOKEN_TIMEOUT_S = 15.0
DEFAULT_EXPIRES_IN_S = 60
REFRESH_TOKEN_INVALID = "REFRESH_TOKEN_INVALID"  # noqa: S105 - an error code
API_KEY_INVALID = "API_KEY_INVALID"
_FATAL = {
    API_KEY_INVALID: "the network refuses this API key; create a new one and set BLOCKS_API_KEY",
    "AGENT_FORCED_OFFLINE": "an administrator took this agent offline; ask the network's operator",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A bearer and how long it holds. `expires_in_s` counts from the answer."""

    access_token: str
    expires_in_s: float
    refresh_token: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """An instance that the network knows."""

    identity: Identity
    agent_id: str
    control_channel: str
    pam_token: str | None


@dataclass(frozen=True, slots=True)
class ReadToken:
    """Permission to read one task's channel for `ttl_minutes`."""

    token: str
    channel: str
    ttl_minutes: float


def connect(caller: Caller, api_key: str, registration: Mapping[str, Any]) -> Connected:
    """Announces an instance. AgentAuthFatalError when the network will never take it; ApiError otherwise."""
    payload = {key: value for key, value in registration.items() if value is not None}
    answer = caller.call("POST", "/api/v1/auth/agent/connect", payload, bearer=api_key)
    _raise_fatal(answer)
    if not answer.ok:
        name = registration.get("agentName")
        raise api_error(answer, f"the network does not let agent {name} connect", agent_name=name)
    channel = answer.body.get("controlChannel")
    if not isinstance(channel, str) or not channel:
        raise TransportError("the network's answer to connect names no control channel")
    return Connected(
        identity=_identity(answer),
        agent_id=str(answer.body.get("agentId", "")),
        control_channel=channel,
        pam_token=answer.body.get("pamToken"),
    )


def refresh(caller: Caller, api_key: str, refresh_token: str) -> Identity:
    """A new bearer for a rotating refresh token. ApiError with code REFRESH_TOKEN_INVALID: connect again."""
    answer = caller.call("POST", "/api/v1/auth/agent/refresh", {"refreshToken": refresh_token}, bearer=api_key)
    _raise_fatal(answer)
    if not answer.ok:
        raise api_error(answer, "the token could not be renewed")
    return _identity(answer)


def consumer_token(caller: Caller, api_key: str) -> Identity:
    """A consumer's first bearer, for an API key."""
    answer = caller.call(
        "POST", "/api/v1/auth/agent/consumer-token", {"apiKey": api_key}, anonymous=True, repeatable=True
    )
    if not answer.ok:
        raise _consumer_error(answer)
    return _identity(answer)


def task_read_token(caller: Caller, task_id: str, role: Literal["consumer", "provider"] = "consumer") -> ReadToken:
    """ApiError with status 403 when the caller does not own the task."""
    answer = caller.call(
        "POST",
        "/api/v1/auth/task-read-token",
        {"taskId": task_id, "role": role},
        timeout_s=READ_TOKEN_TIMEOUT_S,
        repeatable=True,
    )
    if not answer.ok:
        raise api_error(answer, f"no read token for task {task_id} (HTTP {answer.status})")
    return _read_token(answer)


def reader_token(caller: Caller, reader: str, billing_mode: str) -> ReadToken:
    """Permission to read the group of all tasks that were sent under this name; `channel` is the group."""
    body = {"reader": reader, "billingMode": billing_mode}
    answer = caller.call("POST", "/api/v1/auth/reader-token", body, timeout_s=READ_TOKEN_TIMEOUT_S)
    if not answer.ok:
        raise api_error(answer, f"no token to read the client's tasks (HTTP {answer.status})")
    return _read_token(answer)


def anonymous_read_token(caller: Caller, task_id: str, fingerprint: str) -> ReadToken:
    """AnonTaskAccessDenied on 403."""
    answer = caller.call(
        "POST",
        "/api/v1/auth/anon-task-read-token",
        {"taskId": task_id, "fingerprint": fingerprint},
        anonymous=True,
        timeout_s=READ_TOKEN_TIMEOUT_S,
        repeatable=True,
    )
    if answer.status == 403:
        raise AnonTaskAccessDenied(f"task {task_id} may not be read anonymously (403): {answer.error}", task_id=task_id)
    if not answer.ok:
        raise api_error(answer, f"no anonymous read token for task {task_id}")
    return _read_token(answer)


def _raise_fatal(answer: Answer) -> None:
    if answer.code in _FATAL:
        raise AgentAuthFatalError(answer.error, code=answer.code, hint=_FATAL[answer.code])


def _consumer_error(answer: Answer) -> ApiError:
    if answer.code == API_KEY_INVALID:
        return ApiError(
            "API_KEY_INVALID: the network refuses this API key",
            status=answer.status,
            code=answer.code,
            hint="check BLOCKS_API_KEY, or create a new key",
        )
    return api_error(answer, "the network gives no consumer token")


def _identity(answer: Answer) -> Identity:
    token = answer.body.get("accessToken")
    if not isinstance(token, str) or not token:
        raise TransportError("the network's answer holds no access token")
    expires = answer.body.get("expiresIn")
    lifetime = expires if isinstance(expires, (int, float)) and not isinstance(expires, bool) else DEFAULT_EXPIRES_IN_S
    return Identity(token, float(lifetime), answer.body.get("refreshToken"), answer.body.get("userId"))


def _read_token(answer: Answer) -> ReadToken:
    try:
        return ReadToken(answer.body["pamToken"], answer.body["channel"], float(answer.body.get("ttlMinutes", 60)))
    except (KeyError, TypeError, ValueError) as fault:
        raise TransportError("the network's answer holds no read token") from fault
