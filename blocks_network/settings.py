"""Every environment variable that the package reads: name, type, default, unit. Nowhere else is `os.environ` read.

A variable is read when it is needed, not at import, so that a program may set it first. A value of the wrong type
counts as unset, as the protocol's users expect, and is said once at warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = [
    "Setting",
    "API_KEY",
    "CDM_URL",
    "BACKEND_URL",
    "SUBSCRIBE_KEY",
    "PUBLISH_KEY",
    "CLI_VERSION",
    "LOG_LEVEL",
    "ARTIFACT_INLINE_LIMIT_BYTES",
    "AGENT_SHUTDOWN_GRACE_SEC",
    "PROFILE",
    "DEBUG_INTERNAL",
    "STREAM_MAX_MESSAGE_SIZE",
    "STREAM_BUNDLE_SIZE",
    "STREAM_MAX_LATENCY_MS",
    "STREAM_GATING",
    "ALL_SETTINGS",
]

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One environment variable. `read()` gives its value, or the default when it is unset, empty or malformed."""

    name: str
    default: T
    parse: Callable[[str], T]
    meaning: str

    def read(self) -> T:
        text = os.environ.get(self.name, "").strip()
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError:
            log.warning("%s is not usable, the default %r holds", self.name, self.default)
            return self.default


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(text)
        return text.lower()

    return parse


def _not_negative(text: str) -> float:
    return max(0.0, float(text))


def _text(text: str) -> str | None:
    return text


API_KEY: Setting[str | None] = Setting("BLOCKS_API_KEY", None, _text, "the key of a provider or a consumer (bk_...)")
CDM_URL: Setting[str | None] = Setting("BLOCKS_CDM_URL", None, _text, "where a network's configuration document is")
BACKEND_URL: Setting[str | None] = Setting("BLOCKS_BACKEND_URL", None, _text, "consumers: beats the CDM's api.baseUrl")
SUBSCRIBE_KEY: Setting[str | None] = Setting("BLOCKS_SUBSCRIBE_KEY", None, _text, "consumers: beats the CDM's keyset")
PUBLISH_KEY: Setting[str | None] = Setting("BLOCKS_PUBLISH_KEY", None, _text, "consumers: beats the CDM's keyset")
CLI_VERSION: Setting[str | None] = Setting("BLOCKS_CLI_VERSION", None, _text, "sent to the network at connect")
LOG_LEVEL: Setting[str] = Setting(
    "LOG_LEVEL", "info", _choice("error", "warn", "info", "debug"), "the commands' log level: error, warn, info, debug"
)
ARTIFACT_INLINE_LIMIT_BYTES: Setting[int] = Setting(
    "ARTIFACT_INLINE_LIMIT_BYTES", 16_384, int, "bytes up to which a file or artifact travels inside its message"
)
AGENT_SHUTDOWN_GRACE_SEC: Setting[float] = Setting(
    "AGENT_SHUTDOWN_GRACE_SEC", 3.0, _not_negative, "seconds that running handlers get at the end of blocks-run"
)
PROFILE: Setting[str | None] = Setting("BLOCKS_PROFILE", None, _text, "comma separated; 'timing' logs one line a task")
DEBUG_INTERNAL: Setting[str | None] = Setting(
    "BLOCKS_DEBUG_INTERNAL",
    None,
    _text,
    "comma separated; 'forward_transport' logs what libraries request",
)
STREAM_MAX_MESSAGE_SIZE: Setting[int] = Setting(
    "STREAM_MAX_MESSAGE_SIZE", 16_384, int, "bytes of JSON above which a stream frame is cut into parts"
)
STREAM_BUNDLE_SIZE: Setting[int] = Setting(
    "STREAM_BUNDLE_SIZE", 4096, int, "bytes of stream data that are gathered into one frame while another is under way"
)
STREAM_MAX_LATENCY_MS: Setting[int] = Setting(
    "STREAM_MAX_LATENCY_MS", 250, int, "without effect: an idle stream sends at once (known for the protocol's sake)"
)
STREAM_GATING: Setting[bool] = Setting(
    "STREAM_GATING",
    True,
    lambda text: text.lower() in ("true", "on", "1"),
    "without effect: streams are never held back",
)

ALL_SETTINGS: tuple[Setting[object], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Setting)
)
