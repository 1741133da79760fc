"""The network's side of a control channel in a test's own hands: it says what it likes, and hears the events."""

from __future__ import annotations

import itertools
import queue
import secrets
from typing import Any

from blocks_network.agent.handle import AgentHandle
from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.testing.network import Network
from blocks_network.transport.pubnub import call, keys_of, make_client
from blocks_network.transport.subscription import Received, Subscription
from blocks_network.wire.channels import task_channel
from blocks_network.wire.control import broadcast_meta, targeted_meta

__all__ = ["WAIT_S", "Desk"]

WAIT_S = 10.0
ORG = "org_of_nobody"
_numbers = itertools.count(1)


class Desk:
    """Tasks of its own are unknown to the network's brain: it repeats nothing, and ends nothing."""

    def __init__(self, blocks: Network, handle: AgentHandle) -> None:
        self._handle = handle
        self.channel = handle._instance.connection.link.channel
        keys = keys_of(handle.pubnub)
        self._keyset = next(each for each in blocks.node.keysets if each.subscribe_key == keys.subscribe_key)
        self._client = make_client(keys, user_id="desk", token=self.mint(self.channel, Bits.READ | Bits.WRITE))
        self._keys = keys
        self._ears: list[Subscription] = []

    def mint(self, channel: str, bits: Bits) -> str:
        return CapabilityTokens().mint(self._keyset, ttl_minutes=5, channels={channel: bits})

    def say(self, message: dict[str, Any], *, broadcast: bool = False) -> None:
        meta = broadcast_meta() if broadcast else targeted_meta(self._handle.instance_id)
        call(self._client.publish().channel(self.channel).message(message).meta(meta).use_post(True))

    def task(self, **fields: Any) -> Task:
        return Task(self, f"raw-{next(_numbers)}-{secrets.token_hex(4)}", fields)

    def hear(self, channel: str) -> queue.Queue[dict[str, Any]]:
        heard: queue.Queue[dict[str, Any]] = queue.Queue()

        class Ear:
            def received(self, message: Received) -> None:
                heard.put(message.payload)

            def connected(self) -> None: ...

            def disconnected(self, fault: Exception) -> None: ...

            def denied(self, fault: Exception) -> bool:
                return False

        client = make_client(self._keys, user_id="ear", token=self.mint(channel, Bits.READ))
        ear = Subscription(client, [channel], Ear(), name="ear", cursor=1000)
        ear.start()
        self._ears.append(ear)
        return heard

    def close(self) -> None:
        for ear in self._ears:
            ear.stop()
            assert ear.join(WAIT_S)


class Task:
    """One task that the desk gives out. `events` come as they are published."""

    def __init__(self, desk: Desk, task_id: str, fields: dict[str, Any]) -> None:
        self._desk, self.task_id = desk, task_id
        self.channel = task_channel(task_id, ORG)
        self.message = {
            "type": "StartTask",
            "taskId": task_id,
            "ownerId": "somebody",
            "orgId": ORG,
            "requestParts": [{"text": "go"}],
            "writeToken": desk.mint(self.channel, Bits.READ | Bits.WRITE),
            "protocolVersion": "2026-05-01",
            **fields,
        }
        self.message = {name: value for name, value in self.message.items() if value is not ...}
        self.events = desk.hear(self.channel)

    def start(self, *, broadcast: bool = False) -> Task:
        self._desk.say(self.message, broadcast=broadcast)
        return self

    def control(self, kind: str, **fields: Any) -> None:
        self._desk.say({"type": kind, "taskId": self.task_id, "protocolVersion": "2026-05-01", **fields})

    def next(self) -> dict[str, Any]:
        return self.events.get(timeout=WAIT_S)

    def terminal(self) -> dict[str, Any]:
        """What the terminal says, without what every event says."""
        while (event := self.next())["type"] != "terminal":
            continue
        return {key: event[key] for key in event if key not in ("type", "taskId", "protocolVersion")}

    def nothing_more(self, other: Task) -> None:
        """Nothing came after the terminal: `other` was published later, through the same publisher, and is here."""
        other.terminal()
        assert self.events.empty()
