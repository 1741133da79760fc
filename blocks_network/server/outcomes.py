"""How a request ended: what both doors tell of each one, to the metrics and to the access log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Observe", "Outcome"]


@dataclass(slots=True)
class Outcome:
    """One request that is over. Nothing in it is a secret or grows without bound but `client`."""

    door: str
    """"gateway" (the PubNub protocol) or "platform" (the API)."""
    operation: str
    """One of a fixed set; "none" when nothing serves the address."""
    method: str
    client: str
    """The address of the connection's other end, without its port."""
    status: int
    """Of the answer; 499 when the client left before there was one."""
    reason: str
    """Why it was refused, one word of a fixed set; empty when it was not."""
    seconds: float
    """From its head to its answer."""
    held: bool = False
    """It waited by its nature: its time says nothing of the network."""


Observe = Callable[[Outcome], None]
"""Called in the loop for every request that is over. Quick, and raises nothing."""
