"""The commands that look after a network, as a user runs them: processes against a real network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blocks_network.api.registry import register_agent
from blocks_network.consumer.parts import text_part
from blocks_network.testing.network import Network
from blocks_network.types import StartTaskMessage, TaskContext

DEADLINE_S = 60


def run(
    *arguments: str,
    network: Network | None = None,
    api_key: str | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKS_")}
    if network is not None:
        environment["BLOCKS_CDM_URL"] = network.cdm_url
        environment["BLOCKS_API_KEY"] = api_key or network.api_key
    return subprocess.run(
        [sys.executable, "-m", "blocks_network.cli.network", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment,
        cwd=cwd,
        input=stdin,
    )


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(network: Network, agent: str, text: str = "hi") -> str:
    """The id of a task that is over."""
    with network.client().send_message(agent_name=agent, request_parts=[text_part(text)]) as session:
        session.wait_for_terminal(DEADLINE_S)
        return session.task_id


def test_send_prints_the_id_and_task_and_logs_show_the_rest(blocks: Network) -> None:
    blocks.agent(lambda task: "pong", name="admin_pong")
    sent = run("send", "admin_pong", "ping", network=blocks)
    assert sent.returncode == 0, sent.stderr
    task_id = sent.stdout.strip()

    followed = run("logs", "-f", task_id, network=blocks)
    assert followed.returncode == 0, followed.stderr
    assert "completed" in followed.stdout.splitlines()[-1]
    times = [line.split()[0] for line in followed.stdout.splitlines()]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", at) for at in times), followed.stdout
    events = objects(run("logs", task_id, "--json", network=blocks))
    assert [event["type"] for event in events][-2:] == ["artifact", "terminal"]

    (told,) = objects(run("task", task_id, "--json", network=blocks))
    assert (told["taskId"], told["state"], told["agentName"]) == (task_id, "completed", "admin_pong")
    lines = dict(line.split(maxsplit=1) for line in run("task", task_id, network=blocks).stdout.splitlines())
    assert (lines["taskId"], lines["state"]) == (task_id, "completed")


@pytest.mark.parametrize(("argument", "stdin"), [("@request.txt", ""), ("-", "from afar")])
def test_send_waits_and_prints_the_artifact(blocks: Network, tmp_path: Path, argument: str, stdin: str) -> None:
    (tmp_path / "request.txt").write_text("from afar")
    blocks.agent(lambda task: task.request_parts[0].text.upper(), name="admin_upper")
    sent = run("send", "admin_upper", argument, "--wait", network=blocks, cwd=tmp_path, stdin=stdin)
    assert (sent.returncode, sent.stdout) == (0, "FROM AFAR\n"), sent.stderr


def test_send_with_wait_ends_with_1_when_the_task_fails(blocks: Network) -> None:
    def torn(task: object) -> None:
        raise ValueError("page 3 is torn")

    blocks.agent(torn, name="admin_torn")
    sent = run("send", "admin_torn", "x", "--wait", network=blocks)
    assert (sent.returncode, sent.stdout) == (1, "")
    assert "page 3 is torn" in sent.stderr
    assert "Traceback" not in sent.stderr


def test_the_same_idempotency_key_gives_the_same_task(blocks: Network) -> None:
    blocks.agent(lambda task: "pong", name="admin_once")
    sent = [
        objects(run("send", "admin_once", "x", "--idempotency-key", "admin-once-1", "--json", network=blocks))[0]
        for _ in range(2)
    ]
    assert sent[0]["taskId"] == sent[1]["taskId"]
    assert [told["idempotent"] for told in sent] == [False, True]


def test_send_with_a_key_and_wait_shows_the_task_that_has_it_again(blocks: Network) -> None:
    runs: list[str] = []

    def once(task: StartTaskMessage) -> str:
        runs.append(task.task_id)
        return f"run {len(runs)}"

    blocks.agent(once, name="admin_again")
    for _ in range(2):
        sent = run("send", "admin_again", "x", "--wait", "--idempotency-key", "admin-again-1", network=blocks)
        assert (sent.returncode, sent.stdout) == (0, "run 1\n"), sent.stderr
    assert len(runs) == 1
    assert f"the key has task {runs[0]} already" in sent.stderr


def test_tasks_are_listed_newest_first(blocks: Network) -> None:
    blocks.agent(lambda task: "pong", name="admin_listed")
    first, second = ended(blocks, "admin_listed"), ended(blocks, "admin_listed")
    found = objects(run("tasks", "--agent", "admin_listed", "--json", network=blocks))
    assert [told["taskId"] for told in found] == [second, first]
    assert objects(run("tasks", "--agent", "admin_listed", "--limit", "1", "--json", network=blocks)) == found[:1]
    assert objects(run("tasks", "--agent", "admin_listed", "--state", "failed", "--json", network=blocks)) == []
    table = run("tasks", "--agent", "admin_listed", network=blocks).stdout.splitlines()
    assert table[0].split() == ["TASK", "AGENT", "STATE", "CREATED", "ERROR"]
    assert [line.split()[0] for line in table[1:]] == [second, first]


def test_cancel_ends_a_running_task(blocks: Network) -> None:
    begun = threading.Event()

    def patient(task: object, context: TaskContext) -> None:
        begun.set()
        while not context.is_cancelled:
            threading.Event().wait(0.01)

    blocks.agent(patient, name="admin_patient")
    session = blocks.client().send_message(agent_name="admin_patient", request_parts=[text_part("x")])
    assert begun.wait(DEADLINE_S)
    asked = run("cancel", session.task_id, network=blocks)
    assert asked.returncode == 0, asked.stderr
    assert f"{session.task_id} was asked to end" in asked.stdout
    assert session.wait_for_terminal(DEADLINE_S).state == "canceled"
    again = run("cancel", session.task_id, network=blocks)
    assert (again.returncode, again.stdout) == (0, f"{session.task_id} had ended: canceled\n")


def test_agents_are_listed_and_taken_offline_by_the_operator_alone(blocks: Network) -> None:
    agent = blocks.agent(lambda task: "pong", name="admin_banned")
    made = objects(run("keys", "create", "--json", network=blocks))[0]
    refused = run("agents", "offline", "admin_banned", network=blocks, api_key=made["apiKey"])
    assert refused.returncode == 3
    assert "operator" in refused.stderr

    assert objects(run("agents", "offline", "admin_banned", "--json", network=blocks)) == [
        {"agentName": "admin_banned", "offline": True}
    ]
    entry = _entry(run("agents", "--json", network=blocks), "admin_banned")
    assert entry["offline"] is True
    sent = run("send", "admin_banned", "x", network=blocks)
    assert (sent.returncode, sent.stdout) == (3, "")
    assert "taken offline" in sent.stderr
    agent.stop(0)

    assert run("agents", "online", "admin_banned", network=blocks).stdout == "admin_banned is back\n"
    blocks.agent(lambda task: "pong again", name="admin_banned")
    assert run("send", "admin_banned", "x", "--wait", network=blocks).stdout == "pong again\n"


def _entry(done: subprocess.CompletedProcess[str], name: str) -> Mapping[str, Any]:
    return next(entry for entry in objects(done) if entry["agentName"] == name)


def test_a_key_is_made_shown_once_used_and_revoked(blocks: Network) -> None:
    made = run("keys", "create", "--label", "for the tests", "--scope", "consumer", network=blocks)
    secret = made.stdout.strip()
    assert secret.startswith("bk_")
    assert secret not in made.stderr

    listed = objects(run("keys", "list", "--json", network=blocks))
    assert secret not in json.dumps(listed)
    info = next(key for key in listed if key["label"] == "for the tests")
    assert info["scopes"] == ["consumer"]

    assert run("tasks", network=blocks, api_key=secret).returncode == 0
    more = run("keys", "create", "--scope", "provider", network=blocks, api_key=secret)
    assert more.returncode == 3
    assert "lacks the scope provider" in more.stderr

    assert run("keys", "revoke", info["keyId"], network=blocks).stdout == f"{info['keyId']} revoked\n"
    refused = run("tasks", network=blocks, api_key=secret)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert secret not in refused.stderr
    assert info["keyId"] not in [key["keyId"] for key in objects(run("keys", "list", "--json", network=blocks))]
    everything = objects(run("keys", "list", "--all", "--json", network=blocks))
    assert next(key for key in everything if key["keyId"] == info["keyId"])["revokedTime"]


def test_agents_are_registered_by_card_and_by_function(blocks: Network, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def admin_by_function(task): return 'done'\n")
    identity = {"agentName": "admin_by_card", "displayName": "By card", "description": "d", "version": "1.0.0"}
    card = {"identity": identity, "runtime": {"handler": "work.py", "handlerExport": "admin_by_function"}}
    (tmp_path / "agent-card.json").write_text(json.dumps(card))

    made = run("agents", "register", "--listing", "public", network=blocks, cwd=tmp_path)
    assert (made.returncode, made.stdout) == (0, "admin_by_card is registered (public)\n"), made.stderr
    again = run("agents", "register", "agent-card.json", network=blocks, cwd=tmp_path)
    assert again.stdout == "admin_by_card is registered (public)\n", again.stderr  # who may see it has not changed
    told = objects(run("agents", "register", "work.py:admin_by_function", "--json", network=blocks, cwd=tmp_path))
    assert told == [{"agentName": "admin_by_function", "listing": "private", "billingMode": "free"}]

    (key,) = objects(run("keys", "create", "--scope", "consumer", "--json", network=blocks))
    refused = run("agents", "register", network=blocks, api_key=key["apiKey"], cwd=tmp_path)
    assert refused.returncode == 3
    assert "lacks the scope 'provider'" in refused.stderr
    assert "keys create --scope" in refused.stderr

    price = {"billing_mode": "paid", "price_per_task": 0.1}
    register_agent(blocks.base_url, blocks.api_key, card, **price)  # type: ignore[arg-type]
    paid = run("agents", "register", network=blocks, cwd=tmp_path)
    assert paid.returncode == 2
    assert "a card holds no price" in paid.stderr


def test_a_failed_task_says_where_its_fault_is_told(blocks: Network) -> None:
    def admin_refuses(task: object) -> None:
        raise ValueError("not today")

    blocks.agent(admin_refuses)
    failed = run("send", "admin_refuses", "x", "--wait", network=blocks)
    assert failed.returncode == 1
    assert "failed: not today" in failed.stderr
    assert "the log of the agent" in failed.stderr  # its handler ran elsewhere: no option of this command shows more


def test_env_of_the_working_directory_says_where_the_network_is(blocks: Network, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"BLOCKS_CDM_URL={blocks.cdm_url}\nBLOCKS_API_KEY={blocks.api_key}\n")
    assert run("keys", "list", cwd=tmp_path).returncode == 0


def test_options_beat_the_environment(blocks: Network) -> None:
    done = run("agents", "--cdm-url", blocks.cdm_url, "--api-key", blocks.api_key)
    assert done.returncode == 0, done.stderr
    wrong = run("keys", "list", "--api-key", "bk_wrong_and_unknown", network=blocks)
    assert wrong.returncode == 3
    assert "unknown or revoked" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["task", "task-nowhere"], 3, "there is no task 'task-nowhere'"),
        (["cancel", "task-nowhere"], 3, "there is no task 'task-nowhere'"),
        (["logs", "task-nowhere"], 3, "there is no task 'task-nowhere'"),
        (["webhooks", "task-nowhere"], 3, "there is no task 'task-nowhere'"),
        (["keys", "revoke", "key_nowhere"], 3, "there is no API key 'key_nowhere'"),
        (["agents", "offline", "nobody_here"], 3, "there is no agent 'nobody_here'"),
        (["agents", "offline"], 2, "agents offline NAME"),
        (["agents", "register", "/no/such/agent-card.json"], 2, "no agent card /no/such/agent-card.json"),
        (["send", "nobody_here", "x"], 2, "there is no agent nobody_here"),
        (["send", "nobody_here"], 2, "nothing to send"),
        (["send", "nobody_here", "@/no/such/file"], 2, "there is no file /no/such/file"),
        (["send", "nobody_here", "x", "--timeout", "3"], 2, "add --wait"),
        (["tasks", "--state", "dreaming"], 2, "dreaming"),
        (["tasks", "--limit", "0"], 2, "invalid number value"),
        (["keys"], 2, "create|list|revoke"),
    ],
)
def test_a_mistake_is_told_in_words(blocks: Network, arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments, network=blocks)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_key_or_a_network_the_next_step_is_told() -> None:
    nobody = run("tasks", cwd=Path("/"))
    assert nobody.returncode == 2
    assert "set BLOCKS_API_KEY" in nobody.stderr
    nowhere = run("tasks", "--cdm-url", "http://127.0.0.1:9/config.json", "--api-key", "bk_any_key_at_all")
    assert nowhere.returncode == 3
    assert "BLOCKS_CDM_URL" in nowhere.stderr
    assert "Traceback" not in nobody.stderr + nowhere.stderr
