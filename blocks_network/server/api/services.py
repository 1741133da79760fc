"""What the platform API works with: everything that `server/app.py` has built, handed to each noun's routes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks_network.server.access.apikeys import ApiKeys
from blocks_network.server.access.jwts import AccessTokens
from blocks_network.server.access.keysets import Keysets
from blocks_network.server.access.refresh import RefreshTokens
from blocks_network.server.bus import Bus
from blocks_network.server.features import FEATURES
from blocks_network.server.limits import Limits
from blocks_network.server.presence import Presence
from blocks_network.server.store.database import Database

if TYPE_CHECKING:
    from blocks_network.server.access.tokens import CapabilityTokens
    from blocks_network.server.blobs import Blobs
    from blocks_network.server.tasks.service import TaskService

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """`public_base` is the address that clients reach the API by ("https://host"), `origin` (host:port) and `ssl` how
    they reach the PubNub protocol. Whoever makes the parts starts and stops them."""

    keysets: Keysets
    limits: Limits
    database: Database
    bus: Bus
    presence: Presence
    capability_tokens: CapabilityTokens
    api_keys: ApiKeys
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    tasks: TaskService
    blobs: Blobs
    public_base: str
    origin: str
    ssl: bool = False
    features: Iterable[str] = FEATURES
