"""A disk without room: the network refuses in its own words, loses nothing that it took, and goes on when there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from audit import Audit, read_channels
from disks import FileSizeLimit, Room, SmallDisk
from makers import AgentMaker, ClientMaker, NetworkMaker
from processes import DEADLINE_S, NetworkProcess
from pubnub.exceptions import PubNubException
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub

from blocks_network.agent.loading import derive_card
from blocks_network.api.caller import Answer, Caller
from blocks_network.api.registry import register_agent
from blocks_network.auth.consumer import ConsumerAuth
from blocks_network.consumer.parts import text_part
from blocks_network.errors import ApiError

LONG, SHORT = 400, 3
"""Numbers of a task that is under way when the room goes, and of one that is sent without room."""
TRIES = 3_000


@pytest.fixture(params=["disk", "file size"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    if request.param == "file size":
        place: Room = FileSizeLimit(tmp_path / "place")
    else:
        try:
            place = SmallDisk(tmp_path / "place")
        except PermissionError as fault:
            pytest.skip(f"{fault}; the other form of this test needs no rights")
    yield place
    place.close()


class Impatient:
    """Calls once and takes the answer as it is."""

    def __init__(self, network: NetworkProcess) -> None:
        auth = ConsumerAuth(api_key=network.api_key, base_url=network.base_url)
        auth.init()
        self._caller, self._auth = Caller(network.base_url, auth), auth

    def send(self, total: int) -> Answer:
        params = {"agentName": "counter", "requestParts": [{"text": str(total)}], "billingMode": "free"}
        body = {"jsonrpc": "2.0", "id": "1", "method": "SendMessage", "params": params}
        return self._caller.call("POST", "/api/v1/rpc", body)

    def close(self) -> None:
        self._auth.destroy()


def fill_until_refused(room: Room, network: NetworkProcess, calls: Impatient) -> tuple[list[str], Answer]:
    """The tasks that were taken with what was left of the room, and the first refusal."""
    room.take(network.process.pid)
    taken: list[str] = []
    for _ in range(TRIES):
        answer = calls.send(SHORT)
        if answer.status != 200:
            return taken, answer
        taken.append(answer.body["result"]["taskId"])
    raise AssertionError(f"{TRIES} tasks were stored without room")


def publisher(network: NetworkProcess) -> PubNub:
    keys = network.said["keysets"]["playground"]
    config = PNConfiguration()
    config.publish_key, config.subscribe_key, config.secret_key = (
        keys["publishKey"],
        keys["subscribeKey"],
        keys["secretKey"],
    )
    config.uuid, config.origin, config.ssl = "anybody", network.said["origin"], False
    return PubNub(config)


def refusals_of(network: NetworkProcess) -> dict[str, int]:
    """What other writers are told meanwhile: HTTP statuses."""
    statuses: dict[str, int] = {}
    anybody = publisher(network)
    try:
        for _ in range(TRIES):  # the log may have some room of its own left
            anybody.publish().channel("anything").message("x" * 20_000).use_post(True).sync()
    except PubNubException as refused:
        statuses["publish"] = refused.get_status_code()
    try:
        register_agent(network.base_url, network.api_key, derive_card("newcomer", None, None, None))
    except ApiError as refused_too:
        statuses["registration"] = refused_too.status
    statuses["health"] = httpx.get(f"{network.base_url}/healthz").status_code
    return statuses


@pytest.mark.timeout(120)
def test_it_refuses_without_room_and_goes_on_with_it(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker, room: Room
) -> None:
    running = network(data=room.data)
    agents(running, "counter=counting")
    sender, calls = client(running), Impatient(running)
    before = [
        sender.send_message(agent_name="counter", request_parts=[text_part(str(total))])
        for total in (SHORT, SHORT, LONG, LONG, LONG, LONG)
    ]

    taken, refusal = fill_until_refused(room, running, calls)
    assert refusal.status == 503
    assert refusal.body["error"]["data"]["code"] == "StoreUnavailable"
    assert refusal.retry_after_s == 1
    assert refusals_of(running) == {"publish": 503, "registration": 503, "health": 200}
    assert sender.get_task(before[0].task_id).task_id == before[0].task_id, "what is there can be read"
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(sender.run, "counter", str(SHORT), timeout=DEADLINE_S)
        further = [calls.send(SHORT) for _ in range(20)]
        room.give(running.process.pid)
        assert patient.result().event.state == "completed"

    assert {answer.status for answer in further} <= {200, 503}
    taken += [answer.body["result"]["taskId"] for answer in further if answer.status == 200]
    sessions = [*before, *(sender.connect(task_id) for task_id in taken)]
    assert {session.wait_for_terminal(DEADLINE_S).state for session in sessions} == {"completed"}
    assert calls.send(SHORT).status == 200
    assert running.process.errors.count("Traceback") == 0, running.process.errors
    calls.close()
    assert running.end() == 0
    acknowledged: dict[str, Any] = dict.fromkeys(taken, SHORT)
    acknowledged |= {session.task_id: total for session, total in zip(before, (SHORT, SHORT, *[LONG] * 4), strict=True)}
    audit = Audit.of(read_channels(running.data), acknowledged)
    print(f"taken without room: {len(taken)}; {audit}")
    assert audit.clean, audit


@pytest.mark.timeout(60)
def test_what_was_taken_survives_a_kill_without_room(
    network: NetworkMaker, agents: AgentMaker, client: ClientMaker, room: Room
) -> None:
    """The room goes, the network dies, and there is room again when it comes back."""
    running = network(data=room.data)
    agents(running, "counter=counting")
    sender, calls = client(running), Impatient(running)
    before = [sender.send_message(agent_name="counter", request_parts=[text_part(str(LONG))]) for _ in range(4)]
    taken, refusal = fill_until_refused(room, running, calls)
    assert refusal.status == 503

    running.kill()
    room.give(running.process.pid)
    running.start()

    sessions = [*before, *(sender.connect(task_id) for task_id in taken)]
    assert {session.wait_for_terminal(DEADLINE_S).state for session in sessions} == {"completed"}
    calls.close()
    assert running.end() == 0
    acknowledged = dict.fromkeys(taken, SHORT) | {session.task_id: LONG for session in before}
    audit = Audit.of(read_channels(running.data), acknowledged)
    assert audit.clean, audit


@pytest.mark.timeout(60)
@pytest.mark.parametrize("free_bytes", [0, 20_000, 120_000])
def test_a_start_without_room_says_so(tmp_path: Path, free_bytes: int) -> None:
    """However far it gets: one line that names the cause, and what to do."""
    try:
        disk = SmallDisk(tmp_path / "place", size_bytes=256 * 1024)
    except PermissionError as fault:
        pytest.skip(str(fault))
    try:
        disk.take(0, leave_bytes=free_bytes)
        command = [sys.executable, "-m", "blocks_network.cli.network", "dev", "--port", "0", "--data", str(disk.data)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    finally:
        disk.close()
    assert ended.returncode == 2, ended.stderr
    assert "make room on its disk" in ended.stderr
    assert "Traceback" not in ended.stderr
