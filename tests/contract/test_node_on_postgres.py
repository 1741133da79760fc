"""A whole network whose agents, keys and tasks live in PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from postgres_server import PostgresServer

from blocks_network import StartTaskMessage, text_part
from blocks_network.errors import ConfigurationError
from blocks_network.handlers.echo import echo_handler
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node
from blocks_network.testing.network import Network

NUL = "\x00"
AGENTS, RPC = "/api/v1/registry/agents", "/api/v1/rpc"


@pytest.fixture
def config(postgres: PostgresServer, tmp_path: Path) -> NodeConfig:
    return NodeConfig(data_dir=tmp_path / "data", database=postgres.new_database())


@pytest.fixture
def node(config: NodeConfig) -> Iterator[Node]:
    with Node(config) as node:
        yield node


def ask(node: Node, method: str, path: str, body: Any = None, **query: str) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {node.api_key}"}
    return httpx.request(method, f"{node.base_url}{path}", json=body, params=query, headers=bearer, timeout=20)


def call(node: Node, method: str, **params: Any) -> dict[str, Any]:
    answer = ask(node, "POST", RPC, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def test_tasks_are_done_and_are_there_after_a_restart(config: NodeConfig, postgres: PostgresServer) -> None:
    with Node(config) as first, Network(first) as network:
        agent = network.agent(echo_handler, name="echo")
        results = list(network.client().map("echo", [f"Grüße {number} 🧱" for number in range(20)], timeout=30))
        assert [result.text for result in results] == [f"Echoed request: Grüße {number} 🧱" for number in range(20)]  # type: ignore[union-attr]
        agent.stop()  # so that the next task waits, and is neither done nor begun
        waiting = call(first, "SendMessage", agentName="echo", billingMode="free")["result"]["taskId"]
    assert config.data_dir is not None
    assert not (config.data_dir / "network.db").exists()
    with Node(config) as second, Network(second) as network:
        assert second.api_key == first.api_key
        done = call(second, "ListTasks", state="completed")["result"]
        assert done["totalCount"] >= 20
        network.agent(echo_handler, name="echo")
        assert network.client().connect(waiting).wait_for_terminal(timeout=30).state == "completed"


def test_equal_calls_at_once_make_one_task(node: Node) -> None:
    with Network(node) as network:
        network.agent(echo_handler, name="echo")
        params = {"agentName": "echo", "billingMode": "free", "idempotencyKey": "k" * 255}
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: call(node, "SendMessage", **params)["result"]["taskId"], range(50)))
        assert len(set(answers)) == 1
        assert call(node, "ListTasks")["result"]["totalCount"] == 1


def test_texts_that_no_database_holds_hurt_nobody(node: Node) -> None:
    def torn(task: StartTaskMessage) -> None:
        raise ValueError(f"page{NUL}3 " + "is torn " * 1_000)

    with Network(node) as network:
        network.agent(torn, name="torn")
        session = network.client().send_message(agent_name="torn", request_parts=[text_part(f"a{NUL}b")])
        assert session.wait_for_terminal(timeout=20).state == "failed"
        kept = call(node, "GetTask", taskId=session.task_id)["result"]["task"]
        assert kept["state"] == "failed"
        listed = call(node, "ListTasks", state="failed")["result"]["tasks"]
        assert [task["taskId"] for task in listed] == [session.task_id]


CARD = {"identity": {"agentName": "odd", "displayName": f"a{NUL}b"}, "runtime": {"handler": "x.py"}}
ODD_TAGS = [{"id": f"a{NUL}b", "name": "n" * 200}, {"id": "x", "name": f"{NUL}", "description": NUL}]


@pytest.mark.parametrize(
    ("method", "path", "body", "query"),
    [
        ("GET", AGENTS, None, {"agentName": NUL}),
        ("GET", AGENTS, None, {"agentName": "\ufffd" * 2_000}),
        ("GET", AGENTS, None, {"tag": f"a{NUL}"}),
        ("GET", AGENTS, None, {"cursor": "YWZ0ZXI6AA"}),
        ("DELETE", AGENTS, None, {"agentName": f"a{NUL}"}),
        ("POST", AGENTS, {"card": CARD, "billingMode": "free"}, {}),
        ("POST", AGENTS, {"card": {**CARD, "tags": ODD_TAGS}, "billingMode": "free"}, {}),
        ("GET", "/api/v1/webhooks/deliveries", None, {"taskId": NUL}),
        ("GET", "/api/v1/webhooks/deliveries", None, {"cursor": "YmVmb3JlOjE6AA"}),
        ("GET", "/api/v1/webhooks/deliveries", None, {"cursor": "YmVmb3JlOi05OTk5OTk5OTk5OTk5OTk5OTk5OTk6YQ"}),
        ("DELETE", "/api/v1/keys/%00", None, {}),
        ("POST", "/api/v1/keys", {"label": "l" * 255}, {}),
        ("POST", "/api/v1/keys", {"label": "ü" * 127, "orgId": "o" * 64, "userId": "u" * 64}, {}),
        ("POST", "/api/v1/keys", {"label": f"a{NUL}"}, {}),
        ("POST", "/api/v1/auth/task-read-token", {"taskId": f"a{NUL}"}, {}),
        ("POST", "/api/v1/auth/anon-task-read-token", {"taskId": f"a{NUL}", "fingerprint": "f" * 32}, {}),
        ("POST", RPC, {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"taskId": f"a{NUL}"}}, {}),
        ("POST", RPC, {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"taskId": "x" * 60_000}}, {}),
        ("POST", RPC, {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"ownerId": "x" * 60_000}}, {}),
        ("POST", RPC, {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"cursor": "YmVmb3JlOgA"}}, {}),
    ],
)
def test_odd_requests_are_answered_and_are_no_fault_of_the_database(
    shared: Node, method: str, path: str, body: Any, query: dict[str, str]
) -> None:
    assert ask(shared, method, path, body, **query).status_code < 500
    assert ask(shared, "GET", AGENTS).status_code == 200


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data = tmp_path_factory.mktemp("shared")
    with Node(NodeConfig(data_dir=data, database=postgres.new_database())) as node:
        yield node


def test_a_database_is_one_nodes_alone(node: Node, config: NodeConfig, tmp_path: Path) -> None:
    second = NodeConfig(data_dir=tmp_path / "another", database=config.database)
    with pytest.raises(ConfigurationError, match="another node"):
        Node(second).start()
    node.stop()
    with Node(second) as follower:
        assert ask(follower, "GET", AGENTS).status_code == 200


def test_a_node_whose_database_is_away_says_so_and_goes_on_with_it(node: Node, postgres: PostgresServer) -> None:
    message = {"agentName": "echo", "billingMode": "free", "requestParts": [{"partId": "text", "text": "away"}]}
    send = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message}
    with Network(node) as network:
        network.agent(echo_handler, name="echo")
        with network.client() as client:
            assert client.run("echo", "before", timeout=20).text == "Echoed request: before"
            postgres.halt()
            try:
                for method, path, body in (("GET", AGENTS, None), ("POST", RPC, send)):
                    answer = ask(node, method, path, body)
                    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                    assert "PostgreSQL" not in answer.text
            finally:
                postgres.resume()
            assert client.run("echo", "after", timeout=20).text == "Echoed request: after"


# --- what goes wrong, and keeps its secrets ---


@pytest.mark.parametrize(
    ("database", "data", "says"),
    [
        ("mysql://u:hunter2@h/d", True, "postgresql://USER@HOST/NAME"),
        ("hunter2", True, "postgresql://USER@HOST/NAME"),
        ("postgresql://u:hunter2@h:x/d", True, "postgresql://"),
        ("postgresql://u:hunter2@h/d", False, "--data"),
        ("postgresql://u:hunter2@127.0.0.1:1/d", True, "cannot be opened"),
        ("postgresql://u:hunter2@/d?host=/nowhere&password=hunter2", True, "cannot be opened"),
        ("postgresql://u:hunter2@/d?host=/nowhere&hunter=hunter3", True, "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    tmp_path: Path, database: str, data: bool, says: str
) -> None:
    done = dev(*(["--data", str(tmp_path / "data")] if data else []), "--database", database)
    assert done.returncode in (2, 3)
    assert says in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_the_command_runs_on_it(postgres: PostgresServer, tmp_path: Path) -> None:
    """The node's own user may be refused, and says so in the database's words."""
    url = postgres.new_database().replace("postgresql://blocks@", f"postgres://nobody%40home:{quote('hunter2')}@")
    done = dev("--data", str(tmp_path / "data"), "--database", url)
    assert done.returncode in (2, 3)
    assert 'role "nobody@home" does not exist' in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_the_command_is_ready_when_the_database_is(config: NodeConfig) -> None:
    command = [sys.executable, "-m", "blocks_network.cli.network", "dev", "--port", "0", "--json"]
    place = ["--data", str(config.data_dir), "--database", str(config.database)]
    with subprocess.Popen([*command, *place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = json.loads(process.stdout.readline())
            assert httpx.get(f"{said['baseUrl']}/readyz", timeout=10).status_code == 200
        finally:
            process.terminate()
        errors = process.stderr.read()
    assert (process.returncode, "Traceback" in errors) == (0, False), errors


def dev(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BLOCKS_", "PG"))}
    command = [sys.executable, "-m", "blocks_network.cli.network", "dev", "--port", "0", "--log-level", "debug"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, env=environment)
