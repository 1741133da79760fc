"""Unmodified JavaScript clients of `pubnub` in one Node process, told what to do over its standard input.

`js/remote.js` is the other end. The packages come from npm once, into `js/node_modules`.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from gateway_harness import DEADLINE_S, GatewayNode

from blocks_network.server.access.keysets import Keyset

__all__ = ["JavaScriptClient", "JavaScriptError", "Node", "installed"]

HOME = Path(__file__).parent / "js"
INSTALL_S = 300
"""Seventy small packages, over a slow line."""


class JavaScriptError(Exception):
    """A call failed in the client: `status` is that of HTTP, 0 without an answer; `data` is its JSON."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['status']} {error['category']}: {error['message']}")
        self.status, self.category, self.data = error["status"], error["category"], error["data"]


def installed() -> Path:
    """The `node` that has the packages. RuntimeError, with what to do, when Node is not there or npm fails."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise RuntimeError(
            "node and npm are needed: these tests run the unmodified JavaScript client of pubnub. "
            "Install Node 18 or later (Debian and Ubuntu: sudo apt-get install nodejs npm), then run them again."
        )
    wanted = hashlib.sha256((HOME / "package-lock.json").read_bytes()).hexdigest()
    done = HOME / "node_modules" / f".installed-{wanted[:16]}"
    place = hashlib.sha256(str(HOME).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"blocks-network-npm-{place}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # the workers of one test run come at the same time
        if not done.exists():
            command = [npm, "ci", "--loglevel=error"]
            ran = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=INSTALL_S)
            if ran.returncode:
                raise RuntimeError(f"`npm ci` in {HOME} failed ({ran.returncode}):\n{ran.stdout}{ran.stderr}")
            done.touch()
    return Path(node)


class Node:
    """The process. Its clients share it; a thread reads what it tells."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(installed()), "remote.js"], cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._clients: dict[str, JavaScriptClient] = {}
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="node-reader", daemon=True)
        self._thread.start()

    def client(
        self, gateway: GatewayNode, uuid: str, *, keyset: Keyset | None = None, **settings: Any
    ) -> JavaScriptClient:
        """With `secretKey` or a token (`authKey`) among the settings it is on the keyset with access control."""
        named = keyset or (gateway.keyset if {"secretKey", "authKey"} & set(settings) else gateway.open_keyset)
        name = f"{uuid}#{next(self._numbers)}"
        client = self._clients[name] = JavaScriptClient(self, name)
        self.ask(
            {
                "client": name,
                "new": {
                    "publishKey": named.publish_key,
                    "subscribeKey": named.subscribe_key,
                    "userId": uuid,
                    "origin": gateway.origin,
                    "ssl": False,
                    **settings,
                },
            }
        )
        return client

    def ask(self, request: dict[str, Any]) -> Any:
        """What the call resolves to. JavaScriptError when it is rejected."""
        number, answer = next(self._numbers), Future[Any]()
        self._waiting[number] = answer
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
            self._process.stdin.flush()
        return answer.result(2 * DEADLINE_S)

    def stop(self) -> None:
        """Ends the process, whatever its clients wait for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()
            self._thread.join(DEADLINE_S)
            self._process.stdout.close()

    def forget(self) -> None:
        """All clients of a test: they stop, with no farewell to a network that may be gone."""
        for client in self._clients.values():
            client.call("stop")
        self._clients.clear()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                client = self._clients.get(told["client"])
                if client is not None:
                    client.heard(told["event"], told["data"])
                continue
            answer = self._waiting.pop(told["id"])
            if "error" in told:
                answer.set_exception(JavaScriptError(told["error"]))
            else:
                answer.set_result(told["result"])
        for answer in self._waiting.values():
            answer.set_exception(RuntimeError("the Node process has ended; its standard error says why"))


class JavaScriptClient:
    """One client. `call` takes its method's own parameters; `next` gives its events one by one."""

    def __init__(self, node: Node, name: str) -> None:
        self._node, self._name = node, name
        kinds = ("status", "message", "presence", "signal", "messageAction", "file")
        self._events: dict[str, queue.Queue[Any]] = {kind: queue.Queue() for kind in kinds}

    def call(self, method: str, *positional: Any, **parameters: Any) -> Any:
        given = [*positional, parameters] if parameters else list(positional)
        return self._node.ask({"client": self._name, "call": method, "with": given})

    def listen(self, *channels: str, groups: tuple[str, ...] = (), presence: bool = False, **more: Any) -> None:
        """Subscribes, and returns when the client is connected."""
        self.call("subscribe", channels=channels, channelGroups=groups, withPresence=presence, **more)
        self.wait_status("PNConnectedCategory", "PNSubscriptionChangedCategory")

    def next(self, kind: str = "message") -> Any:
        return self._events[kind].get(timeout=DEADLINE_S)

    def none_left(self, kind: str = "message") -> bool:
        return self._events[kind].empty()

    def wait_status(self, *categories: str) -> dict[str, Any]:
        """The first status of one of these categories; others are skipped."""
        skipped = []
        while True:
            try:
                status = self._events["status"].get(timeout=DEADLINE_S)
            except queue.Empty:
                raise AssertionError(f"no {categories} but {skipped}") from None
            if status.get("category") in categories:
                return dict(status)
            skipped.append(status)

    def heard(self, event: str, data: Any) -> None:
        self._events[event].put(data)
