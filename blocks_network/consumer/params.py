"""What a message says: its parameters, checked, and their wire form."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blocks_network.errors import ConfigurationError
from blocks_network.wire.control import PIPE_MAX_MINUTES

__all__ = ["SendMessageParams"]


@dataclass(slots=True)
class SendMessageParams:
    """The parameters of `send_message` as one object.

    `duration` is in minutes (pipe tasks only, 1..43200), `drain_window_s` in seconds. `stream` True asks for live
    streams of a request task, False forbids them, None leaves it to the network. With
    `anon_fingerprint` (16 characters at least) whoever has it reads the task without an identity, where the agent is
    public and free.
    """

    agent_name: str = ""
    request_parts: Any = None
    idempotency_key: str | None = None
    owner_id: str = ""
    task_kind: str | None = None
    duration: int | None = None
    consumer_public_key: str | None = None
    stream: bool | None = None
    push_notification_config: Mapping[str, Any] | None = None
    retry_policy: Mapping[str, Any] | None = None
    auto_drain: bool | None = None
    drain_window_s: float | None = None
    anon_fingerprint: str | None = None

    def check(self) -> None:
        """ConfigurationError (ValueError) for a duration that the task's kind does not allow."""
        if self.task_kind == "pipe":
            minutes = self.duration
            whole = isinstance(minutes, int) and not isinstance(minutes, bool)
            if not whole or not 1 <= (minutes or 0) <= PIPE_MAX_MINUTES:
                raise ConfigurationError(
                    f"duration of a pipe task is a whole number of minutes in 1..{PIPE_MAX_MINUTES}, not {minutes!r}"
                )
        elif self.duration is not None:
            raise ConfigurationError("duration is for pipe tasks alone", hint="give task_kind='pipe'")

    def to_wire(
        self,
        *,
        request_parts: list[Any],
        owner_id: str,
        billing_mode: str,
        upload_session_id: str | None = None,
        reader: str | None = None,
    ) -> dict[str, Any]:
        """The `params` of SendMessage. Without an idempotency key of the caller's it gets one, so that a call whose
        answer was lost can be made again."""
        blocks = {
            "stream": self.stream,
            "taskKind": self.task_kind or None,
            "duration": self.duration,
            "consumerPublicKey": self.consumer_public_key or None,
            "reader": reader,
            "anonFingerprint": self.anon_fingerprint or None,
        }
        blocks = {key: value for key, value in blocks.items() if value is not None}
        wire: dict[str, Any] = {
            "agentName": self.agent_name,
            "requestParts": request_parts,
            "ownerId": owner_id,
            "billingMode": billing_mode,
            "idempotencyKey": self.idempotency_key or f"sdk-{secrets.token_hex(16)}",
        }
        if upload_session_id:
            wire["uploadSessionId"] = upload_session_id
        if blocks:
            wire["extensions"] = {"blocks": blocks}
        if self.push_notification_config:
            wire["pushNotificationConfig"] = dict(self.push_notification_config)
        if self.retry_policy:
            wire["retryPolicy"] = dict(self.retry_policy)
        return wire
