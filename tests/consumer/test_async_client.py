"""The client on an event loop: the same results, while the loop stays free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks_network import AsyncTaskClient, SendMessageParams, TaskClient, TaskContext, TokenResult, text_part
from blocks_network.consumer.aio import AsyncTaskResult
from blocks_network.errors import (
    BlocksError,
    ConfigurationError,
    RpcError,
    SessionClosedError,
    TaskCanceled,
    TaskFailed,
    WaitTimeoutError,
)
from blocks_network.testing.network import Network

S = 10.0


def upper(task: Any) -> str:
    return str(task.request_parts[0].text).upper()


def on_loop(blocks: Network, program: Callable[[AsyncTaskClient], Awaitable[None]], **options: Any) -> None:
    """Runs a program with a client of its own."""

    async def main() -> None:
        options.setdefault("api_key", blocks.api_key)
        async with await AsyncTaskClient.create("free", cdm_url=blocks.cdm_url, **options) as client:
            await asyncio.wait_for(program(client), 4 * S)

    asyncio.run(main())


def test_one_line_gets_a_result(blocks: Network) -> None:
    blocks.agent(upper, name="aio_upper")

    async def program(client: AsyncTaskClient) -> None:
        result = await client.run("aio_upper", "hello", timeout=S)
        assert (await result.text(), result.event.state) == ("HELLO", "completed")
        assert (await client.get_task(result.task_id)).owner == client.get_user_id()

    on_loop(blocks, program)


def test_waiting_takes_no_thread(blocks: Network) -> None:
    """With two threads, thirty tasks are waited for, and requests go on."""
    release = threading.Event()
    blocks.agent(lambda task: release.wait(S) and "late", name="aio_gated", concurrency=0)

    async def program(client: AsyncTaskClient) -> None:
        sessions = await asyncio.gather(*(client.send_message(agent_name="aio_gated") for _ in range(30)))
        waits = [asyncio.ensure_future(session.result(S)) for session in sessions]
        assert (await client.get_task(sessions[0].task_id)).agent_name == "aio_gated"
        assert not any(wait.done() for wait in waits)
        release.set()
        assert [await (await wait).text() for wait in waits] == ["late"] * 30
        await asyncio.gather(*(session.close() for session in sessions))

    on_loop(blocks, program, threads=2)


def test_a_session_is_iterated_from_the_first_event_to_the_last(blocks: Network) -> None:
    def handler(task: Any, ctx: TaskContext) -> str:
        ctx.report_status("half way")
        return "done"

    blocks.agent(handler, name="aio_iterated")

    async def program(client: AsyncTaskClient) -> None:
        async with await client.send_message(agent_name="aio_iterated") as session:
            types = [event.type async for event in session]
            assert (types[0], types[-2:]) == ("progress", ["artifact", "terminal"])
            assert "half way" in [event.message for event in await session.list_events()]
            assert [event.type async for event in session] == types

    on_loop(blocks, program)


def test_callbacks_run_on_the_loop_in_order_and_before_the_wait_ends(blocks: Network) -> None:
    blocks.agent(upper, name="aio_told")

    async def program(client: AsyncTaskClient) -> None:
        here, told = threading.get_ident(), []
        async with await client.send_message(agent_name="aio_told", request_parts=[text_part("x")]) as session:

            async def slowly(event: Any) -> None:
                await asyncio.sleep(0.01)
                told.append((event.type, threading.get_ident()))

            await session.on_event(slowly)
            await session.wait_for_terminal(S)
            types = [kind for kind, _ in told]
            assert types == [event.type for event in await session.list_events()]
            assert {thread for _, thread in told} == {here}
            late: list[str] = []
            await session.on_event(lambda event: late.append(event.type))
            assert late == types

    on_loop(blocks, program)


def test_a_callback_may_wait_for_the_terminal_itself_and_its_fault_goes_to_on_error(blocks: Network) -> None:
    release = threading.Event()

    def handler(task: Any, ctx: TaskContext) -> str:
        release.wait(S)
        return "done"

    blocks.agent(handler, name="aio_waits_within")

    async def program(client: AsyncTaskClient) -> None:
        async with await client.send_message(agent_name="aio_waits_within") as session:
            heard: asyncio.Queue[Any] = asyncio.Queue()
            await session.on_error(lambda fault, context: heard.put_nowait((str(fault), context.callback_type)))

            async def first(event: Any) -> None:
                release.set()
                raise ValueError((await session.wait_for_terminal(S)).state)

            stop = await session.on_progress(first)
            assert await asyncio.wait_for(heard.get(), S) == ("completed", "onProgress")
            stop()
            stop()

    on_loop(blocks, program)


def test_failures_are_the_errors_of_the_plain_client(blocks: Network) -> None:
    started = threading.Event()

    def patient(task: Any, ctx: TaskContext) -> None:
        if task.request_parts[0].text == "torn":
            raise ValueError("page 3 is torn")
        started.set()
        ctx.cancel_event.wait(S)

    blocks.agent(patient, name="aio_patient", concurrency=2)

    async def program(client: AsyncTaskClient) -> None:
        with pytest.raises(TaskFailed, match="page 3 is torn"):
            await client.run("aio_patient", "torn")
        with pytest.raises(RpcError, match="registered"):
            await client.run("nobody_at_all", "x")
        async with await client.send_message(agent_name="aio_patient", request_parts=[text_part("wait")]) as session:
            with pytest.raises(WaitTimeoutError, match="within") as caught:
                await session.result(0.05)
            assert caught.value.task_id == session.task_id
            await asyncio.to_thread(started.wait, S)
            await session.cancel()
            with pytest.raises(TaskCanceled):
                await session.result(S)

    on_loop(blocks, program)


@pytest.mark.parametrize("end", ["close", "destroy"])
def test_who_waits_is_woken_when_session_or_client_ends(blocks: Network, end: str) -> None:
    blocks.agent(lambda task, ctx: ctx.cancel_event.wait(S), name="aio_woken")

    async def program(client: AsyncTaskClient) -> None:
        session = await client.send_message(agent_name="aio_woken")
        waits = [
            asyncio.ensure_future(session.wait_for_terminal(None)),
            asyncio.ensure_future(session.wait_for_stream("words")),
            asyncio.ensure_future(_drained(session)),
        ]
        await asyncio.sleep(0)
        await (session.close() if end == "close" else client.destroy())
        for wait in waits:
            with pytest.raises(SessionClosedError):
                await asyncio.wait_for(wait, S)
        await session.terminate()

    on_loop(blocks, program)


async def _drained(session: Any) -> None:
    async for _ in session:
        continue


def test_a_cancelled_wait_leaves_the_session_as_it_was(blocks: Network) -> None:
    release = threading.Event()
    blocks.agent(lambda task: release.wait(S) and "late", name="aio_cancelled_wait")

    async def program(client: AsyncTaskClient) -> None:
        async with await client.send_message(agent_name="aio_cancelled_wait") as session:
            wait = asyncio.ensure_future(session.wait_for_terminal(None))
            await asyncio.sleep(0)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            release.set()
            assert await (await session.result(S)).text() == "late"

    on_loop(blocks, program)


def test_a_stored_result_is_read_again_and_saved(blocks: Network, tmp_path: Path) -> None:
    blocks.agent(upper, name="aio_keyed")

    async def program(client: AsyncTaskClient) -> None:
        first = await client.run("aio_keyed", "x", idempotency_key="aio-1", timeout=S)
        params = SendMessageParams("aio_keyed", [text_part("x")], "aio-1")
        async with await client.send_message(params) as again:
            assert (again.idempotent, again.task_id) == (True, first.task_id)
            assert (await again.wait_for_terminal(S)).state == "completed"
            (path,) = await again.save_artifacts(tmp_path)
            assert Path(path).read_bytes() == b"X"
        async with await client.connect(first.task_id) as known:
            assert await (await known.result(S)).text() == "X"

    on_loop(blocks, program)


# --- map ---


async def _texts(outcomes: AsyncIterator[AsyncTaskResult | BlocksError]) -> list[str]:
    return [
        await outcome.text() if isinstance(outcome, AsyncTaskResult) else type(outcome).__name__
        async for outcome in outcomes
    ]


def test_map_yields_in_the_order_of_the_inputs_with_failures_as_values(blocks: Network) -> None:
    last_is_done = threading.Event()

    def handler(task: Any) -> str:
        text = str(task.request_parts[0].text)
        if text == "a":
            assert last_is_done.wait(S)
        if text == "c":
            raise ValueError(text)
        if text == "d":
            last_is_done.set()
        return text.upper()

    blocks.agent(handler, name="aio_mapped", concurrency=4)

    async def program(client: AsyncTaskClient) -> None:
        assert await _texts(client.map("aio_mapped", "abcd", concurrency=4)) == ["A", "B", "TaskFailed", "D"]
        with pytest.raises(ConfigurationError):
            client.map("aio_mapped", "a", concurrency=0)

    on_loop(blocks, program)


def test_map_takes_inputs_that_come_slowly_and_gives_results_meanwhile(blocks: Network) -> None:
    blocks.agent(upper, name="aio_mapped_slow")

    async def program(client: AsyncTaskClient) -> None:
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def inputs() -> AsyncIterator[str]:
            yield "a"
            assert await asyncio.wait_for(seen.get(), S) == "A"  # the second is asked for by the first's result
            yield "b"

        texts = []
        async for outcome in client.map("aio_mapped_slow", inputs()):
            assert isinstance(outcome, AsyncTaskResult)
            texts.append(await outcome.text())
            seen.put_nowait(texts[-1])
        assert texts == ["A", "B"]

    on_loop(blocks, program)


def test_map_stops_when_it_is_given_up(blocks: Network) -> None:
    blocks.agent(upper, name="aio_mapped_endless", concurrency=2)
    taken: list[int] = []

    def inputs() -> Any:
        for number in range(10_000):
            taken.append(number)
            yield str(number)

    async def program(client: AsyncTaskClient) -> None:
        outcomes: Any = client.map("aio_mapped_endless", inputs(), concurrency=2)
        assert await (await anext(outcomes)).text() == "0"
        await outcomes.aclose()
        assert len(taken) <= 8
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if "one" in repr(task.get_coro())]

    on_loop(blocks, program)


# --- streams ---


def card(name: str) -> dict[str, Any]:
    return {
        "identity": {"agentName": name, "displayName": name, "description": "streams", "version": "1.0.0"},
        "capabilities": {"streaming": True, "taskKinds": ["pipe"]},
        "streams": {"words": {"direction": "bidirectional", "format": "events"}},
    }


def echoing(task: Any, ctx: TaskContext) -> str:
    stream = ctx.create_stream(declared_stream="words")
    for number, event in enumerate(stream.events()):
        stream.write({"echo": event["n"]})
        if number == 999:
            break
    return "done"


def test_a_stream_is_written_and_read_on_the_loop(blocks: Network) -> None:
    blocks.agent(echoing, card=card("aio_words"))

    async def program(client: AsyncTaskClient) -> None:
        async with await client.send_message(agent_name="aio_words", task_kind="pipe", duration=1) as session:
            announced: asyncio.Queue[str] = asyncio.Queue()
            await session.on_stream(lambda ref: announced.put_nowait(str(ref.descriptor.declared_stream)))
            ref = await session.wait_for_stream("words", timeout=S)
            assert await asyncio.wait_for(announced.get(), S) == "words"
            async with await ref.open() as stream:
                for number in range(1000):
                    await stream.write({"n": number})
                echoed = []
                async for event in stream.events():
                    echoed.append(event["echo"])
                    if len(echoed) == 1000:
                        break
                assert echoed == list(range(1000))
            await session.terminate()
            assert (await session.wait_for_terminal(S)).state == "canceled"

    on_loop(blocks, program)


def test_a_stream_that_nobody_announces_is_a_timeout(blocks: Network) -> None:
    blocks.agent(lambda task, ctx: ctx.cancel_event.wait(S), name="aio_streamless")

    async def program(client: AsyncTaskClient) -> None:
        session = await client.send_message(agent_name="aio_streamless")
        with pytest.raises(WaitTimeoutError, match="words"):
            await session.wait_for_stream("words", timeout=0.05)
        with pytest.raises(WaitTimeoutError, match="fits"):
            await session.wait_for_stream_where(lambda ref: True, timeout=0.05)
        await session.terminate()
        with pytest.raises(SessionClosedError, match="without a stream"):
            await session.wait_for_stream_where(lambda ref: True, timeout=S)

    on_loop(blocks, program)


# --- who and where ---


def test_a_token_provider_may_be_a_coroutine_function(blocks: Network) -> None:
    blocks.agent(upper, name="aio_provided")
    asked: list[int] = []
    lender = blocks.client()

    async def main() -> None:
        here = threading.get_ident()

        async def provider() -> TokenResult:
            asked.append(threading.get_ident() - here)
            header = lender._consumer_auth.get_auth_header() or ""  # type: ignore[union-attr]
            return TokenResult(header.removeprefix("Bearer "), 600, lender.get_user_id())

        async with await AsyncTaskClient.create("free", blocks.cdm_url, token_provider=provider) as client:
            assert await (await client.run("aio_provided", "x", timeout=S)).text() == "X"

    asyncio.run(main())
    assert asked == [0]


def test_a_client_that_exists_is_used_on_a_loop(blocks: Network) -> None:
    blocks.agent(upper, name="aio_around")
    plain = blocks.client()

    async def main() -> None:
        client = AsyncTaskClient(plain)
        assert await (await client.run("aio_around", "x", timeout=S)).text() == "X"

    asyncio.run(main())
    assert plain.run("aio_around", "y", timeout=S).text == "Y"


def test_without_a_loop_it_says_where_it_is_made(blocks: Network) -> None:
    with pytest.raises(ConfigurationError, match="event loop"):
        AsyncTaskClient(blocks.client())


def test_every_method_of_the_plain_client_is_there() -> None:
    from blocks_network import AsyncTaskSession, TaskSession

    def surface(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert surface(TaskClient) - {"create"} <= surface(AsyncTaskClient) | {"billing_mode"}
    assert surface(TaskSession) - {"inside"} <= surface(AsyncTaskSession)
