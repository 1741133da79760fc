"""AsyncTaskClient: the surface of TaskClient for programs on an event loop, over the same core."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import fields
from types import TracebackType
from typing import Any

from blocks_network.api.registry import AgentEntry
from blocks_network.api.tasks import ListTasksParams, ListTasksResult, TaskInfo
from blocks_network.auth.endpoint import TokenEndpointConfig, TokenResult
from blocks_network.consumer.aio.bridge import Bridge
from blocks_network.consumer.aio.session import AsyncTaskResult, AsyncTaskSession
from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.link import Role
from blocks_network.consumer.map import AHEAD, Patience, check_mapping
from blocks_network.consumer.params import SendMessageParams
from blocks_network.consumer.parts import one_request
from blocks_network.consumer.session import WAIT_S, TaskSession
from blocks_network.consumer.subscribe import TaskEventCallbacks, TaskSubscription
from blocks_network.errors import BlocksError

__all__ = ["AsyncTaskClient"]

THREADS = 32
"""Requests, uploads and downloads under way at the same time; waiting for tasks takes none."""


class AsyncTaskClient:
    """Belongs to the event loop in which it is made: by `create`, or around a TaskClient (`client`) that exists.

    A context manager that destroys. Everything that could block runs on up to `threads` threads of its own. A method
    without a description does what the one of TaskClient does.
    """

    def __init__(self, client: TaskClient, *, threads: int = THREADS) -> None:
        self.client = client
        self._bridge = Bridge(threads)

    @classmethod
    async def create(
        cls,
        billing_mode: str,
        cdm_url: str | None = None,
        subscribe_key: str | None = None,
        publish_key: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        token_endpoint: str | TokenEndpointConfig | None = None,
        token_provider: Callable[[], TokenResult] | Callable[[], Awaitable[TokenResult]] | None = None,
        on_auth_error: Callable[[Exception], object] | None = None,
        anon_fingerprint: str | None = None,
        rpc_headers: Mapping[str, str] | None = None,
        *,
        threads: int = THREADS,
    ) -> AsyncTaskClient:
        """As TaskClient.create. `token_provider` and `on_auth_error` may be coroutine functions, which run on the
        loop; plain ones run on threads."""
        bridge = Bridge(threads)
        provider: Any = token_provider
        if inspect.iscoroutinefunction(token_provider):
            provider = bridge.blocking(token_provider)
        heard: Any = bridge.blocking(on_auth_error) if inspect.iscoroutinefunction(on_auth_error) else on_auth_error
        made = await bridge.open(
            lambda: TaskClient.create(
                billing_mode,
                cdm_url,
                subscribe_key,
                publish_key,
                base_url,
                api_key,
                token_endpoint,
                provider,
                heard,
                anon_fingerprint,
                rpc_headers,
            ),
            TaskClient.destroy,
        )
        client = cls.__new__(cls)
        client.client, client._bridge = made, bridge
        return client

    # --- work ---

    async def send_message(
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
    ) -> AsyncTaskSession:
        """As TaskClient.send_message. Who is cancelled while it waits does not know whether the task was sent: give an
        idempotency key where that matters."""
        return await self._opened(
            lambda: self.client.send_message(
                params,
                agent_name=agent_name,
                request_parts=request_parts,
                idempotency_key=idempotency_key,
                owner_id=owner_id,
                task_kind=task_kind,
                duration=duration,
                consumer_public_key=consumer_public_key,
                stream=stream,
                push_notification_config=push_notification_config,
                retry_policy=retry_policy,
                auto_drain=auto_drain,
                drain_window_s=drain_window_s,
                anon_fingerprint=anon_fingerprint,
            )
        )

    async def run(
        self, agent_name: str, request: Any = None, *, timeout: float | None = WAIT_S, **params: Any
    ) -> AsyncTaskResult:
        """One task, from request to result: `await (await client.run("summarizer", "a long text")).text()`."""
        parts = one_request(request)
        async with await self.send_message(agent_name=agent_name, request_parts=parts, **params) as session:
            return await session.result(timeout)

    def map(
        self,
        agent_name: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = 8,
        retries: int = 0,
        timeout: float | None = WAIT_S,
        **params: Any,
    ) -> AsyncIterator[AsyncTaskResult | BlocksError]:
        """`run` for each input, `concurrency` at a time. Yields in the order of the inputs; failures are values.

        `inputs` may be asynchronous. What the iteration leaves behind when it is given up (with `aclose`, or by
        cancelling) is not followed any more; the tasks themselves go on.
        """
        check_mapping(concurrency, retries, params)
        places = asyncio.Semaphore(concurrency)

        async def one(request: Any) -> AsyncTaskResult | BlocksError:
            async with places:
                patience = Patience(retries, timeout)
                while True:
                    try:
                        return await self.run(agent_name, request, timeout=timeout, **params)
                    except BlocksError as fault:
                        pause_s = patience.pause_after(fault)
                        if pause_s is None:
                            return fault
                    await asyncio.sleep(pause_s)

        return _in_order(one, inputs, ahead=concurrency * AHEAD)

    async def connect(
        self, task_id: str, auto_drain: bool = True, drain_window_s: float | None = None, role: Role = "consumer"
    ) -> AsyncTaskSession:
        return await self._opened(lambda: self.client.connect(task_id, auto_drain, drain_window_s, role))

    # --- tasks by id ---

    async def get_task(self, task_id: str) -> TaskInfo:
        return await self._bridge.call(self.client.get_task, task_id)

    async def list_tasks(self, params: ListTasksParams | None = None) -> ListTasksResult:
        return await self._bridge.call(self.client.list_tasks, params)

    async def cancel_task(self, task_id: str) -> None:
        await self._bridge.call(self.client.cancel_task, task_id)

    async def pause_task(self, task_id: str) -> None:
        await self._bridge.call(self.client.pause_task, task_id)

    async def resume_task(self, task_id: str) -> None:
        await self._bridge.call(self.client.resume_task, task_id)

    async def retry_task(self, task_id: str) -> None:
        await self._bridge.call(self.client.retry_task, task_id)

    async def terminate_task(self, task_id: str) -> None:
        await self._bridge.call(self.client.terminate_task, task_id)

    async def subscribe_to_task(self, task_id: str, owner_id: str, callbacks: TaskEventCallbacks) -> TaskSubscription:
        """The callbacks may be coroutine functions; all of them run on the loop."""
        on_loop = TaskEventCallbacks()
        for field in fields(TaskEventCallbacks):
            callback = getattr(callbacks, field.name)
            if callback is not None:
                setattr(on_loop, field.name, self._bridge.blocking(callback))
        return await self._bridge.open(
            lambda: self.client.subscribe_to_task(task_id, owner_id, on_loop), TaskSubscription.unsubscribe
        )

    # --- agents ---

    async def get_agent_card(self, agent_name: str) -> dict[str, Any] | None:
        return await self._bridge.call(self.client.get_agent_card, agent_name)

    async def agents(
        self, *, tag: str | None = None, query: str | None = None, listing: str | None = None
    ) -> list[AgentEntry]:
        return await self._bridge.call(self.client.agents, tag=tag, query=query, listing=listing)

    # --- life ---

    def get_user_id(self) -> str | None:
        return self.client.get_user_id()

    def update_keys(self, subscribe_key: str, publish_key: str | None = None) -> None:
        self.client.update_keys(subscribe_key, publish_key)

    async def destroy(self) -> None:
        """Ends token renewal and wakes whoever waits on a session. Idempotent."""
        await self._bridge.call(self.client.destroy)

    async def __aenter__(self) -> AsyncTaskClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.destroy()

    def __repr__(self) -> str:
        return f"<Async{repr(self.client)[1:]}"

    async def _opened(self, work: Callable[[], TaskSession]) -> AsyncTaskSession:
        return AsyncTaskSession(await self._bridge.open(work, TaskSession.close), self._bridge)


async def _in_order(
    one: Callable[[Any], Awaitable[AsyncTaskResult | BlocksError]],
    inputs: Iterable[Any] | AsyncIterable[Any],
    *,
    ahead: int,
) -> AsyncIterator[AsyncTaskResult | BlocksError]:
    """Takes up to `ahead` inputs beyond the result that is next; a result does not wait for a slow input."""
    source = _each(inputs)
    waiting: deque[asyncio.Future[AsyncTaskResult | BlocksError]] = deque()
    coming: asyncio.Future[Any] | None = asyncio.ensure_future(anext(source))
    try:
        while coming is not None or waiting:
            takes = coming is not None and len(waiting) < ahead
            awaited = [*([coming] if coming is not None and takes else []), *([waiting[0]] if waiting else [])]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if waiting and waiting[0].done():
                yield waiting.popleft().result()
            elif coming is not None and coming.done():
                try:
                    waiting.append(asyncio.ensure_future(one(coming.result())))
                except StopAsyncIteration:
                    coming = None
                else:
                    coming = asyncio.ensure_future(anext(source))
    finally:
        left = [*waiting, *([coming] if coming is not None else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _each(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for item in inputs:
            yield item
        return
    for item in inputs:
        yield item
