"""Tokens: an instance connects, identities are renewed, a consumer is let in, a task may be read.

Only an API key gives out tokens, and what it gives out does no more than its purpose needs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.jwts import DEFAULT_TTL_S
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.principal import CONSUMER, PROVIDER, Principal
from blocks_network.server.access.refresh import RefreshRefused
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.api.bearer import key_owner_of, principal_of, principal_of_key
from blocks_network.server.api.bodies import choice_field, number_field, read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, bad_request, forbidden, json_answer, not_found, unauthenticated
from blocks_network.server.api.services import Services
from blocks_network.server.store.agents import AgentRow, find_agent, find_agent_by_id
from blocks_network.server.store.instances import note_instance
from blocks_network.server.tasks.dispatch import CONTROL_MINUTES, ReadGrant
from blocks_network.server.tasks.readers import grant_reader
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.server.tasks.request import READER_CHARS
from blocks_network.wire import cards
from blocks_network.wire.channels import control_channel
from blocks_network.wire.versions import SUPPORTED_PROTOCOL_VERSIONS, is_supported

__all__ = ["control_token", "routes"]

BODY_BYTES = 64 * 1024
ID_BYTES = 255
SECRET_BYTES = 1_024
MODES = ("free", "paid")


def routes(services: Services) -> list[Route]:
    tokens = Tokens(services)
    return [
        Route("/api/v1/auth/agent/connect", tokens.connect, methods=["POST"]),
        Route("/api/v1/auth/agent/refresh", tokens.refresh, methods=["POST"]),
        Route("/api/v1/auth/agent/consumer-token", tokens.consumer, methods=["POST"]),
        Route("/api/v1/auth/task-read-token", tokens.task_read, methods=["POST"]),
        Route("/api/v1/auth/reader-token", tokens.reader, methods=["POST"]),
        Route("/api/v1/auth/anon-task-read-token", tokens.anonymous_task_read, methods=["POST"]),
    ]


def control_token(tokens: CapabilityTokens, keyset: Keyset, agent_id: str) -> str:
    """For an agent's instances: their control channel, presence and state on it."""
    channel = control_channel(agent_id)
    channels = {channel: Bits.READ, f"{channel}-pnpres": Bits.READ}
    return tokens.mint(keyset, ttl_minutes=CONTROL_MINUTES, channels=channels)


@dataclass(frozen=True, slots=True)
class Announced:
    """What an instance says of itself at its connect. `scaling` holds only what was said; concurrency 0 is no limit."""

    agent_name: str
    instance_id: str
    billing_mode: str
    scaling: Mapping[str, int]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Announced:
        """ApiRefusal 400 names what is wrong. Fields that this network has no use for are not looked at."""
        agent_name = text_field(body, "agentName", max_bytes=ID_BYTES, required=True) or ""
        instance_id = text_field(body, "instanceId", max_bytes=ID_BYTES, required=True) or ""
        if any(letter in instance_id for letter in "'\"\\,"):
            raise bad_request("instanceId stands in filters and lists: it has no quotes, backslashes and commas")
        billing_mode = choice_field(body, "billingMode", MODES)
        _check_versions(body.get("protocolVersions"))
        said = {
            name: number_field(body, name, low=low, high=cards.NUMBER_MAX)
            for name, low in cards.RUNTIME_NUMBERS.items()
        }
        scaling = {name: number for name, number in said.items() if number is not None}
        return cls(agent_name, instance_id, billing_mode, scaling)


def _check_versions(versions: object) -> None:
    if versions is None:
        return
    if not isinstance(versions, list) or not all(isinstance(version, str) for version in versions):
        raise bad_request("protocolVersions must be a list of texts")
    if versions and not any(is_supported(version) for version in versions):
        spoken = ", ".join(SUPPORTED_PROTOCOL_VERSIONS)
        raise bad_request(
            f"this network speaks protocol version {spoken}, the instance does not", "UNSUPPORTED_PROTOCOL_VERSION"
        )


