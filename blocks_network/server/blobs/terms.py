"""Signed terms: what the holder of an upload form or of a download address may do, and until when.

Nothing is remembered for them: any node of a network takes what another one gave out, also after a restart.
Every text made here consists of `A-Za-z0-9-_.` alone: clients decode and encode addresses in ways of their own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = [
    "MAX_TERMS_CHARS",
    "TermsRefused",
    "UploadTerms",
    "form_path",
    "is_file_name",
    "open_seal",
    "seal",
    "sign_download",
    "verify_download",
]

MAX_TERMS_CHARS = 16 * 1024
"""Of a policy that comes back: names and attributes are far smaller."""


class TermsRefused(Exception):
    """They were not signed here, were changed, or are over."""


@dataclass(frozen=True, slots=True)
class UploadTerms:
    """One file that may be uploaded, once. `exact` demands just `max_bytes`, else they are the most."""

    channel: str
    blob_id: str
    name: str
    content_type: str
    max_bytes: int
    expires_at_s: int
    exact: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Kept with the blob, beside its name and content type."""

    def blob_attributes(self) -> dict[str, str]:
        return {**self.attributes, "name": self.name, "contentType": self.content_type, "channel": self.channel}

    def form_fields(self, subscribe_key: str, secret: str) -> list[tuple[str, str]]:
        """The form's fields in their order; a client copies them, its file follows."""
        policy, signature = self.sealed(secret)
        return [
            ("key", f"{subscribe_key}/{self.channel}/{self.blob_id}/{self.name}"),
            ("Content-Type", self.content_type),
            ("policy", policy),
            ("signature", signature),
        ]

    def sealed(self, secret: str) -> tuple[str, str]:
        """Policy and signature, as two fields of a form."""
        return seal(secret, "upload", asdict(self))

    @classmethod
    def opened(cls, secret: str, policy: str, signature: str) -> UploadTerms:
        """TermsRefused when they do not hold (any more)."""
        said = open_seal(secret, "upload", policy, signature)
        return cls(**{each.name: said[each.name] for each in fields(cls) if each.name in said})


def form_path(subscribe_key: str) -> str:
    """Where forms are posted to. Without a query: clients drop it."""
    return f"/v1/files/form/{subscribe_key}"


def is_file_name(name: str, max_bytes: int) -> bool:
    """Whether a file may be called so: one path component that can be printed and encoded."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= max_bytes and name not in (".", "..") and "/" not in name and name.isprintable()


def seal(secret: str, purpose: str, said: Mapping[str, Any]) -> tuple[str, str]:
    """(what is said, its signature). `purpose` keeps the seal of one kind from passing for another."""
    text = _base64url(json.dumps(said, separators=(",", ":"), sort_keys=True).encode())
    return text, _signature(secret, purpose, text)


def open_seal(secret: str, purpose: str, text: str, signature: str) -> dict[str, Any]:
    """What was sealed. TermsRefused when it is not ours, or its `expires_at_s` (Unix seconds) has passed."""
    if len(text) > MAX_TERMS_CHARS or not _same(_signature(secret, purpose, text), signature):
        raise TermsRefused("altered")
    try:
        said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error) as fault:
        raise TermsRefused("altered") from fault
    if not isinstance(said, dict) or said.get("expires_at_s", 0) <= time.time():
        raise TermsRefused("expired")
    return said


def sign_download(secret: str, channel: str, blob_id: str, name: str, expires_at_s: int) -> str:
    """The signature of an address that gives one file out until then."""
    return _signature(secret, "download", json.dumps([channel, blob_id, name, expires_at_s]))


def verify_download(secret: str, channel: str, blob_id: str, name: str, expires: str, signature: str) -> None:
    """TermsRefused when the address was changed or is over."""
    if not (expires.isascii() and expires.isdigit() and len(expires) < 12):
        raise TermsRefused("altered")
    if not _same(sign_download(secret, channel, blob_id, name, int(expires)), signature):
        raise TermsRefused("altered")
    if int(expires) <= time.time():
        raise TermsRefused("expired")


def _signature(secret: str, purpose: str, text: str) -> str:
    key = hmac.digest(secret.encode(), f"blocks files {purpose}".encode(), hashlib.sha256)
    return _base64url(hmac.digest(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256))


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogatepass"))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")
