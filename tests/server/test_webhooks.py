"""Webhooks end to end: a task on a real network, its receiver a real HTTP server on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from blocks_network.consumer.parts import text_part
from blocks_network.errors import RpcError
from blocks_network.server.config import NodeConfig
from blocks_network.server.limits import Limits
from blocks_network.server.node import Node
from blocks_network.testing.network import Network

DEADLINE_S = 20
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
QUICK = Limits(webhook_retry_first_s=0.05, webhook_retry_cap_s=0.2, webhook_timeout_s=1.0)


class Receiver:
    """Keeps what is posted to it; answers with the statuses given, in turn, then with 200."""

    def __init__(self, *answers: int | str, port: int = 0) -> None:
        self.posts: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self._answers, self.release = list(answers), threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = receiver._answers.pop(0) if receiver._answers else 200
                if answer == "hang":
                    receiver.posts.put(({k.lower(): v for k, v in self.headers.items()}, body))
                    receiver.release.wait(DEADLINE_S)
                    self.close_connection = True
                    return
                self.send_response(int(answer))
                if 300 <= int(answer) < 400:
                    self.send_header("location", f"{receiver.url}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()
                receiver.posts.put(({k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?token=t"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        headers, body = self.posts.get(timeout=DEADLINE_S)
        check_signature(headers, body)
        return headers, json.loads(body)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def check_signature(headers: Mapping[str, str], body: bytes, secret: str = SECRET) -> None:
    """As a receiver does by the Standard Webhooks specification, written from its text."""
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


@contextmanager
def receiving(*answers: int | str, port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(*answers, port=port)
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture(scope="module")
def open_node() -> Iterator[Node]:
    with Node(NodeConfig(allow_private_webhooks=True, limits=QUICK)) as node:
        yield node


@pytest.fixture
def network(open_node: Node) -> Iterator[Network]:
    with Network(open_node) as network:
        yield network


def send(network: Network, agent: str, config: Mapping[str, Any]) -> Any:
    return network.client().send_message(
        agent_name=agent, request_parts=[text_part("hi")], push_notification_config=config
    )


def deliveries(network: Network, **query: str) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{network.base_url}/api/v1/webhooks/deliveries",
        params=query,
        headers={"Authorization": f"Bearer {network.api_key}"},
    )
    assert answer.status_code == 200, answer.text
    return list(answer.json()["deliveries"])


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """The outcome of an attempt is written after its answer, which nobody outside can await."""
    deadline = time.monotonic() + DEADLINE_S
    while not wanted(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_the_end_of_a_task_is_posted_signed(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked")
    with receiving() as receiver:
        session = send(network, "hooked", {"url": receiver.url, "secret": SECRET})
        headers, told = receiver.next()
        assert session.push_config_id == told["data"]["pushConfigId"]
        assert told["type"] == "task.completed"
        assert told["data"]["taskId"] == session.task_id
        assert told["data"]["state"] == "completed"
        assert told["timestamp"].endswith("Z")
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
        assert headers["content-type"] == "application/json"
        (logged,) = eventually(
            lambda: deliveries(network, taskId=session.task_id), lambda found: found[0]["state"] == "delivered"
        )
    assert logged["webhookId"] == headers["webhook-id"]
    assert [attempt["status"] for attempt in logged["attempts"]] == [200]
    assert SECRET not in json.dumps(logged)


def test_each_event_that_was_asked_for_is_posted_once(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_all")
    with receiving() as receiver:
        events = ["task.running", "task.artifact", "task.completed"]
        session = send(network, "hooked_all", {"url": receiver.url, "secret": SECRET, "events": events})
        told = [receiver.next() for _ in events]
        assert sorted(body["type"] for _, body in told) == sorted(events)
        assert len({headers["webhook-id"] for headers, _ in told}) == 3
        artifact = next(body for _, body in told if body["type"] == "task.artifact")["data"]["artifact"]
        assert base64.b64decode(artifact["artifactRef"]["data"]) == b"done"
        assert len(deliveries(network, taskId=session.task_id)) == 3
        assert receiver.posts.empty()


def test_a_failed_task_is_told_with_its_error(network: Network) -> None:
    def torn(task: object) -> None:
        raise ValueError("page 3 is torn")

    network.agent(torn, name="hooked_torn")
    with receiving() as receiver:
        send(network, "hooked_torn", {"url": receiver.url, "secret": SECRET})
        _, told = receiver.next()
    assert (told["type"], told["data"]["error"]) == ("task.failed", "page 3 is torn")


def test_a_receiver_that_fails_is_called_again_under_the_same_id(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_again")
    with receiving(500, 302, "hang", 429) as receiver:
        session = send(network, "hooked_again", {"url": receiver.url, "secret": SECRET})
        calls = [receiver.next() for _ in range(5)]
        assert len({headers["webhook-id"] for headers, _ in calls}) == 1
        (logged,) = eventually(
            lambda: deliveries(network, taskId=session.task_id), lambda found: found[0]["state"] == "delivered"
        )
    attempts = logged["attempts"]
    assert [attempt.get("status") for attempt in attempts] == [500, 302, None, 429, 200]
    assert attempts[1]["error"] == "the receiver redirects; redirects are not followed"
    assert attempts[2]["error"] == "no answer within 1 s"


def test_a_receiver_that_is_gone_is_not_called_again(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_gone")
    with receiving(410) as receiver:
        session = send(network, "hooked_gone", {"url": receiver.url, "secret": SECRET})
        receiver.next()
        eventually(lambda: deliveries(network, taskId=session.task_id), lambda found: found[0]["state"] == "failed")
        assert receiver.posts.empty()


def test_without_a_secret_the_network_makes_one_and_tells_it(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_plain")
    with receiving() as receiver:
        called = httpx.post(
            f"{network.base_url}/api/v1/rpc",
            headers={"Authorization": f"Bearer {network.api_key}"},
            json={
                "jsonrpc": "2.0",
                "id": 1,
                "method": "SendMessage",
                "params": {
                    "agentName": "hooked_plain",
                    "billingMode": "free",
                    "requestParts": [{"text": "hi"}],
                    "pushNotificationConfig": {"url": receiver.url},
                },
            },
        ).json()["result"]
        headers, body = receiver.posts.get(timeout=DEADLINE_S)
        check_signature(headers, body, called["extensions"]["blocks"]["pushSecret"])
    assert called["pushConfigId"] == json.loads(body)["data"]["pushConfigId"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("http://a.example", "not an object"),
        ({}, "pushNotificationConfig.url is missing"),
        ({"url": "ftp://a.example/"}, "not an http or https address"),
        ({"url": "http://"}, "not an http or https address"),
        ({"url": "http://a.example:99999/"}, "not an address"),
        ({"url": "http://me:word@a.example/"}, "a user name or a password"),
        ({"url": "http://a.example/\r\nX-Evil: 1"}, "characters that an address does not have"),
        ({"url": "http://a.example/" + "x" * 3000}, "at most 2048"),
        ({"url": "http://a.example/", "secret": "my word"}, "secret must be whsec_"),
        ({"url": "http://a.example/", "secret": "whsec_c2hvcnQ="}, "secret must be whsec_"),
        ({"url": "http://a.example/", "events": []}, "events is not a list of some of"),
        ({"url": "http://a.example/", "events": ["task.dreamt"]}, "events is not a list of some of"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(network: Network, config: Any, says: str) -> None:
    network.agent(lambda task: "done", name="hooked_never")
    answer = httpx.post(
        f"{network.base_url}/api/v1/rpc",
        headers={"Authorization": f"Bearer {network.api_key}"},
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "SendMessage",
            "params": {"agentName": "hooked_never", "billingMode": "free", "pushNotificationConfig": config or None}
            if config == {}
            else {"agentName": "hooked_never", "billingMode": "free", "pushNotificationConfig": config},
        },
    ).json()
    if config == {}:
        assert "pushConfigId" not in answer["result"]  # empty is none
        return
    assert answer["error"]["data"]["code"] == "InvalidParams"
    assert says in answer["error"]["data"]["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_an_address_that_is_not_public_is_refused_at_once(blocks: Network, host: str) -> None:
    blocks.agent(lambda task: "done", name="hooked_inside")
    with pytest.raises(RpcError, match="not on the public internet"):
        send(blocks, "hooked_inside", {"url": f"http://{host}:8080/", "secret": SECRET})


def test_a_number_for_a_host_is_found_out_when_it_is_looked_up(blocks: Network) -> None:
    """2130706433 is 127.0.0.1 to every resolver, and a name to everybody else."""
    blocks.agent(lambda task: "done", name="hooked_number")
    with receiving() as receiver:
        session = send(blocks, "hooked_number", {"url": f"http://2130706433:{receiver.port}/", "secret": SECRET})
        (logged,) = eventually(
            lambda: deliveries(blocks, taskId=session.task_id), lambda found: found and found[0]["state"] == "failed"
        )
        assert receiver.posts.empty()
    assert "not on the public internet" in logged["attempts"][0]["error"]


def test_another_tenant_sees_no_delivery(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_mine")
    with receiving() as receiver:
        session = send(network, "hooked_mine", {"url": receiver.url, "secret": SECRET})
        receiver.next()
    made = httpx.post(
        f"{network.base_url}/api/v1/keys",
        json={"orgId": "org_other"},
        headers={"Authorization": f"Bearer {network.api_key}"},
    )
    theirs = {"Authorization": f"Bearer {made.json()['apiKey']}"}
    address = f"{network.base_url}/api/v1/webhooks/deliveries"
    assert httpx.get(address, headers=theirs).json() == {"deliveries": []}
    assert httpx.get(address, params={"taskId": session.task_id}, headers=theirs).status_code == 404
    assert httpx.get(address).status_code == 401


def test_the_log_is_read_in_pages(network: Network) -> None:
    network.agent(lambda task: "done", name="hooked_paged")
    with receiving() as receiver:
        for _ in range(3):
            send(network, "hooked_paged", {"url": receiver.url, "secret": SECRET})
        for _ in range(3):
            receiver.next()
    headers = {"Authorization": f"Bearer {network.api_key}"}
    address, seen, cursor = f"{network.base_url}/api/v1/webhooks/deliveries", [], ""
    while True:
        page = httpx.get(address, params={"limit": "2", "cursor": cursor}, headers=headers).json()
        seen += [found["webhookId"] for found in page["deliveries"]]
        cursor = page.get("next", "")
        if not cursor:
            break
    assert seen == [found["webhookId"] for found in deliveries(network, limit="100")]
    assert len(set(seen)) == len(seen) >= 3


def test_what_could_not_be_delivered_is_delivered_after_a_restart(tmp_path: Path) -> None:
    with receiving() as taken:
        port = taken.port  # free again after this: nobody answers there
    config = NodeConfig(data_dir=tmp_path, allow_private_webhooks=True, limits=QUICK)
    with Node(config) as node, Network(node) as network:
        network.agent(lambda task: "done", name="hooked_later")
        session = send(network, "hooked_later", {"url": f"http://127.0.0.1:{port}/", "secret": SECRET})
        session.wait_for_terminal(DEADLINE_S)
        eventually(lambda: deliveries(network, taskId=session.task_id), lambda found: found and found[0]["attempts"])
        (before,) = deliveries(network, taskId=session.task_id)
    assert before["state"] == "pending"
    assert before["attempts"][0]["error"].startswith("not reached")
    with Node(config), receiving(port=port) as receiver:
        headers, told = receiver.next()
    assert headers["webhook-id"] == before["webhookId"]
    assert told["data"]["taskId"] == session.task_id
