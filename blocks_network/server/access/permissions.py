"""What a request needs, what it is given, and the refusal when it may not have it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

__all__ = ["Bits", "Denied", "Grant", "Need"]


class Bits(IntFlag):
    """Permission bits of capability tokens."""

    READ = 1
    WRITE = 2
    MANAGE = 4
    DELETE = 8
    CREATE = 16
    GET = 32
    UPDATE = 64
    JOIN = 128


@dataclass(frozen=True, slots=True)
class Need:
    """One resource that a request touches. `group` tells a channel group from a channel; any of `bits` is enough."""

    name: str
    bits: Bits
    group: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """Why a request was allowed. `token_id` is empty without a token, `expires_at_s` None when nothing expires."""

    token_id: str = ""
    expires_at_s: float | None = None
    signed: bool = False


class Denied(Exception):
    """Not allowed. `cause` is the protocol's X-Pn-Cause (9999 no permission, 4001 revoked); `refused` the names."""

    def __init__(self, message: str = "Forbidden", *, cause: str = "9999", refused: tuple[Need, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.cause, self.refused = message, cause, refused
