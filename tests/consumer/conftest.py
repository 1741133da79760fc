"""A platform whose answers a test writes itself: a real HTTP server on a port of its own."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from published_tasks import GatewayNode, World

from blocks_network.transport.http import POOL


@dataclass
class Call:
    """One request that arrived."""

    path: str
    headers: Message
    body: Any


@dataclass
class Platform:
    """`answers[path]` are given in turn, the last one for ever: (status, body) or (status, body, headers), or a
    function of the call that returns one."""

    url: str
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))

    def answer(self, path: str, *answers: Any) -> None:
        self.answers[path] = deque(answers)

    def to(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path.partition("?")[0] == path]

    def document(self, **changes: Any) -> str:
        """Serves a configuration document; returns its address."""
        host = self.url.removeprefix("http://")
        document: dict[str, Any] = {
            "playground": {"publishKey": "pub-free", "subscribeKey": "sub-free"},
            "network": {"publishKey": "pub-paid", "subscribeKey": "sub-paid"},
            "api": {"baseUrl": self.url},
            "transport": {"origin": host, "ssl": False},
            **changes,
        }
        self.answer("/config.json", (200, document))
        return f"{self.url}/config.json"


def rpc(result: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The answer of a JSON-RPC call that went well."""
    return 200, {"jsonrpc": "2.0", "id": "1", "result": result}


@pytest.fixture
def platform() -> Iterator[Platform]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = Call(self.path, self.headers, json.loads(raw) if raw else None)
            with lock:
                known.calls.append(call)
                waiting = known.answers[self.path.partition("?")[0]]
                given = waiting.popleft() if len(waiting) > 1 else waiting[0] if waiting else (404, {"error": "none"})
            given = given(call) if isinstance(given, Callable) else given  # type: ignore[arg-type]
            status, body, headers = (*given, {})[:3]
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tests have their own words."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # fifty threads connect at once

    server = Server(("127.0.0.1", 0), Handler)
    known = Platform(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield known
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No variable of the machine's, and no .env above the working directory, decides a test."""
    for name in ("API_KEY", "CDM_URL", "BACKEND_URL", "SUBSCRIBE_KEY", "PUBLISH_KEY"):
        monkeypatch.delenv(f"BLOCKS_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayNode]:
    """Keeps what earlier tests published: each task of a test has a number of its own."""
    node = GatewayNode().start()
    yield node
    POOL.close_idle()
    node.stop()


@pytest.fixture
def world(platform: Platform, gateway: GatewayNode) -> Iterator[World]:
    made = World(platform, gateway)
    yield made
    for session in made.sessions:
        session.close()
    made.client.destroy()
