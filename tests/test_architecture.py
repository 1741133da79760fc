"""The house keeps its shape: who imports whom, doors that only hand on, files and functions that fit one head."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blocks_network

ROOT = Path(__file__).parent.parent
PACKAGE = Path(blocks_network.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

DOORS = ["__init__.py", "types.py", "artifacts.py", "task_client.py", "task_session.py", "agent_registry.py"]
LAZY_DOORS = {"__init__.py"}  # these hand names on at first use, which takes one function
FILE_LINES = 450
FUNCTION_LINES = 70


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_imports_go_downward_only() -> None:
    """The contracts of pyproject.toml, as `scripts/check` runs them."""
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("door", DOORS)
def test_a_door_only_hands_names_on(door: str) -> None:
    tree = ast.parse((PACKAGE / door).read_text(encoding="utf-8"))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    allowed = {"__getattr__", "__dir__"} if door in LAZY_DOORS else set()
    assert not {function.name for function in functions(tree)} - allowed


def test_nothing_inside_imports_a_door() -> None:
    doors = {f"blocks_network.{Path(door).stem}" for door in DOORS if door != "__init__.py"}
    inside = [
        path for path in MODULES if path.parent != PACKAGE and path.parent.name not in ("handlers", "testing", "cli")
    ]
    found = [
        f"{path.relative_to(PACKAGE)} imports {node.module}"
        for path in inside
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in doors
    ]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_its_subject_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "what is the subject of this module?"
    assert len(text.splitlines()) <= FILE_LINES
    too_long = {
        function.name: length
        for function in functions(tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES
    }
    assert not too_long


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    return set(shown.stdout.split())


def test_the_network_does_not_load_the_sdk() -> None:
    loaded = loaded_after("import blocks_network.server.app, blocks_network.server.node")
    assert "sqlalchemy" in loaded
    assert "pubnub" not in loaded


def test_the_front_door_and_the_pytest_plugin_load_nothing_before_they_are_used() -> None:
    loaded = loaded_after("import blocks_network, blocks_network.testing.plugin")
    assert not loaded & {"pubnub", "httpx", "sqlalchemy", "httptools", "starlette"}


def test_a_node_can_be_named_without_the_libraries_of_the_extra() -> None:
    loaded = loaded_after("import blocks_network.server.node, blocks_network.cli.network")
    assert not loaded & {"pubnub", "sqlalchemy", "httptools", "starlette", "uvloop"}


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("sqlalchemy", ["server/store"]),
        ("alembic", ["server/store"]),
        ("starlette", ["server/api", "server/app.py"]),
        ("httptools", ["server/http"]),
        ("prometheus_client", ["server/metrics.py"]),
        ("cbor2", ["server/access"]),
        ("pubnub", ["transport"]),
    ],
)
def test_a_library_has_one_home(library: str, home: list[str]) -> None:
    strangers = []
    for path in MODULES:
        place = path.relative_to(PACKAGE).as_posix()
        if any(place == door or place.startswith(f"{door}/") for door in home):
            continue
        for node in _imports_at_runtime(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if any(name.partition(".")[0] == library for name in names):
                strangers.append(f"{place}:{node.lineno}")
    assert not strangers


def _imports_at_runtime(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports but those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        yield from _imports_at_runtime(node)
