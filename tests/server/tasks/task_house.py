"""A whole network in the loop of a test, with a clock that the test moves, and instances that do what it says.

Everything is the real part: platform API and gateway (called as ASGI, without sockets), bus, presence, database.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import httpx

from blocks_network.server.access.apikeys import ALL_SCOPES
from blocks_network.server.app import OWNER_ORG, Network
from blocks_network.server.bus import Message
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import DataDirectory, Identity
from blocks_network.server.limits import Limits
from blocks_network.server.tasks.live import LiveTask
from blocks_network.wire.channels import control_channel, task_channel
from blocks_network.wire.events import event_meta, running_event, system_event, terminal_event

__all__ = ["DEADLINE_S", "Clock", "Hand", "House", "Refused", "housed", "ids"]

DEADLINE_S = 10.0
"""How long a test waits for what must happen at once."""
STAYS_S = 10_000_000
"""The presence timeout of an instance that is meant to stay, whatever the clock does."""
TIMEOUT_S = 20
"""That of one which falls silent."""
NUMBERS = itertools.count()


class Refused(Exception):
    """A JSON-RPC call that was answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.rpc_code = error["code"]
        self.data = error.get("data") or {}
        self.code = self.data.get("code")


class Clock:
    """Unix seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self._now_ms = int(time.time()) * 1000

    def __call__(self) -> float:
        return (self._now_ms + 0.5) / 1000  # so that the network's milliseconds are these, however it rounds

    def advance(self, seconds: float) -> None:
        self._now_ms += round(seconds * 1000)


class House:
    """The network and its caller, who owns the node's key."""

    def __init__(self, clock: Clock, limits: Limits, path: Path | None = None) -> None:
        self.clock, self.limits = clock, limits
        self._directory = None if path is None else DataDirectory(path)
        if self._directory is not None:
            self._directory.open()
        self.identity = self._directory.identity(None) if self._directory else Identity.generate(None)
        self.network = Network(
            NodeConfig(limits=limits),
            self.identity,
            directory=self._directory,
            base_url="http://network",
            origin="network:80",
            clock=clock,
        )
        self.hands: list[Hand] = []
        self._running = AsyncExitStack()
        self._moved = asyncio.Event()

    async def __aenter__(self) -> House:
        self.network.bus.follow("", self._heard)  # before the start, which may have something to say already
        await self.network.start()
        self._running.push_async_callback(self._stop)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.network), base_url="http://network")
        for hand in self.hands:
            hand.stay()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._running.aclose()

    async def _stop(self) -> None:
        await self.http.aclose()
        await self.network.release()
        await self.network.stop()
        if self._directory is not None:
            self._directory.close()

    @contextmanager
    def held_database(self) -> Iterator[None]:
        """Somebody else has the database: what is to be committed waits. Of a durable house."""
        assert self._directory is not None
        with closing(sqlite3.connect(self._directory.path / "network.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield

    # --- time ---

    def _heard(self, message: Message) -> None:
        for hand in self.hands:
            hand.heard(message)
        self._moved.set()

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until it does, looking again after each message of the network. Returns what it gave."""

        async def look() -> Any:
            while not (found := holds()):
                self._moved.clear()
                await self._moved.wait()
            return found

        return await asyncio.wait_for(look(), DEADLINE_S)

    async def advance(self, seconds: float) -> None:
        """Lets time pass: what is due happens, and is in the database and on the bus when this returns."""
        self.clock.advance(seconds)
        self.network.presence.expire()
        self.network.tasks.timers.run_due()
        await self.settle()

    async def settle(self) -> None:
        """Returns when what was decided until now has left."""
        await self.call("ListTasks", limit=0)  # waits for the ledger
        await self.network.bus.current()
        for _ in range(5):  # the courier and the looks into the database have their turns
            await self.network.database.read(lambda connection: None)
            await self.network.bus.history("none", "none", limit=1, newest=True)  # waits for the log's writer
            await asyncio.sleep(0)

    # --- calls ---

    async def post(self, path: str, body: Any, *, key: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.identity.api_key}"}
        return await self.http.post(f"/api/v1/{path}", json=body, headers=headers)

    async def call(self, method: str, *, key: str | None = None, **params: Any) -> dict[str, Any]:
        """The result. Refused when there is an error instead."""
        envelope = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        said = (await self.post("rpc", envelope, key=key)).json()
        if "error" in said:
            raise Refused(said["error"])
        result = said["result"]
        assert isinstance(result, dict)
        return result

    async def send(self, name: str = "worker", **params: Any) -> str:
        """SendMessage to a free agent; the task's id."""
        answer = await self.call("SendMessage", **{"agentName": name, "billingMode": "free", **params})
        task_id = answer["taskId"]
        assert isinstance(task_id, str)
        return task_id

    async def get(self, task_id: str) -> dict[str, Any]:
        task = (await self.call("GetTask", taskId=task_id))["task"]
        assert isinstance(task, dict)
        return task

    async def states(self, *task_ids: str) -> list[str]:
        return [(await self.get(task_id))["state"] for task_id in task_ids]

    async def key(self, user_id: str, org_id: str = OWNER_ORG) -> str:
        _, secret = await self.network.api_keys.create(org_id=org_id, user_id=user_id, scopes=ALL_SCOPES)
        return secret

    async def register(self, name: str = "worker", **sections: Any) -> None:
        card = {"identity": {"agentName": name, "displayName": name}, **sections}
        answer = await self.post("registry/agents", {"card": card, "listing": "public", "billingMode": "free"})
        assert answer.status_code in (200, 201), answer.text

    async def hand(self, name: str = "worker", concurrency: int = 1, **said: Any) -> Hand:
        """Connects an instance, which is there and ready when this returns."""
        instance_id = f"{name}-{next(NUMBERS)}"
        body = {"agentName": name, "instanceId": instance_id, "billingMode": "free", "concurrency": concurrency, **said}
        answer = await self.post("auth/agent/connect", body)
        assert answer.status_code == 200, answer.text
        hand = Hand(self, name, instance_id, answer.json()["agentId"])
        self.hands.append(hand)
        hand.stay()
        await self.settle()
        return hand

    def adopt(self, hand: Hand) -> None:
        """Before the start: an instance that was connected before a restart, and comes back after it."""
        hand.move(self)
        self.hands.append(hand)

    # --- what stands on a task's channel ---

    def living(self, task_id: str) -> LiveTask | None:
        return self.network.tasks.living(task_id)

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        keys = self.identity.keysets.by_name("playground")
        channel = task_channel(task_id, OWNER_ORG)
        stored = await self.network.bus.history(keys.subscribe_key, channel, limit=100, newest=False)
        return [json.loads(message.draft.payload) for message in stored]

    async def terminals(self, task_id: str) -> list[dict[str, Any]]:
        return [event for event in await self.events(task_id) if event["type"] == "terminal"]

    async def ended(self, task_id: str) -> dict[str, Any]:
        """Waits for the end; the task. There is one terminal, the same that the task shows, and nothing after it."""
        await self.until(lambda: self.living(task_id) is None)
        task, events = await self.get(task_id), await self.events(task_id)
        assert [event["type"] for event in events].count("terminal") == 1
        last = events[-1]
        assert last["type"] == "terminal"
        for mine in ("state", "reason", "completionReason", "error"):
            assert task.get(mine) == last.get(mine), (task, last)
        return task


class Hand:
    """An instance in the hand of a test: hears its control messages, and publishes what the test says."""

    def __init__(self, house: House, name: str, instance_id: str, agent_id: str) -> None:
        self._house, self.name, self.instance_id = house, name, instance_id
        self._keys = house.identity.keysets.by_name("playground")
        self._channel = control_channel(agent_id)
        self.messages: list[dict[str, Any]] = []
        self._seen: set[tuple[str, int]] = set()

    def move(self, house: House) -> None:
        self._house = house

    def heard(self, message: Message) -> None:
        draft = message.draft
        if draft.channel != self._channel or draft.meta is None:
            return
        if json.loads(draft.meta).get("instance") == self.instance_id:
            self.messages.append(json.loads(draft.payload))

    def told(self, kind: str, task_id: str | None = None) -> list[dict[str, Any]]:
        return [
            message for message in self.messages if message["type"] == kind and task_id in (None, message["taskId"])
        ]

    @property
    def given(self) -> list[str]:
        """Its tasks, in the order of their StartTasks."""
        return list(dict.fromkeys(message["taskId"] for message in self.told("StartTask")))

    # --- presence ---

    def stay(self) -> None:
        self._house.network.presence.touch(
            self._keys.subscribe_key, [self._channel], self.instance_id, timeout_s=STAYS_S
        )

    def fade(self) -> None:
        """Its last heartbeat, with the protocol's usual timeout."""
        self._house.network.presence.touch(
            self._keys.subscribe_key, [self._channel], self.instance_id, timeout_s=TIMEOUT_S
        )

    def leave(self) -> None:
        self._house.network.presence.leave(self._keys.subscribe_key, [self._channel], self.instance_id)

    async def die(self) -> None:
        """Falls silent, and its presence times out."""
        self.fade()
        await self._house.advance(TIMEOUT_S + 0.1)

    # --- tasks ---

    async def start(self, task_id: str | None = None) -> dict[str, Any]:
        """Waits for the StartTask (of any task that it did not begin yet) and shows that it runs it."""
        message: dict[str, Any] = await self._house.until(lambda: self.unseen(task_id))
        self._seen.add((message["taskId"], message["attempt"]))
        await self.publish(message["taskId"], running_event(message["taskId"]))
        return message

    def unseen(self, task_id: str | None = None) -> dict[str, Any] | None:
        """The first StartTask of a run that it did not begin yet; repeated ones it ignores."""
        starts = self.told("StartTask", task_id)
        return next((start for start in starts if (start["taskId"], start["attempt"]) not in self._seen), None)

    async def wait_told(self, kind: str, task_id: str) -> dict[str, Any]:
        told = await self._house.until(lambda: self.told(kind, task_id))
        message = told[-1]
        assert isinstance(message, dict)
        return message

    async def publish(self, task_id: str, event: dict[str, Any]) -> httpx.Response:
        """By way of the gateway, with the task's own token."""
        token = self.told("StartTask", task_id)[-1]["writeToken"]
        channel, keys = task_channel(task_id, OWNER_ORG), self._keys
        path = f"/publish/{keys.publish_key}/{keys.subscribe_key}/0/{channel}/0/{quote(json.dumps(event), safe='')}"
        meta = json.dumps(event_meta(self.name, task_id))
        params = {"uuid": self.instance_id, "auth": token, "store": "1", "meta": meta}
        answer = await self._house.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer

    async def end(self, task_id: str, state: Any = "completed", **more: Any) -> None:
        await self.publish(task_id, terminal_event(task_id, state, **more))

    async def refuse(self, task_id: str) -> None:
        await self.end(task_id, "failed", error="agent_at_capacity")

    async def turn(self, task_id: str, status: Any) -> None:
        await self.publish(task_id, system_event(task_id, status))


def ids(answer: dict[str, Any]) -> list[str]:
    """Of a ListTasks answer."""
    return [task["taskId"] for task in answer["tasks"]]


def housed(*, durable: bool = False, **bounds: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """A test with a parameter `house`: a network in memory, with these limits, and the agent `worker` in it."""

    def wrap(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        async def run(**given: Any) -> None:
            with TemporaryDirectory() as directory:
                await on(Path(directory) if durable else None, **given)

        async def on(path: Path | None, **given: Any) -> None:
            async with House(Clock(), Limits(**bounds), path) as house:
                await house.register()
                await test(house=house, **given)

        @functools.wraps(test)
        def live(**given: Any) -> None:
            asyncio.run(run(**given))

        del live.__dict__["__wrapped__"]
        shown = inspect.signature(test)
        rest = [parameter for name, parameter in shown.parameters.items() if name != "house"]
        live.__signature__ = shown.replace(parameters=rest)  # type: ignore[attr-defined]  # pytest reads it
        return live

    return wrap
