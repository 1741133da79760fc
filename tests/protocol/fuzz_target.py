"""A network in a process of its own for the fuzz runs, small enough that what it may keep is soon full; and a raw wire.

Nothing of an HTTP library stands between a test and the socket: what is sent is bytes, and each answer is checked as
bytes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks_network.agent.loading import derive_card
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.tokens import CapabilityTokens

__all__ = ["ANSWER_S", "Answer", "Seeds", "Target", "Wire", "WireFault"]

ANSWER_S = 5.0
"""Each answer comes within it; held polls are released after HOLD_S."""
HOLD_S = 0.2
START_S = 30
LIMITS = {
    "hold_s": HOLD_S,
    "tails_bytes": 4 * 1024 * 1024,
    "memory_log_bytes": 4 * 1024 * 1024,
    "tail_s": 5,
    "presence_records": 2_000,
    "groups_per_keyset": 50,
    "channels_per_group": 50,
    "agents_per_org": 20,
    "instances_per_agent": 20,
    "tokens_cached_chars": 1024 * 1024,
    "upload_idle_s": 1,
    "body_idle_s": 2,
}


class WireFault(AssertionError):
    """The network did not answer, answered too late, or answered what is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Seeds:
    """Values that hold, so that requests get past the first check."""

    keyset: Keyset
    playground: Keyset
    token: str
    spare: str
    """Another token, for revoking."""
    expired: str
    api_key: str
    access_token: str
    refresh_token: str
    agent_name: str
    task_id: str


class Target:
    """The process. `seeds` hold for as long as it runs."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "blocks_network.cli.network", "dev", "--port", "0", "--json", "--log-level", "error"]
            + [f"--limit={name}={value}" for name, value in LIMITS.items()],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("BLOCKS_")},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.errors()
        said = json.loads(line)
        host, _, port = said["origin"].partition(":")
        self.address = (host, int(port))
        self.seeds = self._sow(said)

    def stop(self) -> int:
        """Its exit code, when asked to end."""
        self._process.terminate()
        code = self._process.wait(START_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
        return code

    def errors(self) -> str:
        """What it has written to standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def metrics(self) -> dict[str, float]:
        """Every series by its name and labels."""
        body = self._ask("GET", "/metrics").body.decode()
        pairs = (line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def resident_bytes(self) -> int:
        """Memory of the process; 0 where the system does not tell."""
        statm = Path(f"/proc/{self._process.pid}/statm")
        if not statm.exists():
            return 0
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _sow(self, said: dict[str, Any]) -> Seeds:
        keyset, playground = (
            Keyset(name, keys["publishKey"], keys["subscribeKey"], keys["secretKey"])
            for name, keys in ((name, said["keysets"][name]) for name in ("network", "playground"))
        )
        everything = {"": 239}
        tokens = CapabilityTokens()
        past = CapabilityTokens(clock=lambda: time.time() - 7_200)
        bearer = said["apiKey"]
        card = derive_card("fuzzed", None, None, None)
        name = str(card["identity"]["agentName"])
        self._call("/api/v1/registry/agents", bearer, {"card": card, "billingMode": "free", "listing": "public"})
        said_by_instance = {"agentName": name, "instanceId": "i1", "billingMode": "free"}
        tokens_of = self._call("/api/v1/auth/agent/connect", bearer, said_by_instance)
        consumer = self._call("/api/v1/auth/agent/consumer-token", bearer, {"apiKey": bearer})
        send = {"agentName": name, "billingMode": "free", "requestParts": [{"partId": "request", "text": "hello"}]}
        call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": send}
        sent = self._call("/api/v1/rpc", bearer, call)
        return Seeds(
            keyset,
            playground,
            tokens.mint(keyset, ttl_minutes=60, patterns=everything, group_patterns=everything),
            tokens.mint(keyset, ttl_minutes=59, patterns=everything),
            past.mint(keyset, ttl_minutes=1, patterns=everything),
            bearer,
            str(next((value for value in consumer.values() if isinstance(value, str) and value.startswith("ey")), "")),
            str(tokens_of.get("refreshToken", "")),
            name,
            str(sent["result"]["taskId"]),
        )

    def _call(self, path: str, bearer: str, body: Any) -> dict[str, Any]:
        answer = self._ask("POST", path, json.dumps(body), {"Authorization": f"Bearer {bearer}"})
        assert answer.status in (200, 201), (path, answer)
        return dict(json.loads(answer.body))

    def _ask(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=ANSWER_S)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            got = connection.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read(), 0.0)
        finally:
            connection.close()


@dataclass(slots=True)
class Wire:
    """One connection at a time, kept as long as the network keeps it. Counts what it has seen."""

    target: Target
    statuses: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    _socket: socket.socket | None = None

    def ask(self, data: bytes, method: str) -> None:
        """Sends a whole request, checks its answer, and that the connection serves another one."""
        answer = self.exchange(data, method)
        self._check(answer, data, method)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
            return
        told = self.exchange(b"GET /time/0 HTTP/1.1\r\nhost: t\r\n\r\n", "GET")
        if told.status != 200 or not told.body.startswith(b"[1"):
            raise WireFault(f"the connection is not usable any more: {told} after {data[:300]!r}")

    def tear(self, data: bytes) -> None:
        """Sends what is no request, or half of one, and goes. The network answers or closes, and serves others."""
        self.close()
        wire = self._connected()
        with contextlib.suppress(OSError):  # it may have closed already
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
        try:
            while wire.recv(65_536):
                continue
        except TimeoutError:
            raise WireFault(f"neither an answer nor an end within {ANSWER_S} s for {data[:300]!r}") from None
        except ConnectionError:  # cut: that is an end
            return
        finally:
            self.close()

    def exchange(self, data: bytes, method: str) -> Answer:
        wire = self._connected()
        began = time.perf_counter()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end: the answer is there
            wire.sendall(data)
        response = http.client.HTTPResponse(wire, method=method)
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            raise WireFault(f"no answer ({fault!r}) to {data[:2000]!r}") from fault
        finally:
            response.close()
        seconds = time.perf_counter() - began
        if seconds > self.slowest_s:
            self.slowest_s, self.slowest = seconds, data[:300]
        self.requests += 1
        self.statuses[response.status] += 1
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, seconds)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self.target.address, timeout=ANSWER_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _check(self, answer: Answer, data: bytes, method: str) -> None:
        """No fault of the network, and a body that its content type tells the truth about."""
        asked = data[:2000]
        if answer.status >= 500 and not (answer.status == 503 and "retry-after" in answer.headers):
            raise WireFault(f"{answer.status} {answer.body!r} to {asked!r}\n{self.target.errors()[-4000:]}")
        if not answer.body or method == "HEAD":
            return
        kind = answer.headers.get("content-type", "")
        if "json" in kind or "javascript" in kind:
            try:
                json.loads(answer.body)
            except ValueError as fault:
                raise WireFault(f"{fault}: {answer.body[:500]!r} to {asked!r}") from fault
        elif not kind:
            raise WireFault(f"a body without a content type: {answer} to {asked!r}")
