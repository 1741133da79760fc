"""Webhooks: the log of what a tenant's tasks have told its receivers, or tried to."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.principal import CONSUMER
from blocks_network.server.api.bearer import principal_of
from blocks_network.server.api.bodies import query_field
from blocks_network.server.api.errors import bad_request, json_answer, not_found
from blocks_network.server.api.services import Services
from blocks_network.server.store import tasks
from blocks_network.server.store.webhooks import DELIVERED, FAILED, PENDING, Delivery, DeliveryFilter, page
from blocks_network.server.webhooks.config import Webhook
from blocks_network.wire.instants import instant_text

__all__ = ["routes"]

PATH = "/api/v1/webhooks/deliveries"
STATES = (PENDING, DELIVERED, FAILED)
PAGE, MAX_PAGE = 50, 100


def routes(services: Services) -> list[Route]:
    return [Route(PATH, partial(_deliveries, services), methods=["GET"])]


async def _deliveries(services: Services, request: Request) -> Response:
    """`{"deliveries", "next"?}`, newest first: of one task (`taskId`, 404 for another tenant's), or of all."""
    owner = await principal_of(request, services, scope=CONSUMER)
    wanted = _filter(request.query_params, owner.org_id)
    if wanted.task_id is not None:
        task_id = wanted.task_id
        task = await services.database.read(lambda connection: tasks.find(connection, task_id))
        if task is None or task.org_id != owner.org_id:
            raise not_found(f"there is no task {task_id[:255]!r}", "TASK_NOT_FOUND")
    found = await services.database.read(partial(page, wanted=wanted))
    answer: dict[str, Any] = {"deliveries": [_view(delivery) for delivery in found]}
    if len(found) == wanted.limit:
        answer["next"] = _cursor(found[-1])
    return json_answer(answer)


def _filter(query: Mapping[str, str], org_id: str) -> DeliveryFilter:
    limit, state, cursor = query.get("limit") or str(PAGE), query.get("state") or None, query.get("cursor")
    if not limit.isascii() or not limit.isdigit() or int(limit[:9]) < 1:
        raise bad_request("limit must be a whole number of at least 1")
    if state is not None and state not in STATES:
        raise bad_request(f"state must be one of {', '.join(STATES)}")
    return DeliveryFilter(
        org_id=org_id,
        task_id=query_field(query, "taskId") or None,
        state=state,
        before=_position(cursor) if cursor else None,
        limit=min(int(limit[:9]), MAX_PAGE),
    )


def _view(delivery: Delivery) -> dict[str, Any]:
    """One delivery as its owner sees it: no secret, and not what was posted, which can be read from the task."""
    webhook = Webhook.from_text(delivery.webhook)
    view: dict[str, Any] = {
        "webhookId": delivery.delivery_id,
        "pushConfigId": webhook.push_config_id,
        "taskId": delivery.task_id,
        "event": delivery.event,
        "url": webhook.url,
        "state": delivery.state,
        "createdTime": instant_text(delivery.created_at_ms),
        "attempts": [_attempt(line) for line in delivery.log],
    }
    if delivery.state == PENDING:
        view["nextTime"] = instant_text(delivery.next_at_ms)
    elif delivery.ended_at_ms is not None:
        view["endedTime"] = instant_text(delivery.ended_at_ms)
    return view


def _attempt(line: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in line.items() if key != "atMs"}
    return {"time": instant_text(line["atMs"]), **told}


def _cursor(last: Delivery) -> str:
    text = f"before:{last.created_at_ms}:{last.delivery_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        word, at_ms, delivery_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(":")
        position = int(at_ms[:16]), delivery_id
    except (binascii.Error, ValueError):
        word, position = "", (0, "")
    if word != "before" or "\x00" in position[1]:
        raise bad_request("cursor is not one that this list gave")
    return position
