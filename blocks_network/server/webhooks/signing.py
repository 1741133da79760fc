"""Signatures as the Standard Webhooks specification has them (version v1: HMAC-SHA256 with a shared secret).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

__all__ = ["SECRET_PREFIX", "key_of", "make_secret", "signed_headers"]

SECRET_PREFIX = "whsec_"  # noqa: S105 - how secrets begin
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""The specification's bounds."""
MADE_KEY_BYTES = 32


def make_secret() -> str:
    """A new secret, in the form that receivers' libraries take."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(MADE_KEY_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign. ValueError for a text that is no secret of the specification."""
    wrong = f"secret must be {SECRET_PREFIX} and the base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes"
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(wrong)
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(wrong) from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(wrong)
    return key


def signed_headers(secret: str, delivery_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. `delivery_id` is the same over retries, `at_s` (Unix seconds) is not."""
    signed = b"%s.%d.%s" % (delivery_id.encode(), at_s, body)
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
