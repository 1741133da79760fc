"""A node in a program: it is there when `start` returns, gone when `stop` does, and says why it cannot start."""

from __future__ import annotations

import socket
import sqlite3
import threading
from pathlib import Path

import httpx
import pytest

from blocks_network.errors import ConfigurationError
from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.config import NodeConfig
from blocks_network.server.node import Node


def threads_of_ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("blocks-", "asyncio_"))}


def test_it_accepts_when_start_returns_and_is_gone_when_stop_returns() -> None:
    before = threads_of_ours()
    node = Node(NodeConfig()).start()
    assert httpx.get(f"{node.base_url}/healthz").text == "ok\n"
    assert node.stop()
    assert threads_of_ours() <= before  # those of earlier tests may end meanwhile
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port))
    assert node.stop()  # once more does nothing


def test_it_ends_with_its_block() -> None:
    with Node() as node:
        assert httpx.get(f"{node.base_url}/readyz").status_code == 200
    assert node.ended.is_set()
    assert node.fault is None


def test_two_nodes_live_beside_each_other() -> None:
    with Node() as one, Node() as other:
        assert one.port != other.port
        assert one.api_key != other.api_key
        for node in (one, other):
            assert httpx.get(node.cdm_url).json()["transport"]["origin"] == node.origin


def test_a_port_can_be_used_again_at_once() -> None:
    with Node() as first, httpx.Client() as client:
        client.get(f"{first.base_url}/healthz")
    with Node(NodeConfig(port=first.port)) as second:
        assert httpx.get(f"{second.base_url}/healthz").status_code == 200


def test_a_node_runs_once() -> None:
    with Node() as node, pytest.raises(RuntimeError, match="runs once"):
        node.start()


def test_a_port_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    before = threads_of_ours()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use"):
            Node(NodeConfig(port=port, data_dir=tmp_path)).start()
    assert threads_of_ours() == before
    with Node(NodeConfig(data_dir=tmp_path)):  # the directory's lock was given back
        pass


def test_a_second_node_on_a_directory_is_refused_until_the_first_has_stopped(tmp_path: Path) -> None:
    with Node(NodeConfig(data_dir=tmp_path)) as first:
        with pytest.raises(ConfigurationError, match="in use by another node"):
            Node(NodeConfig(data_dir=tmp_path)).start()
        keys = [keyset.subscribe_key for keyset in first.keysets]
    with Node(NodeConfig(data_dir=tmp_path)) as second:
        assert [keyset.subscribe_key for keyset in second.keysets] == keys
        assert second.api_key == first.api_key


def test_a_damaged_database_is_said_and_everything_closed(tmp_path: Path) -> None:
    before = threads_of_ours()
    (tmp_path / "network.db").write_bytes(b"this is no database, but it is long enough to be looked at as one" * 20)
    node = Node(NodeConfig(data_dir=tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be opened") as caught:
        node.start()
    assert "--data" in str(caught.value)
    assert threads_of_ours() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port))


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with Node(NodeConfig(data_dir=tmp_path)):
        pass
    with sqlite3.connect(tmp_path / "network.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(ConfigurationError, match="9999"):
        Node(NodeConfig(data_dir=tmp_path)).start()


def test_its_addresses_are_those_of_the_proxy_before_it() -> None:
    with Node(NodeConfig(public_base="https://blocks.example")) as node:
        assert (node.base_url, node.origin, node.ssl) == ("https://blocks.example", "blocks.example", True)
        document = httpx.get(f"http://127.0.0.1:{node.port}/config.json").json()
        assert document["api"]["baseUrl"] == "https://blocks.example"
        assert document["transport"] == {"origin": "blocks.example", "ssl": True}


def test_its_address_can_be_used_when_it_listens_everywhere() -> None:
    with Node(NodeConfig(host="0.0.0.0")) as node:
        assert httpx.get(node.cdm_url).status_code == 200


def test_what_it_did_is_counted() -> None:
    with Node() as node:
        httpx.get(f"{node.base_url}/time/0")
        httpx.get(f"{node.base_url}/v2/subscribe/sub-c-unknown/a/0")
        shown = httpx.get(f"{node.base_url}/metrics")
    assert shown.headers["content-type"].startswith("text/plain")
    lines = shown.text.splitlines()
    assert any(line.startswith('blocks_requests_total{door="gateway"') and line.endswith(" 1.0") for line in lines)
    assert any(line.startswith('blocks_refusals_total{door="gateway"') for line in lines)


def test_nobody_waits_for_a_node_that_stops() -> None:
    """A poll without news is answered at the end, and its connection is closed."""
    with Node() as node:
        keyset = node.keysets.by_name("network")
        token = CapabilityTokens().mint(keyset, ttl_minutes=5, channels={"room": Bits.READ})
        path = f"/v2/subscribe/{keyset.subscribe_key}/room/0"
        asked = {"uuid": "me", "auth": token}
        cursor = httpx.get(f"{node.base_url}{path}", params={**asked, "tt": "0"}).json()["t"]["t"]
        poll = httpx.Request("GET", f"{node.base_url}{path}", params={**asked, "tt": cursor, "tr": "1"})
        connection = socket.create_connection(("127.0.0.1", node.port))
        connection.sendall(b"GET " + poll.url.raw_path + b" HTTP/1.1\r\nhost: t\r\n\r\n")
        httpx.get(f"{node.base_url}/healthz")  # a later request is answered, so the poll has been read
    with connection, connection.makefile("rb") as answer:
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        assert answer.read().endswith(b'"m":[]}')
