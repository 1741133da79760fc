"""Finding handlers: every place they may be in, and what is said when they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocks_network.agent.loading import (
    find_handler_entry,
    from_card,
    from_reference,
    from_registry,
    get_available_handlers,
    load_handler_function,
    load_registry,
)
from blocks_network.errors import HandlerLoadError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_built_in_handlers_are_there() -> None:
    assert [entry["name"] for entry in get_available_handlers(load_registry())] == ["echo", "adder"]
    echo = from_registry("echo")
    assert (echo.agent_name, echo.concurrency) == ("acme_echo", 4)
    assert callable(echo.function)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(HandlerLoadError, match=r"Unknown handler 'ech'.*echo, adder"):
        from_registry("ech")


def test_a_function_of_a_file_with_siblings_and_dataclasses(folder: Path) -> None:
    (folder / "beside.py").write_text("WORD = 'beside'\n")
    (folder / "app.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport beside\n\n"
        "@dataclass\nclass Kept:\n    word: str = beside.WORD\n\n"
        "def speak(task):\n    '''Says a word.'''\n    return Kept().word\n"
    )
    loaded = from_reference("app.py:speak")
    assert loaded.function(None) == "beside"
    assert (loaded.agent_name, loaded.derived) == ("speak", True)
    assert loaded.card["identity"]["description"] == "Says a word."


def test_two_files_of_one_name_do_not_collide(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "app.py").write_text(f"def run(task):\n    return {name!r}\n")
    found = [from_reference(f"{name}/app.py:run").function(None) for name in ("one", "two")]
    assert found == ["one", "two"]


def test_a_module_of_the_working_directory(folder: Path) -> None:
    (folder / "my_agents_xyz.py").write_text("def greet(task):\n    return 'hi'\n")
    assert from_reference("my_agents_xyz:greet").function(None) == "hi"


@pytest.mark.parametrize(
    ("source", "reference", "said"),
    [
        ("def f(task:\n", "bad.py:f", r"bad\.py is no valid Python: .* in line 1"),
        ("def f(task): ...\n", "bad.py:g", r"function 'g' not found in bad\.py; it has: f"),
        ("x = 5\n", "bad.py:x", "'x' in bad.py is not callable, it is of type int"),
        ("1 / 0\n", "bad.py:f", "failed while it was loaded: ZeroDivisionError: division by zero"),
        ("import no_such_module_anywhere\n", "bad.py:f", "no_such_module_anywhere"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(folder: Path, source: str, reference: str, said: str) -> None:
    (folder / "bad.py").write_text(source)
    with pytest.raises(HandlerLoadError, match=said) as raised:
        from_reference(reference)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("missing.py:f", "handler file not found: missing.py"),
        ("no_such_module_anywhere:f", "there is no module of that name"),
        (":f", "names no function"),
        ("app.py:", "names no function"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(folder: Path, reference: str, said: str) -> None:
    with pytest.raises(HandlerLoadError, match=said):
        from_reference(reference)


def test_a_card_names_its_handler(folder: Path) -> None:
    (folder / "agent").mkdir()
    (folder / "agent" / "work.py").write_text("def handler(task):\n    return 'worked'\n")
    numbers = {"concurrency": "2", "expectedInstances": 3, "maxPendingBacklog": "40", "maxRunningTimeSec": 50}
    card = {"identity": {"agentName": "worker"}, "runtime": {"handler": "./work.py", **numbers}}
    (folder / "agent" / "agent-card.json").write_text(json.dumps(card))
    loaded = from_card(folder / "agent" / "agent-card.json")
    assert (loaded.agent_name, loaded.concurrency, loaded.function(None)) == ("worker", 2, "worked")
    assert (loaded.expected_instances, loaded.max_pending_backlog, loaded.max_running_time_sec) == (3, 40, 50)
    assert loaded.card == card


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "JSON object"),
        ('{"identity": {}}', "identity.agentName is None"),
        ('{"identity": {"agentName": "has space"}}', "identity.agentName is 'has space'"),
        ('{"identity": {"agentName": "a"}}', "runtime.handler is missing"),
        ('{"identity": {"agentName": "a"}, "runtime": {"handler": "gone.py"}}', "handler file not found"),
    ],
)
def test_a_card_that_cannot_be_used(folder: Path, card: str, said: str) -> None:
    (folder / "agent-card.json").write_text(card)
    with pytest.raises(HandlerLoadError, match=said):
        from_card(folder / "agent-card.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "Handler registry not found"),
        ("{", "Invalid JSON"),
        ('{"handlers": [{}]}', "schemaVersion"),
        ('{"schemaVersion": "1.0", "handlers": []}', "non-empty array"),
    ],
)
def test_a_registry_that_cannot_be_used(folder: Path, content: str | None, said: str) -> None:
    file = folder / "registry.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(HandlerLoadError, match=said):
        load_registry(file)


def test_paths_of_a_registry_are_relative_to_it(folder: Path) -> None:
    (folder / "mine.py").write_text("def go(task):\n    return 'mine'\n")
    entry = {
        "name": "mine",
        "agentName": "mine",
        "runtime": "python",
        "entrypoint": {"path": "mine.py", "symbol": "go"},
    }
    file = folder / "registry.json"
    file.write_text(json.dumps({"schemaVersion": "1.0", "handlers": [entry, {"name": "js", "runtime": "node"}]}))
    registry = load_registry(file)
    found = find_handler_entry(registry, "mine")
    assert found is not None
    assert load_handler_function(found)(None) == "mine"
    assert find_handler_entry(registry, "js") is None


def test_required_variables_are_all_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "name": "needy",
        "agentName": "needy",
        "runtime": "python",
        "entrypoint": {"path": "needy.py", "symbol": "go"},
        "requiresEnv": ["NEEDY_A", "NEEDY_B", "NEEDY_C"],
        "defaults": {"maxThreads": 3},
    }
    (folder / "needy.py").write_text("def go(task): ...\n")
    (folder / "registry.json").write_text(json.dumps({"schemaVersion": "1.0", "handlers": [entry]}))
    monkeypatch.setenv("NEEDY_B", "set")
    monkeypatch.setenv("NEEDY_C", "")
    loaded = from_registry("needy", folder / "registry.json")
    assert loaded.missing_env() == ["NEEDY_A", "NEEDY_C"]
    assert loaded.concurrency == 3
