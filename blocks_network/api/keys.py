"""API keys of one's organisation: made, listed, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from blocks_network.api.caller import Caller, api_error
from blocks_network.errors import TransportError

__all__ = ["KeyInfo", "NewKey", "create_key", "list_keys", "revoke_key"]

PATH = "/api/v1/keys"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What a network tells of a key; never its secret. Instants are ISO 8601."""

    key_id: str
    org_id: str
    user_id: str
    label: str
    scopes: tuple[str, ...]
    created_time: str | None = None
    revoked_time: str | None = None

    @classmethod
    def from_dict(cls, wire: Any) -> KeyInfo:
        """TransportError for what is no key."""
        try:
            return cls(
                key_id=wire["keyId"],
                org_id=str(wire.get("orgId") or ""),
                user_id=str(wire.get("userId") or ""),
                label=str(wire.get("label") or ""),
                scopes=tuple(wire.get("scopes") or ()),
                created_time=wire.get("createdTime"),
                revoked_time=wire.get("revokedTime"),
            )
        except (AttributeError, KeyError, TypeError) as fault:
            raise TransportError("the network's answer holds no API key") from fault


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, with its secret, which cannot be had again."""

    info: KeyInfo
    api_key: str = field(repr=False)


def create_key(
    caller: Caller,
    api_key: str,
    *,
    scopes: Sequence[str] | None = None,
    label: str = "",
    org_id: str | None = None,
    user_id: str | None = None,
) -> NewKey:
    """A new key of the caller's organisation with the caller's scopes, or some of them. Operators name others."""
    body = {"scopes": list(scopes) if scopes else None, "label": label or None, "orgId": org_id, "userId": user_id}
    answer = caller.call("POST", PATH, {k: v for k, v in body.items() if v is not None}, bearer=api_key)
    if not answer.ok:
        raise api_error(answer, "no API key was made")
    secret = answer.body.get("apiKey") if isinstance(answer.body, dict) else None
    if not isinstance(secret, str):
        raise TransportError("the network's answer holds no API key")
    return NewKey(KeyInfo.from_dict(answer.body), secret)


def list_keys(caller: Caller, api_key: str) -> list[KeyInfo]:
    """Oldest first, also those that were revoked."""
    answer = caller.call("GET", PATH, bearer=api_key)
    if not answer.ok:
        raise api_error(answer, "the API keys cannot be listed")
    return [KeyInfo.from_dict(wire) for wire in answer.body.get("keys") or []]


def revoke_key(caller: Caller, api_key: str, key_id: str) -> None:
    """Ends a key at once. ApiError with status 404 when there is none of this id for the caller."""
    answer = caller.call("DELETE", f"{PATH}/{quote(key_id, safe='')}", bearer=api_key, repeatable=True)
    if not answer.ok:
        raise api_error(answer, f"the API key {key_id} was not revoked")
