"""Tokens: an instance connects, identities are renewed, a consumer is let in, a task may be read."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.principal import CONSUMER, PROVIDER, Principal
from blocks_network.server.access.refresh import RefreshRefused
from blocks_network.server.api.bearer import key_owner_of, principal_of, principal_of_key
from blocks_network.server.api.bodies import choice_field, number_field, read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, forbidden, json_answer, not_found, unauthenticated
from blocks_network.server.api.services import Services
from blocks_network.server.store import agents as store
from blocks_network.server.store.agents import AgentRow
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.wire.channels import control_channel

__all__ = ["routes"]

ACCESS_TTL_S = 3_600
CONTROL_MINUTES = 24 * 60
"""How long an instance's token for its control channel holds; each StartTask brings a newer one."""
BODY_BYTES = 64 * 1024
ID_BYTES = 255
COUNT_MAX = 1_000_000
SECONDS_MAX = 366 * 24 * 3_600
MODES = ("free", "paid")


def routes(services: Services) -> list[Route]:
    tokens = Tokens(services)
    return [
        Route("/api/v1/auth/agent/connect", tokens.connect, methods=["POST"]),
        Route("/api/v1/auth/agent/refresh", tokens.refresh, methods=["POST"]),
        Route("/api/v1/auth/agent/consumer-token", tokens.consumer, methods=["POST"]),
        Route("/api/v1/auth/task-read-token", tokens.task_read, methods=["POST"]),
        Route("/api/v1/auth/anon-task-read-token", tokens.anonymous_task_read, methods=["POST"]),
    ]