class Tokens:
    """The calls. Whoever gets a token here has shown an API key, or a token that came from one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    # --- instances ---

    async def connect(self, request: Request) -> Response:
        """An instance of a registered agent becomes known, and may get work from now on."""
        services = self._services
        owner = await key_owner_of(request, services, scope=PROVIDER)
        said = Announced.from_body(await read_object(request, BODY_BYTES))
        agent = await services.database.read(partial(find_agent, agent_name=said.agent_name))
        if agent is None or agent.org_id != owner.org_id:
            raise _no_agent(said.agent_name)
        _check_online(agent)
        if agent.billing_mode != said.billing_mode:
            raise ApiRefusal(
                409,
                "BILLING_MODE_MISMATCH",
                f"agent {agent.agent_name} is registered as {agent.billing_mode}, and the instance says "
                f"{said.billing_mode}",
                more={"details": {"expected": agent.billing_mode, "got": said.billing_mode}},
            )
        await self._note(agent, said)
        services.tasks.instance_connected(agent.agent_name, agent.agent_id, said.instance_id)
        refresh_token = await services.refresh_tokens.issue(
            key_id=owner.key_id, role="provider", agent_id=agent.agent_id, instance_id=said.instance_id
        )
        instance = replace(owner, agent_id=agent.agent_id, instance_id=said.instance_id)
        keyset = services.keysets.for_billing("paid" if agent.billing_mode == "paid" else "free")
        answer = self._identity(instance, refresh_token)
        answer["agentId"], answer["controlChannel"] = agent.agent_id, control_channel(agent.agent_id)
        answer["pamToken"] = control_token(services.capability_tokens, keyset, agent.agent_id)
        return json_answer(answer)

    async def _note(self, agent: AgentRow, said: Announced) -> None:
        concurrency = said.scaling.get("concurrency", cards.runtime_number(agent.card, "concurrency"))
        noted = partial(
            note_instance,
            agent_id=agent.agent_id,
            instance_id=said.instance_id,
            concurrency=1 if concurrency is None else concurrency,
            scaling=said.scaling,
            at_ms=int(time.time() * 1000),
            keep=self._services.limits.instances_per_agent,
        )
        if not await self._services.database.write(noted):  # it was removed a moment ago
            raise _no_agent(agent.agent_name)

    def _identity(self, principal: Principal, refresh_token: str) -> dict[str, Any]:
        return {
            "accessToken": self._services.access_tokens.issue(principal, DEFAULT_TTL_S),
            "refreshToken": refresh_token,
            "expiresIn": DEFAULT_TTL_S,
            "userId": principal.user_id,
        }

    # --- instances and consumers ---

    async def refresh(self, request: Request) -> Response:
        """A new identity of the kind that the token was given out with, as far as the API key still allows it."""
        owner = await key_owner_of(request, self._services)
        body = await read_object(request, BODY_BYTES)
        token = text_field(body, "refreshToken", max_bytes=SECRET_BYTES, required=True) or ""
        try:
            renewed = await self._services.refresh_tokens.rotate(token, key_id=owner.key_id)
        except RefreshRefused as fault:
            raise _refresh_refused() from fault
        if renewed.agent_id is None:
            return json_answer(self._identity(_as_consumer(owner), renewed.token))
        agent = await self._services.database.read(partial(find_agent_by_id, agent_id=renewed.agent_id))
        if agent is None or agent.org_id != owner.org_id:
            raise _refresh_refused()  # it connects again, and hears that it has no agent any more
        _check_online(agent)
        instance = replace(owner, agent_id=renewed.agent_id, instance_id=renewed.instance_id)
        return json_answer(self._identity(instance, renewed.token))

    # --- consumers ---

    async def consumer(self, request: Request) -> Response:
        """The API key is in the body. What it gives out sends tasks and reads them, and runs no agents."""
        body = await read_object(request, BODY_BYTES)
        secret = text_field(body, "apiKey", max_bytes=SECRET_BYTES, required=True) or ""
        consumer = _as_consumer(await principal_of_key(secret, self._services))
        refresh_token = await self._services.refresh_tokens.issue(key_id=consumer.key_id, role="consumer")
        return json_answer(self._identity(consumer, refresh_token))

    # --- readers of a task ---

    async def task_read(self, request: Request) -> Response:
        """403 for everybody else's task as for one that does not exist."""
        caller = await principal_of(request, self._services)
        body = await read_object(request, BODY_BYTES)
        task_id = text_field(body, "taskId", max_bytes=ID_BYTES, required=True) or ""
        role = CONSUMER if body.get("role") is None else choice_field(body, "role", (CONSUMER, PROVIDER))
        try:
            grant = await self._services.tasks.read_grant(
                caller, task_id, "consumer" if role == CONSUMER else "provider"
            )
        except TaskRefusal as refusal:
            raise forbidden(f"there is no task {task_id[:80]!r} of yours", "TASK_ACCESS_DENIED") from refusal
        return _granted(grant)

    async def reader(self, request: Request) -> Response:
        """For a client that reads all its tasks through one channel group."""
        caller = await principal_of(request, self._services, scope=CONSUMER)
        body = await read_object(request, BODY_BYTES)
        name = text_field(body, "reader", max_bytes=READER_CHARS, required=True) or ""
        keyset = self._services.keysets.for_billing(choice_field(body, "billingMode", MODES))  # type: ignore[arg-type]
        return _granted(grant_reader(self._services.capability_tokens, keyset, caller, name))

    async def anonymous_task_read(self, request: Request) -> Response:
        """For whoever has the fingerprint that the task was sent with. Nobody learns which part was wrong."""
        body = await read_object(request, BODY_BYTES)
        task_id = text_field(body, "taskId", max_bytes=ID_BYTES, required=True) or ""
        fingerprint = text_field(body, "fingerprint", max_bytes=SECRET_BYTES, required=True) or ""
        grant = await self._services.tasks.anonymous_read_grant(task_id, fingerprint)
        if grant is None:
            raise forbidden(f"task {task_id[:80]!r} may not be read anonymously", "ANON_ACCESS_DENIED")
        return _granted(grant)


def _granted(grant: ReadGrant) -> Response:
    return json_answer({"pamToken": grant.token, "channel": grant.channel, "ttlMinutes": grant.ttl_minutes})


def _as_consumer(owner: Principal) -> Principal:
    """Programs hand a consumer's token on to browsers: it has that one scope, whatever the API key has."""
    if not owner.may(CONSUMER):
        raise forbidden(f"this API key lacks the scope {CONSUMER!r}", "SCOPE_MISSING")
    return replace(owner, scopes=frozenset({CONSUMER}))


def _check_online(agent: AgentRow) -> None:
    """ApiRefusal 403: clients of the protocol end their process on this code."""
    if agent.forced_offline:
        raise forbidden(f"agent {agent.agent_name} was taken offline by the network's operator", "AGENT_FORCED_OFFLINE")


def _no_agent(agent_name: str) -> ApiRefusal:
    return not_found(f"there is no agent {agent_name[:80]!r} of yours; register it first", "AGENT_NOT_FOUND")


def _refresh_refused() -> ApiRefusal:
    return unauthenticated("the refresh token does not hold; connect again", "REFRESH_TOKEN_INVALID")
