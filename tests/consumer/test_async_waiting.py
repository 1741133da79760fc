"""How a coroutine waits for news that other threads bring."""

from __future__ import annotations

import asyncio
import time

import pytest

from blocks_network.consumer.aio.bridge import Bridge, News
from blocks_network.consumer.changed import Changed


@pytest.mark.parametrize("turns", range(6))
def test_a_cancel_that_comes_together_with_news_is_not_lost(turns: int) -> None:
    async def run() -> None:
        changed = Changed()

        async def waits() -> None:
            with News(Bridge(1), changed) as news:
                await news.until(lambda: False, time.monotonic() + 10)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        with changed:
            changed.notify_all()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_the_deadline_ends_it() -> None:
    async def run() -> None:
        with News(Bridge(1), Changed()) as news, pytest.raises(asyncio.TimeoutError):
            await news.until(lambda: False, time.monotonic() + 0.05)

    asyncio.run(run())