class Tokens:
    """The calls. Whoever gets a token here has shown an API key, or a token that came from one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def connect(self, request: Request) -> Response:
        """An instance of a registered agent becomes known, and may get work from now on."""
        owner = await key_owner_of(request, self._services, scope=PROVIDER)
        body = await read_object(request, BODY_BYTES)
        name = text_field(body, "agentName", max_bytes=ID_BYTES, required=True) or ""
        instance_id = text_field(body, "instanceId", max_bytes=ID_BYTES, required=True) or ""
        billing_mode = choice_field(body, "billingMode", MODES)
        agent = await self._own_agent(name, owner)
        if agent.billing_mode != billing_mode:
            raise ApiRefusal(
                409,
                "BILLING_MODE_MISMATCH",
                f"agent {name} is registered as {agent.billing_mode}, and the instance says {billing_mode}",
            )
        concurrency = number_field(body, "concurrency", low=0, high=COUNT_MAX)
        noted = partial(
            store.put_instance,
            instance_id=instance_id,
            agent_id=agent.agent_id,
            concurrency=1 if concurrency is None else concurrency,
            scaling=_scaling(body, concurrency),
            at_ms=int(time.time() * 1000),
        )
        if not await self._services.database.write(noted):
            raise ApiRefusal(409, "INSTANCE_ID_TAKEN", f"the instance id {instance_id[:80]!r} belongs to another agent")
        self._services.tasks.instance_connected(name, agent.agent_id, instance_id)
        answer = await self._identity(owner, agent.agent_id, instance_id)
        channel = control_channel(agent.agent_id)
        keyset = self._services.keysets.for_billing(agent.billing_mode)  # type: ignore[arg-type]  # one of MODES
        answer["agentId"], answer["controlChannel"] = agent.agent_id, channel
        answer["pamToken"] = self._services.capability_tokens.mint(
            keyset,
            ttl_minutes=CONTROL_MINUTES,
            channels={channel: Bits.READ, f"{channel}-pnpres": Bits.READ},
        )
        return json_answer(answer)

    async def _own_agent(self, name: str, owner: Principal) -> AgentRow:
        agent = await self._services.database.read(partial(store.find_agent, agent_name=name))
        if agent is None or agent.org_id != owner.org_id:
            raise not_found(f"there is no agent {name[:80]!r} of yours; register it first", "AGENT_NOT_FOUND")
        if agent.forced_offline:
            raise forbidden(f"agent {name} was taken offline by the network's operator", "AGENT_FORCED_OFFLINE")
        return agent

    async def _identity(self, owner: Principal, agent_id: str, instance_id: str) -> dict[str, Any]:
        principal = replace(owner, agent_id=agent_id, instance_id=instance_id)
        refresh_token = await self._services.refresh_tokens.issue(
            key_id=owner.key_id, role="provider", agent_id=agent_id, instance_id=instance_id
        )
        return self._answer(principal, refresh_token)

    def _answer(self, principal: Principal, refresh_token: str) -> dict[str, Any]:
        return {
            "accessToken": self._services.access_tokens.issue(principal, ACCESS_TTL_S),
            "refreshToken": refresh_token,
            "expiresIn": ACCESS_TTL_S,
            "userId": principal.user_id,
        }

    async def refresh(self, request: Request) -> Response:
        owner = await key_owner_of(request, self._services)
        body = await read_object(request, BODY_BYTES)
        token = text_field(body, "refreshToken", max_bytes=BODY_BYTES, required=True) or ""
        try:
            renewed = await self._services.refresh_tokens.rotate(token, key_id=owner.key_id)
        except RefreshRefused as fault:
            raise unauthenticated("the refresh token does not hold; connect again", "REFRESH_TOKEN_INVALID") from fault
        if renewed.agent_id is not None:
            await self._still_online(renewed.agent_id)
        principal = replace(owner, agent_id=renewed.agent_id, instance_id=renewed.instance_id)
        return json_answer(self._answer(principal, renewed.token))

    async def _still_online(self, agent_id: str) -> None:
        agent = await self._services.database.read(partial(store.find_agent_by_id, agent_id=agent_id))
        if agent is not None and agent.forced_offline:
            raise forbidden(
                f"agent {agent.agent_name} was taken offline by the network's operator", "AGENT_FORCED_OFFLINE"
            )

    async def consumer(self, request: Request) -> Response:
        body = await read_object(request, BODY_BYTES)
        key = text_field(body, "apiKey", max_bytes=ID_BYTES, required=True) or ""
        owner = await principal_of_key(key, self._services)
        if not owner.may(CONSUMER):
            raise forbidden("this API key lacks the scope 'consumer'", "SCOPE_MISSING")
        refresh_token = await self._services.refresh_tokens.issue(key_id=owner.key_id, role="consumer")
        return json_answer(self._answer(owner, refresh_token))

    async def task_read(self, request: Request) -> Response:
        caller = await principal_of(request, self._services)
        body = await read_object(request, BODY_BYTES)
        task_id = text_field(body, "taskId", max_bytes=ID_BYTES, required=True) or ""
        role = choice_field({"role": "consumer", **body}, "role", (CONSUMER, PROVIDER))
        try:
            grant = await self._services.tasks.read_grant(
                caller, task_id, "consumer" if role == CONSUMER else "provider"
            )
        except TaskRefusal as refusal:
            raise forbidden(f"there is no task {task_id[:80]!r} of yours", "TASK_ACCESS_DENIED") from refusal
        return json_answer({"pamToken": grant.token, "channel": grant.channel, "ttlMinutes": grant.ttl_minutes})

    async def anonymous_task_read(self, request: Request) -> Response:
        """For whoever has the fingerprint that the task was sent with. Nobody learns which part was wrong."""
        body = await read_object(request, BODY_BYTES)
        task_id = text_field(body, "taskId", max_bytes=ID_BYTES, required=True) or ""
        fingerprint = text_field(body, "fingerprint", max_bytes=1_024, required=True) or ""
        shown = hashlib.sha256(fingerprint.encode()).hexdigest()
        grant = await self._services.tasks.anonymous_read_grant(task_id, lambda kept: hmac.compare_digest(kept, shown))
        if grant is None:
            raise forbidden(f"task {task_id[:80]!r} may not be read anonymously", "ANON_ACCESS_DENIED")
        return json_answer({"pamToken": grant.token, "channel": grant.channel, "ttlMinutes": grant.ttl_minutes})


def _scaling(body: Mapping[str, Any], concurrency: int | None) -> dict[str, int]:
    """What the instance says of itself and its like, as senders of tasks and the registry see it."""
    said = {
        "expectedInstances": number_field(body, "expectedInstances", low=0, high=COUNT_MAX),
        "concurrency": concurrency,
        "maxPendingBacklog": number_field(body, "maxPendingBacklog", low=0, high=COUNT_MAX),
        "maxRunningTimeSec": number_field(body, "maxRunningTimeSec", low=1, high=SECONDS_MAX),
    }
    return {key: value for key, value in said.items() if value is not None}
