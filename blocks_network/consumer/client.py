"""TaskClient: sends work to agents, finds tasks again, and controls them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from blocks_network.api import tasks
from blocks_network.api.caller import AuthProvider, Caller
from blocks_network.api.registry import AgentEntry
from blocks_network.api.tasks import ListTasksParams, ListTasksResult, TaskInfo
from blocks_network.auth.consumer import ConsumerAuth
from blocks_network.auth.endpoint import TokenEndpointConfig, TokenResult
from blocks_network.auth.provider import AgentAuth
from blocks_network.auth.static import StaticAuthProvider
from blocks_network.consumer.agents import find_agent, find_agents, renewed_or_raise
from blocks_network.consumer.link import Link, Role, make_ready
from blocks_network.consumer.map import Mapped, check_mapping
from blocks_network.consumer.network import checked_billing_mode, find_network
from blocks_network.consumer.opening import open_known
from blocks_network.consumer.params import SendMessageParams
from blocks_network.consumer.parts import one_request
from blocks_network.consumer.result import TaskResult
from blocks_network.consumer.sender import Sender
from blocks_network.consumer.session import WAIT_S, TaskSession
from blocks_network.consumer.subscribe import TaskEventCallbacks, TaskSubscription, follow_task, subscribe_to_task
from blocks_network.errors import BlocksError, ConfigurationError, CredentialsMissingError, SessionClosedError
from blocks_network.transport.answers import FEATURE as SUBSCRIBE_STREAM
from blocks_network.transport.pubnub import DEFAULT_ORIGIN, PubNubKeys

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["TaskClient"]

PATIENCE_S = 30.0
"""With a network that says that it has no time (429, 502, 503, 504), or when to come back (Retry-After)."""


class TaskClient:
    """A consumer of one network, in one billing mode. Made by `create`; services may construct it themselves.

    Safe for threads. A context manager that destroys; sessions that are open then go on receiving. It does not
    survive a fork: the child makes its own.
    """

    def __init__(
        self,
        subscribe_key: str,
        billing_mode: str | None = None,
        publish_key: str | None = None,
        pubnub: PubNub | None = None,
        create_pubnub: Callable[[], PubNub] | None = None,
        create_session_pubnub: Callable[[], PubNub] | None = None,
        default_owner_id: str | None = None,
        base_url: str | None = None,
        agent_auth: AgentAuth | None = None,
        auth_provider: AuthProvider | None = None,
        anon_fingerprint: str | None = None,
        rpc_headers: Mapping[str, str] | None = None,
        *,
        origin: str = DEFAULT_ORIGIN,
        ssl: bool = True,
        auth_token: str | None = None,
        features: Collection[str] = (),
    ) -> None:
        """Opens no connection. `origin` (host:port) and `ssl` say where the PubNub protocol is served.

        With both `agent_auth` and `auth_provider`, calls and uploads go as the first, the registry and read tokens as
        the second. `features` is what the network's document announces. `pubnub` and `create_pubnub` serve
        `subscribe_to_task`, `create_session_pubnub` one session each.
        """
        if not subscribe_key:
            raise ConfigurationError("subscribe_key is required")
        if auth_token is not None:
            _deprecated("auth_token= is deprecated: give auth_provider=StaticAuthProvider(token)")
            auth_provider = auth_provider or StaticAuthProvider(auth_token)
        if billing_mode is None:
            _deprecated("a TaskClient without billing_mode is deprecated: say 'free' or 'paid'")
        self.billing_mode = checked_billing_mode(billing_mode or "free")
        self._keys = PubNubKeys(subscribe_key, publish_key, origin, ssl, pushes=SUBSCRIBE_STREAM in features)
        self._other_keys: PubNubKeys | None = None
        self._pubnub, self._create_pubnub, self._owns_pubnub = pubnub, create_pubnub, False
        self._default_owner_id = default_owner_id
        self._agent_auth, self._auth_provider = agent_auth, auth_provider
        self._consumer_auth: ConsumerAuth | None = None
        caller = reader = None
        if base_url:
            caller = Caller(base_url, agent_auth or auth_provider, extra_headers=rpc_headers, patience_s=PATIENCE_S)
            reader = Caller(base_url, auth_provider or agent_auth, extra_headers=rpc_headers, patience_s=PATIENCE_S)
        self._reader = reader
        self._link = Link(
            caller,
            token_caller=reader,
            anon_fingerprint=anon_fingerprint or None,
            create_session_pubnub=create_session_pubnub,
            features=features,
        )

    @classmethod
    def create(
        cls,
        billing_mode: str,
        cdm_url: str | None = None,
        subscribe_key: str | None = None,
        publish_key: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        token_endpoint: str | TokenEndpointConfig | None = None,
        token_provider: Callable[[], TokenResult] | None = None,
        on_auth_error: Callable[[Exception], None] | None = None,
        anon_fingerprint: str | None = None,
        rpc_headers: Mapping[str, str] | None = None,
    ) -> TaskClient:
        """Finds the network (argument > environment > its document) and acquires the first token, which blocks.

        At most one of `api_key`, `token_endpoint`, `token_provider`, `anon_fingerprint`; without any, the client reads
        what is public. `on_auth_error(exception)` hears when a token could not be renewed in time. ConfigurationError
        (ValueError) before anything is sent; RuntimeError when network or credential are refused.
        """
        mode = checked_billing_mode(billing_mode)
        if sum(map(bool, (api_key, token_endpoint, token_provider, anon_fingerprint))) > 1:
            raise ConfigurationError(
                "give one of api_key, token_endpoint, token_provider and anon_fingerprint, not several"
            )
        if anon_fingerprint and mode == "paid":
            raise ConfigurationError("anon_fingerprint is for free tasks: somebody has to pay for the others")
        network = find_network(mode, cdm_url, subscribe_key, publish_key, base_url)
        auth: ConsumerAuth | None = None
        if api_key or token_endpoint or token_provider:
            auth = ConsumerAuth(
                api_key=api_key,
                token_endpoint=token_endpoint,
                token_provider=token_provider,
                base_url=network.base_url,
                on_auth_error=on_auth_error,
            )
            auth.init()
        client = cls(
            network.keys.subscribe_key,
            mode,
            network.keys.publish_key,
            default_owner_id=auth.get_user_id() if auth else None,
            base_url=network.base_url,
            auth_provider=auth,
            anon_fingerprint=anon_fingerprint,
            rpc_headers=rpc_headers,
            origin=network.keys.origin,
            ssl=network.keys.ssl,
            features=network.features,
        )
        client._consumer_auth, client._other_keys = auth, network.other_keys
        return client

    # --- work ---

    def send_message(
        self,
        params: SendMessageParams | None = None,
        /,
        *,
        agent_name: str = "",
        request_parts: Any = None,
        idempotency_key: str | None = None,
        owner_id: str = "",
        task_kind: str | None = None,
        duration: int | None = None,
        consumer_public_key: str | None = None,
        stream: bool | None = None,
        push_notification_config: Mapping[str, Any] | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        auto_drain: bool | None = None,
        drain_window_s: float | None = None,
        anon_fingerprint: str | None = None,
    ) -> TaskSession:
        """Gives an agent a task and follows it. The arguments are those of `SendMessageParams`, which may be given in
        their place.

        The same idempotency key again gives the same task. ConfigurationError (ValueError) for what cannot be sent;
        RpcError when the network refuses it; FileUploadError when a file did not get there.
        """
        named = SendMessageParams(
            agent_name,
            request_parts,
            idempotency_key,
            owner_id,
            task_kind,
            duration,
            consumer_public_key,
            stream,
            push_notification_config,
            retry_policy,
            auto_drain,
            drain_window_s,
            anon_fingerprint,
        )
        if params is not None:
            if not isinstance(params, SendMessageParams):
                raise TypeError(f"send_message takes keywords, or a SendMessageParams, not {type(params).__name__}")
            if named != SendMessageParams():
                raise ConfigurationError("give send_message a SendMessageParams or keywords, not both")
        return self._sender().send(params or named)

    def run(self, agent_name: str, request: Any = None, *, timeout: float | None = WAIT_S, **params: Any) -> TaskResult:
        """One task, from request to result: `client.run("summarizer", "a long text").text`.

        `request` is a text, a part, or a list of parts; `params` are those of `send_message`. TaskFailed, TaskCanceled,
        or WaitTimeoutError after `timeout` seconds, each with the `task_id`; after the last the task goes on.
        """
        if self._link.destroyed:  # before a task is sent that nobody may wait for
            raise SessionClosedError("this client was destroyed", agent_name=agent_name, hint="make another one")
        sent = self.send_message(agent_name=agent_name, request_parts=one_request(request), **params)
        with sent as session:
            return session.result(timeout)

    def map(
        self,
        agent_name: str,
        inputs: Iterable[Any],
        *,
        concurrency: int = 8,
        retries: int = 0,
        timeout: float | None = WAIT_S,
        **params: Any,
    ) -> Iterator[TaskResult | BlocksError]:
        """`run` for each input, `concurrency` at a time. Yields in the order of the inputs; failures are values.

        A task that failed is given again up to `retries` times, as a new task. Where an agent has no room for more, the
        input waits for it, within its `timeout`.
        Inputs are taken as they are needed. When the iteration is given up, tasks under way go on unobserved.
        """
        check_mapping(concurrency, retries, params)

        def message(request: Any) -> SendMessageParams:
            return SendMessageParams(agent_name=agent_name, request_parts=one_request(request), **params)

        mapped = Mapped(self._sender(), message, inputs, concurrency=concurrency, retries=retries, timeout_s=timeout)
        return iter(mapped)

    def connect(
        self,
        task_id: str,
        auto_drain: bool = True,
        drain_window_s: float | None = None,
        role: Role = "consumer",
    ) -> TaskSession:
        """Follows a task that was sent before, with everything that happened until now. `role` "provider": as the
        owner of the agent that does it.

        CredentialsMissingError (RuntimeError) without an identity; ApiError (RuntimeError) or AnonTaskAccessDenied when
        the network does not let this one read it.
        """
        anonymous = self._link.anonymous
        if not anonymous:
            self._require_identity("connect")
        caller = self._link.caller() if anonymous else self._link.ready_caller()
        info = tasks.get_task(caller, task_id, anonymous=anonymous)
        token = self._link.read_token(task_id, role)
        keys = self._keys_of(info)
        return open_known(
            self._link,
            info,
            token,
            keys,
            own_keyset=keys is self._keys,
            role=role,
            auto_drain=auto_drain,
            drain_window_s=drain_window_s,
        )

    # --- tasks by id ---

    def get_task(self, task_id: str) -> TaskInfo:
        """The task as the network stores it. RpcError when there is none for this identity."""
        return tasks.get_task(self._link.ready_caller(), task_id)

    def list_tasks(self, params: ListTasksParams | None = None) -> ListTasksResult:
        """One page of the tasks that this identity may see, newest first."""
        return tasks.list_tasks(self._link.ready_caller(), params)

    def cancel_task(self, task_id: str) -> None:
        """Asks the agent to end; the task's end comes as its terminal event."""
        self._link.control("CancelTask", task_id)

    def pause_task(self, task_id: str) -> None:
        self._link.control("PauseTask", task_id)

    def resume_task(self, task_id: str) -> None:
        self._link.control("ResumeTask", task_id)

    def retry_task(self, task_id: str) -> None:
        self._link.control("RetryTask", task_id)

    def terminate_task(self, task_id: str) -> None:
        """Ends the task now, whatever its handler does."""
        self._link.control("TerminateTask", task_id)

    def subscribe_to_task(self, task_id: str, owner_id: str, callbacks: TaskEventCallbacks) -> TaskSubscription:
        """A task's raw events, without a session: through the client's `pubnub` (or `create_pubnub`) object, else
        under a read token of this identity."""
        self._link.check_process()
        if self._pubnub is None and self._create_pubnub is not None:
            self._pubnub, self._owns_pubnub = self._create_pubnub(), True
        if self._pubnub is not None:
            return subscribe_to_task(self._pubnub, task_id, owner_id, callbacks)
        if not self._link.anonymous:
            self._require_identity("subscribe_to_task without a PubNub object")
        return follow_task(self._link, self._keys, task_id, callbacks)

    # --- agents ---

    def get_agent_card(self, agent_name: str) -> dict[str, Any] | None:
        """An agent's public card; None when there is no such agent for this identity, or it has no card. Never because
        a token has ended: that raises."""
        reader = self._registry()
        entry = find_agent(reader, agent_name, self._renewal())
        return entry.card if entry else None

    def agents(
        self, *, tag: str | None = None, query: str | None = None, listing: str | None = None
    ) -> list[AgentEntry]:
        """The agents that this identity may see and that fit: by tag id, by words of their description, by listing
        ("public" or "private")."""
        return find_agents(self._registry(), tag=tag, query=query, listing=listing)

    # --- life ---

    def get_user_id(self) -> str | None:
        """Who this client is, as far as its credentials tell."""
        tell = getattr(self._consumer_auth or self._auth_provider, "get_user_id", None)
        user_id = tell() if callable(tell) else None
        return user_id if isinstance(user_id, str) else None

    def update_keys(self, subscribe_key: str, publish_key: str | None = None) -> None:
        """The keyset of later sessions."""
        self._keys = replace(self._keys, subscribe_key=subscribe_key, publish_key=publish_key)

    def destroy(self) -> None:
        """Ends token renewal and wakes whoever waits on a session. Idempotent.

        Sessions go on receiving, and the last token stays usable, until it ends.
        """
        if self._link.forked:
            return  # what it would end is the parent's
        self._link.end()
        if self._consumer_auth is not None:
            self._consumer_auth.destroy()
        if self._owns_pubnub and self._pubnub is not None:
            pubnub, self._pubnub, self._owns_pubnub = self._pubnub, None, False
            self._link.stop_pubnub(pubnub)

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<TaskClient of {self.get_user_id() or 'nobody'}, {self.billing_mode}>"

    def _sender(self) -> Sender:
        return Sender(
            self._link,
            self._keys,
            self.billing_mode,
            owner_id=self._default_owner_id or "",
            agent_auth=self._agent_auth,
            auth_provider=self._auth_provider,
        )

    def _require_identity(self, what: str) -> None:
        provider = self._auth_provider or self._agent_auth
        if provider is not None:
            make_ready(provider)
        if provider is None or provider.get_auth_header() is None:
            raise CredentialsMissingError(
                f"{what} needs an identity", hint="create the client with api_key, token_endpoint or token_provider"
            )

    def _registry(self) -> Caller:
        self._link.caller()
        assert self._reader is not None
        make_ready(self._reader.auth)
        return self._reader

    def _renewal(self) -> Callable[[], bool] | None:
        """What to do when the registry says "none": a token that ended is answered like that too."""
        provider, agent = self._auth_provider, self._agent_auth
        if provider is not None:
            return lambda: renewed_or_raise(provider)
        if agent is None:
            return None

        def refresh() -> bool:
            agent.refresh()
            return True

        return refresh

    def _keys_of(self, info: TaskInfo) -> PubNubKeys:
        """The keyset that a task lives on: the client's own, unless the network bills it otherwise."""
        mode = info.extra.get("billingMode")
        if self._other_keys is not None and mode in ("free", "paid") and mode != self.billing_mode:
            return self._other_keys
        return self._keys


def _deprecated(message: str) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=3)
