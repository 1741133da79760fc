"""blocks-run as a person at a terminal meets it: processes, streams, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blocks_network import TaskClient
from blocks_network.agent.loading import derive_card
from blocks_network.api.registry import get_agent, register_agent
from blocks_network.server.node import Node

BLOCKS_RUN = [sys.executable, "-m", "blocks_network"]


def clean_env(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BLOCKS_", "LOG_LEVEL"))}
    return {**kept, **more}


def blocks_run(*arguments: str, cwd: Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BLOCKS_RUN, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_env(**env),
        check=False,
    )


@contextmanager
def started(*arguments: str, cwd: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the test does something, and no longer."""
    process = subprocess.Popen(
        [*BLOCKS_RUN, *arguments],
        cwd=cwd,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env(**env),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def errors_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines of its standard error up to the one that holds `text`."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            break
    return said


def test_one_task_prints_its_answer_and_nothing_else(tmp_path: Path) -> None:
    done = blocks_run("--handler", "echo", "--local", "--task", "Hello", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Echoed request: Hello\n"), done.stderr
    shown = done.stderr.splitlines()
    assert [line.split()[0] for line in shown] == ["progress", "artifact", "terminal"], done.stderr


def test_adder(tmp_path: Path) -> None:
    done = blocks_run("--handler", "adder", "--local", "--task", '{"a": 2, "b": 40}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sum"] == 42


def test_json_lines(tmp_path: Path) -> None:
    done = blocks_run("--handler", "echo", "--local", "--task", "Hi", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["progress", "artifact", "terminal", "result"]
    result = lines[-1]
    assert result["state"] == "completed"
    assert result["taskId"] == lines[0]["taskId"]
    assert result["artifacts"][0]["text"] == "Echoed request: Hi"


def test_a_task_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("from a file", encoding="utf-8")
    assert blocks_run("--local", "--task", "@page.txt", cwd=tmp_path).stdout == "Echoed request: from a file\n"
    assert blocks_run("--local", "--task", "-", cwd=tmp_path, stdin="piped").stdout == "Echoed request: piped\n"


def test_a_function_of_ones_own_with_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "size.py").write_text(
        "def size(task, ctx):\n"
        "    data = ctx.download_input_artifact(task.request_parts[0])\n"
        "    return {'artifacts': [{'data': str(len(data)), 'fileName': 'size.txt'}]}\n"
    )
    (tmp_path / "in.bin").write_bytes(bytes(range(256)) * 10)
    done = blocks_run("--handler", "size.py:size", "--local", "--file", "in.bin", "--out", "results/here", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "results" / "here" / "size.txt").read_text() == "2560"


def test_the_card_of_the_working_directory(tmp_path: Path) -> None:
    card = {
        "identity": {"agentName": "carded", "displayName": "C", "description": "d", "version": "1"},
        "runtime": {"handler": "./work.py"},
    }
    (tmp_path / "agent-card.json").write_text(json.dumps(card))
    (tmp_path / "work.py").write_text("def handler(task, ctx=None):\n    return 'by card'\n")
    done = blocks_run("--local", "--task", "go", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "by card\n"), done.stderr


FAULTS: list[tuple[str, list[str], int, str]] = [
    ("unknown handler", ["--handler", "ech", "--local"], 2, "Unknown handler 'ech'"),
    ("syntax error", ["--handler", "broken.py:f", "--local"], 2, "broken.py is no valid Python"),
    ("no such function", ["--handler", "good.py:g", "--local"], 2, "'g' not found in good.py"),
    ("no function", ["--handler", "good.py", "--local"], 2, "write --handler good.py:function"),
    ("raises when loaded", ["--handler", "early.py:f", "--local"], 2, "division by zero (early.py, line 2)"),
    ("a folder", ["--local", "--task", "a", "--file", "."], 2, "--file . is a folder"),
    ("no such file", ["--handler", "gone.py:f", "--local"], 2, "handler file not found: gone.py"),
    ("no such task file", ["--local", "--task", "@missing"], 2, "there is no file missing"),
    ("no such part", ["--local", "--task", "a", "--file", "missing"], 2, "there is no such file"),
    ("no key", ["--handler", "echo"], 2, "BLOCKS_API_KEY is not set"),
    ("out without a task", ["--local", "--out", "x"], 2, "--out is about a task"),
    ("a wrong number", ["--local", "--task", "a", "--timeout", "soon"], 2, "invalid number of seconds value"),
    ("raises", ["--handler", "good.py:raises", "--local", "--task", "a"], 1, "failed: this went wrong"),
    ("nonsense", ["--handler", "good.py:nonsense", "--local", "--task", "a"], 1, "the handler returned int"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_is_one_clear_line(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "early.py").write_text("import os\nprint(1 / 0)\n")
    (tmp_path / "good.py").write_text(
        "def f(task): return 'ok'\n"
        "def raises(task): raise ValueError('this went wrong')\n"
        "def nonsense(task): return 5\n"
    )
    done = blocks_run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") or ": error: " in line for line in done.stderr.splitlines()) == 1, done.stderr


def test_where_a_handler_raised_is_shown_on_demand(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def raises(task): raise ValueError('this went wrong')\n")
    done = blocks_run("--handler", "bad.py:raises", "--local", "--task", "a", "--log-level", "debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "bad.py" in done.stderr
    assert "Traceback" in done.stderr


def test_a_folder_that_cannot_be_one_is_found_before_the_task_runs(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = blocks_run("--local", "--task", "a", "--out", "taken", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "--out taken cannot be used" in done.stderr
    assert "progress" not in done.stderr


def test_a_wrong_key(blocks_node: Node, tmp_path: Path) -> None:
    done = blocks_run(
        "--handler", "echo", cwd=tmp_path, BLOCKS_CDM_URL=blocks_node.cdm_url, BLOCKS_API_KEY="bk_not_this_one"
    )
    assert done.returncode == 3, done.stderr
    assert "the network refuses this API key" in done.stderr
    assert "Traceback" not in done.stderr
    assert "bk_not_this_one" not in done.stderr


def test_a_configuration_that_is_html(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Html(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Html)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/config.json"
        done = blocks_run("--handler", "echo", cwd=tmp_path, BLOCKS_CDM_URL=url, BLOCKS_API_KEY="bk_x")
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode in (2, 3)
    assert "text/html, not with a JSON document" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_network_at_all(tmp_path: Path) -> None:
    done = blocks_run(
        "--handler", "echo", cwd=tmp_path, BLOCKS_CDM_URL="http://127.0.0.1:9/config.json", BLOCKS_API_KEY="bk_x"
    )
    assert done.returncode == 3, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_that_dies_while_the_task_runs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("def slow(task, ctx): ctx.cancel_event.wait(30)\n")
    network = subprocess.Popen(
        [sys.executable, "-m", "blocks_network.cli.network", "dev", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env(),
    )
    assert network.stdout is not None
    described = json.loads(network.stdout.readline())
    register_agent(described["baseUrl"], described["apiKey"], derive_card("slow", None, None, None))
    reach = {"BLOCKS_CDM_URL": described["cdmUrl"], "BLOCKS_API_KEY": described["apiKey"]}
    with started("--handler", "slow.py:slow", "--task", "a", cwd=tmp_path, **reach) as task:
        errors_until(task, "running")
        network.kill()
        network.wait(10)
        network.stdout.close()
        _, err = task.communicate(timeout=60)
    assert task.returncode == 3, err
    assert "the network was lost while task" in err
    assert "Traceback" not in err


def test_out_of_time(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("def slow(task, ctx): ctx.cancel_event.wait(30)\n")
    done = blocks_run("--handler", "slow.py:slow", "--local", "--task", "a", "--timeout", "0.5", cwd=tmp_path)
    assert done.returncode == 124, done.stderr
    assert "not done within 0.5 s" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_agent_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with started("--handler", "echo", "--local", cwd=tmp_path) as agent:
        said = errors_until(agent, "running (press Ctrl+C to stop)")
        agent.send_signal(number)
        out, err = agent.communicate(timeout=20)
    assert (agent.returncode, out) == (0, ""), err
    starts = ("starting handler", "concurrency:", "instance ID:", "clients find it", "running")
    told = [line for line in said if line.startswith("[agent]")]
    assert [line.split("[agent] ")[1].startswith(start) for line, start in zip(told, starts, strict=True)] == [True] * 5
    assert "[agent] concurrency: 4, expectedInstances: 1\n" in told
    assert any("event=agent_instance_started" in line for line in said)
    assert f"[agent] received {number.name}, shutting down" in err
    assert err.endswith("[agent] stopped\n")


def test_a_handler_that_ignores_its_end_holds_up_no_process(blocks_node: Node, tmp_path: Path) -> None:
    """Its thread cannot be ended: the process goes without it, and the exit code tells."""
    (tmp_path / "deaf.py").write_text(
        "import sys, threading\n\n"
        "def deaf(task):\n"
        "    print('listening to nobody', file=sys.stderr, flush=True)\n"
        "    threading.Event().wait(60)\n"
    )
    register_agent(blocks_node.base_url, str(blocks_node.api_key), derive_card("deaf", None, None, None))
    key = {"BLOCKS_API_KEY": str(blocks_node.api_key), "BLOCKS_CDM_URL": blocks_node.cdm_url}
    with (
        started("--handler", "deaf.py:deaf", cwd=tmp_path, **key, AGENT_SHUTDOWN_GRACE_SEC="0") as agent,
        TaskClient.create("free", blocks_node.cdm_url, api_key=str(blocks_node.api_key)) as client,
    ):
        session = client.send_message(agent_name="deaf", request_parts=[])
        errors_until(agent, "listening to nobody")
        agent.send_signal(signal.SIGTERM)
        _, err = agent.communicate(timeout=20)
    assert agent.returncode == 1, err
    assert f"[agent] abandoned while still running: {session.task_id}" in err
    assert "Traceback" not in err


def test_an_interrupted_task(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("def slow(task, ctx): ctx.cancel_event.wait(30)\n")
    with started("--handler", "slow.py:slow", "--local", "--task", "a", cwd=tmp_path) as task:
        errors_until(task, "running")
        task.send_signal(signal.SIGINT)
        _, err = task.communicate(timeout=20)
    assert task.returncode == 130, err
    assert "Traceback" not in err


def test_a_handlers_child_processes_do_not_inherit_the_api_key(blocks_node: Node, tmp_path: Path) -> None:
    (tmp_path / "nosy.py").write_text(
        "import subprocess, sys\n\n"
        "def work(task):\n"
        "    shown = [sys.executable, '-c', \"import os; print(os.environ.get('BLOCKS_API_KEY'))\"]\n"
        "    return subprocess.run(shown, capture_output=True, text=True, check=True).stdout\n"
    )
    register_agent(blocks_node.base_url, str(blocks_node.api_key), derive_card("nosy", None, None, None))
    card = {"identity": {"agentName": "nosy"}, "runtime": {"handler": "nosy.py", "handlerExport": "work"}}
    (tmp_path / "agent-card.json").write_text(json.dumps(card))
    done = blocks_run(
        "--task", "go", cwd=tmp_path, BLOCKS_API_KEY=str(blocks_node.api_key), BLOCKS_CDM_URL=blocks_node.cdm_url
    )
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_a_network_of_this_machine_learns_the_agent_and_its_changed_card(blocks_node: Node, tmp_path: Path) -> None:
    reach = {"BLOCKS_CDM_URL": blocks_node.cdm_url, "BLOCKS_API_KEY": str(blocks_node.api_key)}
    (tmp_path / "new.py").write_text("def newcomer(task): return 'welcome'\n")
    for said in ("[agent] registered newcomer", ""):
        done = blocks_run("--handler", "new.py:newcomer", "--task", "go", cwd=tmp_path, **reach)
        assert (done.returncode, done.stdout) == (0, "welcome\n"), done.stderr
        assert done.stderr.startswith(said or "progress"), done.stderr

    identity = {"agentName": "newcomer", "displayName": "Settled", "description": "d", "version": "1.0.0"}
    card = {"identity": identity, "runtime": {"handler": "new.py", "handlerExport": "newcomer"}}
    (tmp_path / "agent-card.json").write_text(json.dumps(card))
    register_agent(blocks_node.base_url, str(blocks_node.api_key), card, listing="public")
    identity["displayName"] = "Changed"
    (tmp_path / "agent-card.json").write_text(json.dumps(card))
    assert blocks_run("--task", "go", cwd=tmp_path, **reach).returncode == 0
    entry = get_agent("newcomer", blocks_node.base_url, str(blocks_node.api_key))
    assert entry is not None
    assert (entry.name, entry.listing) == ("Changed", "public")
