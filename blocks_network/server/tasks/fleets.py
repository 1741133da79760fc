"""Fleets: every agent's instances, as presence on their control channels tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.presence import Change, Presence
from blocks_network.server.store.database import StoreFault
from blocks_network.server.tasks.leases import Fleet, Instance
from blocks_network.server.tasks.live import LiveTask
from blocks_network.server.tasks.timers import Timers
from blocks_network.wire.channels import control_channel

__all__ = ["Fleets"]

log = logging.getLogger(__name__)

LEAVE_GRACE_MS = 1_000
"""A client that changes its subscription leaves and joins again: only who stays away has left."""
RECOVERY_GRACE_MS = 25_000
"""After a restart presence is empty; instances are heard again within their presence timeout of 20 s."""


class Fleets:
    """`lost` is called with an instance that is gone for good, `freed` when a fleet may take more work.

    `concurrency_of` looks up what an instance of an agent said at its connect, None for a stranger on the channel.
    """

    def __init__(
        self,
        *,
        presence: Presence,
        keysets: Keysets,
        timers: Timers,
        concurrency_of: Callable[[str, str], Awaitable[int | None]],
        lost: Callable[[Fleet[LiveTask], Instance], None],
        freed: Callable[[Fleet[LiveTask]], None],
    ) -> None:
        self._presence, self._keysets, self._timers = presence, keysets, timers
        self._concurrency_of, self._lost, self._freed = concurrency_of, lost, freed
        self._fleets: dict[tuple[str, str], Fleet[LiveTask]] = {}
        self._looking: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._unfollow: Callable[[], None] | None = None

    def start(self) -> None:
        """From now on every join and leave is heard; who is there already counts as well."""
        self._unfollow = self._presence.follow(self._changed)
        for keys in self._keysets:
            for channel in self._presence.occupied_channels(keys.subscribe_key):
                agent_id = _agent_of(channel)
                if agent_id is not None:
                    for occupant in self._presence.occupants(keys.subscribe_key, channel):
                        self._joined(self.of(agent_id, keys), occupant.uuid)

    async def stop(self) -> None:
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def of(self, agent_id: str, keys: Keyset) -> Fleet[LiveTask]:
        """The agent's fleet on that keyset, made when it is new."""
        key = (keys.subscribe_key, agent_id)
        fleet = self._fleets.get(key)
        if fleet is None:
            fleet = Fleet(agent_id, keys.name, keys.subscribe_key, control_channel(agent_id))
            self._fleets[key] = fleet
        return fleet

    def state_of(self, fleet: Fleet[LiveTask]) -> Callable[[str], Mapping[str, Any]]:
        """Looks up what an instance of the fleet says of itself."""
        return lambda instance_id: self._presence.state_of(fleet.subscribe_key, fleet.channel, instance_id)

    def connected(self, agent_id: str, instance_id: str) -> None:
        """The instance has connected (again): its concurrency may be another one now."""
        for keys in self._keysets:
            fleet = self._fleets.get((keys.subscribe_key, agent_id))
            if fleet is not None and instance_id in fleet.instances:
                self._look_up(fleet, instance_id)

    def expect(self, fleet: Fleet[LiveTask], instance_id: str) -> Instance:
        """An instance that had a task before a restart, or shows that it has one: it has some time to be heard of."""
        instance = fleet.instance(instance_id)
        if not instance.present and instance.gone_at_ms is None:
            self._away(fleet, instance, RECOVERY_GRACE_MS)
        return instance

    def _changed(self, change: Change) -> None:
        agent_id = _agent_of(change.channel)
        keys = self._keysets.by_subscribe_key(change.keyset)
        if agent_id is None or keys is None:
            return
        fleet = self.of(agent_id, keys)
        if change.action == "join":
            self._joined(fleet, change.uuid)
            return
        instance = fleet.instances.get(change.uuid)
        if instance is None:
            self._forget_idle(fleet)
        elif change.action == "state-change":
            if instance.concurrency is None:
                self._look_up(fleet, change.uuid)
            instance.warm()
            self._freed(fleet)
        elif change.action == "leave":
            instance.present = False
            self._away(fleet, instance, LEAVE_GRACE_MS)
        else:
            instance.present = False
            self._gone(fleet, instance)

    def _joined(self, fleet: Fleet[LiveTask], uuid: str) -> None:
        instance = fleet.instance(uuid)
        instance.present, instance.gone_at_ms = True, None
        self._look_up(fleet, uuid)

    def _away(self, fleet: Fleet[LiveTask], instance: Instance, grace_ms: int) -> None:
        instance.gone_at_ms = self._timers.now_ms() + grace_ms
        self._timers.at(instance.gone_at_ms, self._grace_over, (fleet, instance))

    def _grace_over(self, who: tuple[Fleet[LiveTask], Instance]) -> None:
        fleet, instance = who
        due_ms = instance.gone_at_ms
        if not instance.present and due_ms is not None and due_ms <= self._timers.now_ms():
            self._gone(fleet, instance)

    def _gone(self, fleet: Fleet[LiveTask], instance: Instance) -> None:
        if fleet.instances.get(instance.instance_id) is not instance:
            return
        del fleet.instances[instance.instance_id]
        self._lost(fleet, instance)
        self._forget_idle(fleet)

    def _forget_idle(self, fleet: Fleet[LiveTask]) -> None:
        if fleet.idle and not fleet.users:
            self._fleets.pop((fleet.subscribe_key, fleet.agent_id), None)

    def _look_up(self, fleet: Fleet[LiveTask], instance_id: str) -> None:
        key = (fleet.subscribe_key, fleet.agent_id, instance_id)
        previous = self._looking.get(key)
        if previous is not None:
            previous.cancel()  # what it reads may be out of date
        task = asyncio.get_running_loop().create_task(self._learn(fleet, instance_id))
        self._looking[key] = task
        task.add_done_callback(lambda done: self._looked(key, done))

    def _looked(self, key: tuple[str, str, str], done: asyncio.Task[None]) -> None:
        if self._looking.get(key) is done:
            del self._looking[key]

    async def _learn(self, fleet: Fleet[LiveTask], instance_id: str) -> None:
        try:
            concurrency = await self._concurrency_of(fleet.agent_id, instance_id)
        except (StoreFault, OSError, RuntimeError) as fault:
            log.error("instance %s was not looked up: %s", instance_id, fault)
            return
        instance = fleet.instances.get(instance_id)
        if instance is None or concurrency is None:
            return
        instance.concurrency = concurrency
        instance.warm()
        self._freed(fleet)


def _agent_of(channel: str) -> str | None:
    """The agent id of a control channel, None for any other name."""
    prefix, _, rest = channel.partition(".")
    agent_id, _, suffix = rest.rpartition(".")
    return agent_id if prefix == "agent" and suffix == "control" and agent_id else None
