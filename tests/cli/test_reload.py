"""blocks-run --reload: new code for new tasks, none lost, and what cannot be loaded is said."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_run_command import BLOCKS_RUN, clean_env

from blocks_network import text_part
from blocks_network.agent.loading import from_card, from_reference, from_registry
from blocks_network.cli.reload import Reloader
from blocks_network.errors import ConfigurationError
from blocks_network.testing.network import Network

WAIT_S = 10.0


class Watched:
    """A handler's folder under a reloader, and what it says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: queue.Queue[str] = queue.Queue()
        self.function: Callable[..., Any] = print
        self._reloaders: list[Reloader] = []
        monkeypatch.setattr("blocks_network.cli.reload.note", self.said.put)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def watch(self, load: Callable[[], Any], replace: Callable[[Callable[..., Any]], None] | None = None) -> None:
        loaded = load()
        self.function = loaded.function
        reloader = Reloader(loaded, load, look_s=0.01)
        reloader.start(replace or self._replace)
        self._reloaders.append(reloader)

    def _replace(self, function: Callable[..., Any]) -> None:
        self.function = function

    def hears(self) -> str:
        return self.said.get(timeout=WAIT_S)

    def close(self) -> None:
        for reloader in self._reloaders:
            reloader.stop()
            assert reloader.join(WAIT_S)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    watched = Watched(tmp_path, monkeypatch)
    yield watched
    watched.close()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_running_task_ends_with_the_old_code_and_the_next_one_runs_the_new(blocks: Network, watched: Watched) -> None:
    old = "    started.set()\n    go_on.wait(10)\n    return 'old ' + where()\n"
    watched.write("app.py", f"def work(task, ctx):\n{old}\ndef where():\n    return 'here'\n")
    started, go_on = threading.Event(), threading.Event()
    loaded = from_reference("app.py:work")
    loaded.function.__globals__.update(started=started, go_on=go_on)
    handle = blocks.agent(loaded.function, name="reloading", concurrency=2)
    watched.watch(lambda: from_reference("app.py:work"), handle.replace_handler)
    handle.replace_handler(loaded.function)
    client = blocks.client()
    first = client.send_message(agent_name="reloading", request_parts=[text_part("1")])
    assert started.wait(WAIT_S)
    watched.write("app.py", "def work(task):\n    return 'new'\n")
    assert watched.hears() == "[agent] app.py changed; tasks that come now run the new code"
    second = client.send_message(agent_name="reloading", request_parts=[text_part("2")])
    assert second.result(WAIT_S).text == "new"
    go_on.set()
    assert first.result(WAIT_S).text == "old here"


def test_a_module_beside_the_handler_is_taken_up_too(watched: Watched) -> None:
    watched.write("words_beside.py", "WORD = 'one'\n")
    watched.write("app.py", "from words_beside import WORD\n\ndef work(task):\n    return WORD\n")
    watched.watch(lambda: from_reference("app.py:work"))
    old = watched.function
    watched.write("words_beside.py", "WORD = 'two'\n")
    assert "words_beside.py changed" in watched.hears()
    assert (old(None), watched.function(None)) == ("one", "two")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("def work(task:\n", "app.py is no valid Python"),
        ("1 / 0\n", "app.py failed while it was loaded: ZeroDivisionError: division by zero"),
        ("def other(task): ...\n", "function 'work' not found in app.py"),
        ("work = 3\n", "'work' in app.py is not callable"),
    ],
)
def test_what_cannot_be_loaded_is_said_and_the_old_code_goes_on(watched: Watched, broken: str, said: str) -> None:
    watched.write("app.py", "def work(task):\n    return 'old'\n")
    watched.watch(lambda: from_reference("app.py:work"))
    watched.write("app.py", broken)
    told = watched.hears()
    assert told.startswith("[agent] app.py changed, and cannot be used: ")
    assert said in told
    assert told.endswith("; the code before it goes on")
    assert watched.function(None) == "old"
    watched.write("app.py", "def work(task):\n    return 'repaired'\n")
    watched.hears()
    assert watched.function(None) == "repaired"


def test_a_handler_that_cannot_be_called_with_a_task_replaces_nothing(blocks: Network) -> None:
    handle = blocks.agent(lambda task: "old", name="kept_handler")
    with pytest.raises(ConfigurationError, match="cannot be called with a task"):
        handle.replace_handler(lambda a, b, c: "new")
    session = blocks.client().send_message(agent_name="kept_handler", request_parts=[text_part("go")])
    assert session.result(WAIT_S).text == "old"


def test_a_card_may_name_another_function_but_no_other_agent(watched: Watched) -> None:
    def card(name: str, export: str) -> str:
        return json.dumps({"identity": {"agentName": name}, "runtime": {"handler": "work.py", "handlerExport": export}})

    watched.write("work.py", "def one(task):\n    return 1\n\ndef two(task):\n    return 2\n")
    watched.write("agent-card.json", card("cards", "one"))
    watched.watch(lambda: from_card(watched.folder / "agent-card.json"))
    watched.write("agent-card.json", card("cards", "two"))
    assert "counts from the next start on" in watched.hears()
    assert "agent-card.json changed" in watched.hears()
    assert watched.function(None) == 2
    watched.write("agent-card.json", card("others", "one"))
    assert "the agent's name would be others, and this instance is cards" in watched.hears()
    assert watched.function(None) == 2


def test_a_variable_that_is_required_from_now_on_is_named(watched: Watched) -> None:
    def registry(*required: str) -> str:
        entry = {
            "name": "mine",
            "agentName": "mine",
            "runtime": "python",
            "entrypoint": {"path": "mine.py", "symbol": "go"},
            "requiresEnv": list(required),
        }
        return json.dumps({"schemaVersion": "1.0", "handlers": [entry]})

    watched.write("mine.py", "def go(task):\n    return 'mine'\n")
    watched.write("registry.json", registry())
    watched.watch(lambda: from_registry("mine", watched.folder / "registry.json"))
    watched.write("registry.json", registry("A_KEY_OF_MINE"))
    assert "needs environment variables that are not set: A_KEY_OF_MINE" in watched.hears()


def test_the_command_reloads_and_still_ends_cleanly(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def work(task):\n    return 'old'\n")
    agent = subprocess.Popen(
        [*BLOCKS_RUN, "--handler", "app.py:work", "--local", "--reload"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=clean_env(),
    )  # fmt: skip
    assert agent.stderr is not None
    hung = threading.Timer(4 * WAIT_S, agent.kill)
    hung.start()
    with agent:
        _until(agent.stderr, "running")
        (tmp_path / "app.py").write_text("def work(task)\n")
        _until(agent.stderr, "app.py is no valid Python: expected ':' in line 1; the code before it goes on")
        (tmp_path / "app.py").write_text("def work(task):\n    return 'a newer one'\n")
        _until(agent.stderr, "tasks that come now run the new code")
        agent.send_signal(signal.SIGTERM)
        _until(agent.stderr, "stopped")
        assert agent.wait(WAIT_S) == 0
    hung.cancel()


def _until(lines: Any, said: str) -> None:
    seen = []
    for line in lines:
        seen.append(line)
        if said in line:
            return
    raise AssertionError("".join(seen))


def test_reload_is_not_for_one_task(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BLOCKS_RUN, "--local", "--reload", "--task", "x"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=clean_env(), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--reload is about an agent that goes on" in done.stderr
