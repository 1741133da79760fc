"""Logger names, and what must never be in a log line.

The library writes to `logging` loggers below "blocks_network" and configures none of them: the program decides.
"""

from __future__ import annotations

import re

__all__ = ["ACCESS", "HANDLER_FAULTS", "ROOT", "redact", "said_of"]

ROOT = "blocks_network"
HANDLER_FAULTS = "blocks_network.handler"
"""What handlers raised, with tracebacks: the one logger whose lines are about the user's code, not about ours."""
ACCESS = "blocks_network.access"
"""A node's access log: a line of JSON for each request, with no secret in it."""


def said_of(event: str, instance_id: str, agent_name: str, **fields: str) -> dict[str, str]:
    """The fields of a line that programs look for (`extra=` of a log call), under the protocol's names for them.

    Events: agent_instance_started, agent_registration_failed, agent_auth_fatal, transport_retry, transport_recovered,
    transport_failed.
    """
    return {"event": event, "instanceId": instance_id, "agentName": agent_name, **fields}


# API keys, secrets of webhooks, JWTs, capability tokens and signatures, wherever they stand in a text or an address
_SECRETS = re.compile(
    r"bk_[A-Za-z0-9_\-]{6,}"
    r"|whsec_[A-Za-z0-9+/=]{6,}"
    r"|eyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*"
    r"|(?<=auth=)[^&\s\"']+"
    r"|(?<=signature=)[^&\s\"']+"
    r"|(?<=Bearer )\S+"
    r"|qEF2[A-Za-z0-9_\-=]{16,}"
    r"|p0F2[A-Za-z0-9_\-=]{16,}"
)


def redact(text: str) -> str:
    """The text with every credential replaced by `***`."""
    return _SECRETS.sub("***", text)
