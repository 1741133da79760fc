"""Answers in the protocol's own shapes, and refusals as an exception that carries one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Refusal", "Reply", "bad_request", "forbidden", "json_reply", "not_found", "too_large", "too_many"]

JAVASCRIPT = 'text/javascript; charset="UTF-8"'
JSON = "application/json"
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(slots=True)
class Reply:
    """A whole answer. Every answer that is not a file is JSON with a content type: clients fail on anything else."""

    status: int
    body: bytes
    content_type: str = JAVASCRIPT
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Raised anywhere while a request is handled; `reply` is sent, `reason` is counted in the metrics."""

    def __init__(self, reply: Reply, reason: str) -> None:
        super().__init__(reason)
        self.reply, self.reason = reply, reason


def json_reply(value: Any, status: int = 200, *, content_type: str = JAVASCRIPT, **headers: str) -> Reply:
    body = _encode(value).encode("utf-8", "surrogatepass")
    return Reply(status, body, content_type, {name.replace("_", "-"): value for name, value in headers.items()})


def bad_request(message: str, service: str) -> Refusal:
    body = {"status": 400, "error": True, "message": message, "service": service}
    return Refusal(json_reply(body, 400), "bad_request")


def forbidden(channels: Sequence[str] = (), groups: Sequence[str] = (), *, message: str = "Forbidden") -> Refusal:
    payload: dict[str, list[str]] = {}
    if channels:
        payload["channels"] = list(channels)
    if groups:
        payload["channel-groups"] = list(groups)
    body = {"message": message, "payload": payload, "error": True, "service": "Access Manager", "status": 403}
    return Refusal(json_reply(body, 403, X_Pn_Cause="9999"), "forbidden")


def not_found() -> Refusal:
    return Refusal(
        json_reply({"status": 404, "error": True, "message": "Not Found", "service": "Gateway"}, 404), "not_found"
    )


def too_large(message: str = "Request Entity Too Large") -> Refusal:
    body = {"status": 413, "service": "Balancer", "error": True, "message": message}
    return Refusal(json_reply(body, 413), "too_large")


def too_many(retry_after_s: int, what: str) -> Refusal:
    body = {"status": 429, "error": True, "message": "Too many requests", "service": what}
    return Refusal(json_reply(body, 429, Retry_After=str(retry_after_s)), "too_many")
