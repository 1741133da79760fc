"""The directory: agents as senders of tasks meet them, kept for a moment so that not every call reads a card."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from blocks_network.server.limits import Limits
from blocks_network.server.store.database import Database
from blocks_network.server.store.providers import Provider, find_provider, instance_concurrency
from blocks_network.wire import cards

__all__ = ["Directory", "max_backlog", "max_running_s"]

FRESH_S = 1.0
"""An entry that nobody has called out of date is read again after this."""
ENTRIES = 1_000


class Directory:
    """Belongs to one event loop. Unknown agents are looked up each time: they may be registered at any moment."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock
        self._known: OrderedDict[str, tuple[Provider, float]] = OrderedDict()

    async def provider(self, agent_name: str) -> Provider | None:
        known = self._known.get(agent_name)
        now_s = self._clock()
        if known is not None and now_s - known[1] < FRESH_S:
            return known[0]
        provider = await self._database.read(partial(find_provider, agent_name=agent_name))
        if provider is None:
            self._known.pop(agent_name, None)
            return None
        self._known[agent_name] = (provider, now_s)
        if len(self._known) > ENTRIES:
            self._known.popitem(last=False)
        return provider

    def changed(self, agent_name: str) -> None:
        """The agent was registered again, taken away, or its instances said something new."""
        self._known.pop(agent_name, None)

    async def concurrency_of(self, agent_id: str, instance_id: str) -> int | None:
        """What the instance said at its connect; None for a stranger."""
        return await self._database.read(partial(instance_concurrency, agent_id=agent_id, instance_id=instance_id))


def max_backlog(provider: Provider, limits: Limits) -> int:
    """How many tasks may wait: what the instances said last, else the card, else the network's own bound."""
    told = provider.scaling.get("maxPendingBacklog")
    if isinstance(told, int) and not isinstance(told, bool) and told >= 0:
        return told
    carded = cards.runtime_number(provider.card, "maxPendingBacklog")
    return limits.backlog_tasks if carded is None else carded


def max_running_s(provider: Provider) -> int | None:
    """The longest run in seconds: what the instances said last, else the card; None is no limit."""
    told = provider.scaling.get("maxRunningTimeSec")
    if isinstance(told, int) and not isinstance(told, bool) and told > 0:
        return told
    return cards.runtime_number(provider.card, "maxRunningTimeSec")
