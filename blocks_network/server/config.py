"""What the owner of a node chooses. Everything else is a bound in `limits` or follows from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from blocks_network.errors import ConfigurationError
from blocks_network.server.features import FEATURES
from blocks_network.server.limits import Limits

__all__ = ["API_KEY_PREFIX", "DEFAULT_PORT", "NodeConfig"]

API_KEY_PREFIX = "bk_"
DATABASES = ("postgresql", "postgres", "postgresql+psycopg")
DEFAULT_PORT = 7070
"""The port of the command line; a node made in a program takes a free one."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Raises ConfigurationError for values that cannot work, before anything is opened."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one; `Node.port` says which."""
    data_dir: Path | None = None
    """Where the network lives; None keeps it in memory, and it ends with the process."""
    database: str | None = field(default=None, repr=False)
    """Where agents, keys and tasks live: `postgresql://USER@HOST/NAME`. None keeps them in `data_dir` too. It may hold
    a password: nothing repeats it."""
    fsync: bool = False
    """Whether what is acknowledged survives the machine's power too, not only the end of the process; costs a wait
    for the disk each time."""
    api_key: str | None = field(default=None, repr=False)
    """A key that is valid from the start; None makes one (and keeps it in `data_dir`)."""
    public_base: str | None = None
    """How clients reach the node when that is not its own address: behind a proxy, in a container."""
    limits: Limits = field(default_factory=Limits)
    allow_private_webhooks: bool = False
    """Whether tasks' webhooks may be on this machine and in private networks: for tests, and where all tenants are
    trusted."""
    access_log: bool = False
    """One line of JSON for each request on the logger `blocks_network.access`; see `accesslog` for what is in it."""
    keep_alive_s: int = 75
    """How long an idle connection is kept: longer than the minute that proxies and clients usually pool one."""
    features: frozenset[str] = FEATURES
    """Those that are announced: fewer make a network that does less than it could, as the hosted one."""
    stop_grace_s: float = 5.0
    """How long requests under way may take at the end, before they are cut."""

    def __post_init__(self) -> None:
        unknown = self.features - FEATURES
        if unknown:
            raise ConfigurationError(
                f"this network has no feature {', '.join(sorted(unknown))}",
                hint=f"it has {', '.join(sorted(FEATURES))}",
            )
        if not 0 <= self.port <= 65_535:
            raise ConfigurationError(
                f"port {self.port} does not exist", hint="choose one from 1 to 65535, or 0 for a free one"
            )
        if self.database is not None:
            _check_database(self.database, self.data_dir)
        if self.api_key is not None:
            name = self.api_key.removeprefix(API_KEY_PREFIX)
            readable = name.isascii() and name.isprintable() and " " not in name and len(name) <= 250
            if name == self.api_key or not name or not readable:
                raise ConfigurationError(
                    f"the API key does not look like one: {API_KEY_PREFIX} and up to 250 characters without spaces",
                    hint="leave it out and the network makes one",
                )
        if self.public_base is not None:
            parts = urlsplit(self.public_base)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
                raise ConfigurationError(
                    f"the public address {self.public_base!r} is not one",
                    hint="write it as http(s)://HOST[:PORT], without a path",
                )


def _check_database(url: str, data_dir: Path | None) -> None:
    """ConfigurationError without the URL: it may hold a password."""
    if url.partition("://")[0] not in DATABASES:
        raise ConfigurationError(
            "the database is not given as postgresql://USER@HOST/NAME",
            hint="leave it out to keep everything in the data directory",
        )
    if data_dir is None:
        raise ConfigurationError(
            "a database holds agents, keys and tasks; messages, files and the network's own keys need a directory",
            hint="name one with --data",
        )
