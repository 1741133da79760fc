"""A task's webhook: SendMessage's `pushNotificationConfig`, read and kept."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from blocks_network.server.webhooks.signing import key_of, make_secret
from blocks_network.server.webhooks.targets import names_this_machine

__all__ = ["DEFAULT_EVENTS", "EVENTS", "Webhook"]

DEFAULT_EVENTS = ("task.completed", "task.failed", "task.canceled")
EVENTS = ("task.running", "task.paused", "task.resumed", "task.artifact", *DEFAULT_EVENTS)
"""What can be told. Progress is for those who watch: they subscribe to the task's channel."""
MAX_URL_CHARS = 2_048


@dataclass(frozen=True, slots=True)
class Webhook:
    """`made_secret`: the secret was made here, so the sender has to be told."""

    push_config_id: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    events: tuple[str, ...] = DEFAULT_EVENTS
    made_secret: bool = False

    @classmethod
    def from_wire(cls, wire: object, *, allow_private: bool) -> Webhook:
        """Reads `{url, secret?, events?}`. ValueError names what is wrong."""
        if not isinstance(wire, Mapping):
            raise ValueError("pushNotificationConfig is not an object")
        secret = wire.get("secret")
        if secret is not None and not isinstance(secret, str):
            raise ValueError("pushNotificationConfig.secret is not a text")
        if secret:
            try:
                key_of(secret)
            except ValueError as fault:
                raise ValueError(f"pushNotificationConfig.{fault}; leave it out and the network makes one") from None
        return cls(
            push_config_id=f"push_{secrets.token_hex(10)}",
            url=_url(wire.get("url"), allow_private),
            secret=secret or make_secret(),
            events=_events(wire.get("events")),
            made_secret=not secret,
        )

    def to_text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Webhook:
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "events": tuple(values["events"])})


def _url(url: object, allow_private: bool) -> str:
    at = "pushNotificationConfig.url"
    if not isinstance(url, str) or not url:
        raise ValueError(f"{at} is missing")
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"{at} has {len(url)} characters, at most {MAX_URL_CHARS} are taken")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{at} has characters that an address does not have")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{at} is not an address") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(f"{at} is not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{at} holds a user name or a password; the signature shows who calls")
    if not allow_private and names_this_machine(host):
        raise ValueError(f"{at}: {host} is not on the public internet, and this network calls nothing else")
    return url


def _events(events: object) -> tuple[str, ...]:
    if events is None:
        return DEFAULT_EVENTS
    if not isinstance(events, list) or not events or not all(event in EVENTS for event in events):
        raise ValueError(f"pushNotificationConfig.events is not a list of some of {', '.join(EVENTS)}")
    return tuple(dict.fromkeys(events))
