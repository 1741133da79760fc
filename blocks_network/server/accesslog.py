"""The access log: one line of JSON for each request, on a logger of its own, when the node's owner wants it.

    {"time":"2026-01-31T09:15:00.123Z","client":"127.0.0.1","door":"gateway","method":"POST","operation":"publish",
     "status":200,"reason":null,"ms":1.204}

Addresses of requests hold tokens, keys, messages and names of people's channels, so none is ever written: the operation
stands for the path, and nothing of the query appears.
"""

from __future__ import annotations

import logging
import time

import msgspec

from blocks_network.logs import ACCESS
from blocks_network.server.outcomes import Outcome

__all__ = ["AccessLog"]


class AccessLog:
    """An observer of requests. It writes at level info; where the lines go is for the program to configure."""

    def __init__(self) -> None:
        self._log = logging.getLogger(ACCESS)

    def __call__(self, outcome: Outcome) -> None:
        if not self._log.isEnabledFor(logging.INFO):
            return
        now_ms = time.time_ns() // 1_000_000
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000))
        line = {
            "time": f"{stamp}.{now_ms % 1000:03d}Z",
            "client": outcome.client,
            "door": outcome.door,
            "method": outcome.method,
            "operation": outcome.operation,
            "status": outcome.status,
            "reason": outcome.reason or None,
            "ms": round(outcome.seconds * 1000, 3),
        }
        self._log.info("%s", msgspec.json.encode(line).decode())
