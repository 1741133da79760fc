"""`blocks-network dev` as a user and as a program see it: a process, its output, its signals and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

DEADLINE_S = 30


class Command:
    """A running `blocks-network`. Its standard error is read on a thread of its own, so that it never blocks."""

    def __init__(self, *arguments: str, before: Callable[[], None] | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blocks_network.cli.network", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=before,
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, name="stderr-of-the-command", daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def line(self) -> str:
        """The next line of standard output; the command must not have ended."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, self.errors()
        return text

    def errors(self) -> str:
        """Standard error, when the command has ended."""
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return "".join(self._errors)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Commands:
    def __init__(self) -> None:
        self._started: list[Command] = []

    def __call__(self, *arguments: str, before: Callable[[], None] | None = None) -> Command:
        self._started.append(Command(*arguments, before=before))
        return self._started[-1]

    def ready(self, *arguments: str, before: Callable[[], None] | None = None) -> tuple[Command, dict[str, Any]]:
        """A network on a free port, and what its first line says. `before` runs in its process, at first."""
        command = self("dev", "--port", "0", "--json", *arguments, before=before)
        return command, json.loads(command.line())

    def close(self) -> None:
        for command in self._started:
            command.close()


@pytest.fixture
def blocks_network() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blocks_network.cli.network", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def test_the_first_line_is_all_that_a_program_needs_and_is_true(blocks_network: Commands) -> None:
    command, said = blocks_network.ready()
    assert set(said) == {"cdmUrl", "baseUrl", "origin", "apiKey", "keysets"}
    assert said["baseUrl"] == f"http://{said['origin']}"
    assert said["apiKey"].startswith("bk_")

    document = httpx.get(said["cdmUrl"]).json()  # it accepts: no waiting, no second try
    assert document["api"]["baseUrl"] == said["baseUrl"]
    assert document["transport"] == {"origin": said["origin"], "ssl": False}
    for name in ("playground", "network"):
        assert set(said["keysets"][name]) == {"publishKey", "subscribeKey", "secretKey"}
        assert document[name]["subscribeKey"] == said["keysets"][name]["subscribeKey"]
        assert document[name]["publishKey"] == said["keysets"][name]["publishKey"]
        assert "secretKey" not in document[name]
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(blocks_network: Commands, number: signal.Signals) -> None:
    command, said = blocks_network.ready()
    assert command.end(number) == 0
    assert command.errors() == ""
    host, _, port = said["origin"].rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_a_signal_answers_waiting_polls(blocks_network: Commands) -> None:
    command, said = blocks_network.ready()
    keys = said["keysets"]["network"]
    answers: list[httpx.Response] = []

    def poll() -> None:
        address = f"{said['baseUrl']}/time/0"
        with httpx.Client() as client:
            answers.append(client.get(address))
            token = _grant_reading(client, said["baseUrl"], keys, "room")
            address = f"{said['baseUrl']}/v2/subscribe/{keys['subscribeKey']}/room/0"
            asked = {"uuid": "me", "auth": token}
            cursor = client.get(address, params={**asked, "tt": "0"}).json()["t"]
            asking.set()
            answers.append(
                client.get(address, params={**asked, "tt": cursor["t"], "tr": cursor["r"]}, timeout=DEADLINE_S)
            )

    asking = threading.Event()
    reader = threading.Thread(target=poll, name="a-waiting-poll", daemon=True)
    reader.start()
    assert asking.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while "blocks_waiting_polls 1.0" not in httpx.get(f"{said['baseUrl']}/metrics").text:
        assert time.monotonic() < deadline
    assert command.end(signal.SIGTERM) == 0
    reader.join(DEADLINE_S)
    assert [answer.status_code for answer in answers] == [200, 200]


def _grant_reading(client: httpx.Client, base_url: str, keys: dict[str, str], channel: str) -> str:
    """A token for one channel, by a signed request as PubNub's server libraries make it."""
    import base64
    import hashlib
    import hmac

    body = json.dumps(
        {
            "ttl": 5,
            "permissions": {
                "resources": {"channels": {channel: 1}, "groups": {}, "uuids": {}},
                "patterns": {"channels": {}, "groups": {}, "uuids": {}},
                "meta": {},
            },
        }
    )
    path = f"/v3/pam/{keys['subscribeKey']}/grant"
    query = f"timestamp={int(time.time())}&uuid=me"
    signed = f"POST\n{keys['publishKey']}\n{path}\n{query}\n{body}"
    digest = hmac.new(keys["secretKey"].encode(), signed.encode(), hashlib.sha256).digest()
    signature = "v2." + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    answer = client.post(f"{base_url}{path}?{query}&signature={signature}", content=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["token"])


