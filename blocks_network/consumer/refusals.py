"""What a refused token means: an answer for good, or an outage that passes."""

from __future__ import annotations

from blocks_network.errors import AnonTaskAccessDenied, ApiError, AuthRefreshFailedError, BlocksError

__all__ = ["is_final"]

_FINAL_STATUSES = (400, 401, 403, 404)


def is_final(refusal: BlocksError) -> bool:
    """Whether a network that refused a token will refuse the next one too."""
    if isinstance(refusal, ApiError):
        return refusal.status in _FINAL_STATUSES
    return isinstance(refusal, (AnonTaskAccessDenied, AuthRefreshFailedError))
