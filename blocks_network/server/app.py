"""The whole network as one ASGI callable: the only file that knows all parts.

    gateway (PubNub protocol) | platform API | /healthz /readyz /metrics
    tasks
    bus, presence, database, blobs, access

Doors do not know each other: the gateway and the tasks meet on the bus, and where the platform owns a channel, an
interceptor that is connected here answers in place of a delivery.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from blocks_network.server.access.api_keys import ApiKeys
from blocks_network.server.access.authorizer import Authorizer
from blocks_network.server.access.jwt import AccessTokens
from blocks_network.server.access.refresh import RefreshTokens
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.api.app import build_api
from blocks_network.server.api.services import Services
from blocks_network.server.blobs.directory import DirectoryBlobs
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import DataDirectory, Identity
from blocks_network.server.gateway import actions, files, grants, groups, history, presence, publish, subscribe
from blocks_network.server.gateway.app import Gateway
from blocks_network.server.gateway.request import Receive, Scope, Send
from blocks_network.server.metrics import CONTENT_TYPE, Metrics
from blocks_network.server.presence.embedded import EmbeddedPresence
from blocks_network.server.store.database import IN_MEMORY, Database
from blocks_network.server.tasks.service import TaskService

__all__ = ["Network"]

log = logging.getLogger(__name__)
