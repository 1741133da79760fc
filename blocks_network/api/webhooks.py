"""The log of webhooks: what the network told the receivers of one's tasks, or tries to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from blocks_network.api.caller import Caller, api_error

__all__ = ["DeliveryPage", "list_deliveries"]

PATH = "/api/v1/webhooks/deliveries"


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries as the network tells them, newest first. `next` is the cursor of the page behind, None on the last."""

    deliveries: list[dict[str, Any]]
    next: str | None = None


def list_deliveries(
    caller: Caller,
    api_key: str,
    *,
    task_id: str | None = None,
    state: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> DeliveryPage:
    """One page, of one task or of all. `state`: pending, delivered or failed."""
    query = {"taskId": task_id, "state": state, "limit": limit, "cursor": cursor}
    pairs = urlencode({key: value for key, value in query.items() if value is not None})
    answer = caller.call("GET", f"{PATH}?{pairs}" if pairs else PATH, bearer=api_key)
    if not answer.ok:
        raise api_error(answer, "the deliveries of webhooks cannot be read")
    return DeliveryPage(list(answer.body.get("deliveries") or []), answer.body.get("next"))