def test_a_person_is_told_what_to_set(blocks_network: Commands) -> None:
    command = blocks_network("dev", "--port", "0")
    told = [command.line() for _ in range(5)]
    assert "ready at http://127.0.0.1:" in told[0]
    assert "\x1b[" not in "".join(told)  # colour is for terminals
    settings = dict(line.split("export ")[1].strip().split("=", 1) for line in told if "export " in line)
    assert set(settings) == {"BLOCKS_CDM_URL", "BLOCKS_API_KEY"}
    assert httpx.get(settings["BLOCKS_CDM_URL"]).status_code == 200


def test_a_given_key_is_the_one_that_counts(blocks_network: Commands) -> None:
    _, said = blocks_network.ready("--api-key", "bk_chosen_by_me")
    assert said["apiKey"] == "bk_chosen_by_me"
    bootstrap = f"{said['baseUrl']}/api/v1/auth/agent/consumer-token"
    assert httpx.post(bootstrap, json={"apiKey": "bk_chosen_by_me"}).status_code == 200
    assert httpx.post(bootstrap, json={"apiKey": "bk_another"}).status_code == 401


def test_a_network_on_a_directory_keeps_its_keys_even_when_it_is_killed(
    blocks_network: Commands, tmp_path: Path
) -> None:
    command, first = blocks_network.ready("--data", str(tmp_path / "net"))
    command.process.kill()
    command.process.wait()
    _, second = blocks_network.ready("--data", str(tmp_path / "net"))
    assert (second["apiKey"], second["keysets"]) == (first["apiKey"], first["keysets"])


def test_a_directory_in_use_is_refused(blocks_network: Commands, tmp_path: Path) -> None:
    command, _ = blocks_network.ready("--data", str(tmp_path))
    second = run(["dev", "--port", "0", "--data", str(tmp_path)])
    assert second.returncode == 2
    assert f"in use by another node (process {command.process.pid})" in second.stderr


def test_a_mistake_is_told_in_words_with_the_next_step() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run(["dev", "--port", port])
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
    assert "hint:" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["dev", "--port", "seven"], "seven"),
        (["dev", "--port", "70000"], "70000"),
        (["dev", "--api-key", "no-key"], "bk_"),
        (["dev", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["dev", "--data", "/dev/null/net"], "/dev/null/net"),
        (["dev", "--log-level", "loud"], "loud"),
        (["dev", "--fsync"], "add --data DIR"),
    ],
)
def test_wrong_arguments_end_with_2_and_name_what_is_wrong(arguments: list[str], says: str) -> None:
    refused = run(arguments)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_the_version_is_the_distributions() -> None:
    from blocks_network.wire.versions import SDK_VERSION

    assert run(["--version"]).stdout == f"blocks-network {SDK_VERSION}\n"


def test_a_limit_is_set_and_the_access_log_written_without_secrets(blocks_network: Commands) -> None:
    network, said = blocks_network.ready("--limit", "publishes_per_s=1", "--access-log", "--log-level", "error")
    keys = said["keysets"]["playground"]
    path = f"/publish/{keys['publishKey']}/{keys['subscribeKey']}/0/room/0/1?auth=qEF2SECRETSECRETSECRET"
    answer = httpx.get(said["baseUrl"] + path)
    httpx.get(said["cdmUrl"])
    assert network.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in network.errors().splitlines()]
    told = [(line["door"], line["operation"], line["status"]) for line in lines]
    assert told == [("gateway", "publish", answer.status_code), ("platform", "/config.json", 200)]
    assert "SECRET" not in network.errors()
    assert keys["publishKey"] not in network.errors()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_it_takes_as_many_connections_as_the_system_allows_it(blocks_network: Commands) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few, many = 64, 200  # the limit that it begins with, and the connections that it has to bear
    _, described = blocks_network.ready(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard)))
    host, _, port = described["origin"].rpartition(":")
    with ExitStack() as opened:
        connections = [
            opened.enter_context(socket.create_connection((host, int(port)), DEADLINE_S)) for _ in range(many)
        ]
        for connection in (connections[0], connections[-1]):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_limit_that_does_not_exist_is_said_with_the_one_that_was_meant(blocks_network: Commands) -> None:
    network = blocks_network("dev", "--limit", "publish_per_s=1")
    assert network.process.wait(DEADLINE_S) == 2
    assert "there is no limit 'publish_per_s'" in network.errors()
    assert "publishes_per_s" in network.errors()
