"""The package as it is installed: each test makes an environment of its own, which takes seconds and the package index.

`.ci/run` sets BLOCKS_CI=1 and runs them; elsewhere they are named as skipped, with this reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("BLOCKS_CI") != "1", reason="installs the package; set BLOCKS_CI=1 as .ci/run does"
    ),
    pytest.mark.timeout(600),
]


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("BLOCKS_", "PYTHON", "VIRTUAL_"))
    }
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    built = call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", target, ROOT, cwd=target)
    assert built.returncode == 0, built.stderr
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the package and no extra."""
    home = tmp_path_factory.mktemp("bare")
    made = call(sys.executable, "-m", "venv", home / "env", cwd=home)
    assert made.returncode == 0, made.stderr
    installed = call(home / "env" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=home)
    assert installed.returncode == 0, installed.stderr
    return home / "env" / "bin"


def test_the_wheel_holds_what_the_package_needs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"blocks_network/py.typed", "blocks_network/registry.json"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"blocks_network"}


def test_it_imports_without_any_extra(bare: Path, tmp_path: Path) -> None:
    tried = call(bare / "python", "-c", "from blocks_network import TaskClient, start_agent_instance", cwd=tmp_path)
    assert tried.returncode == 0, tried.stderr


def test_the_wire_libraries_of_the_extra_are_not_there(bare: Path, tmp_path: Path) -> None:
    listed = call(bare / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path).stdout.lower()
    assert "pubnub" in listed
    assert not [library for library in ("httptools", "sqlalchemy", "starlette", "pytest") if f"{library}==" in listed]


@pytest.mark.parametrize(
    "command",
    [["blocks-run", "--handler", "echo", "--local", "--task", "Hello"], ["blocks-network", "dev", "--port", "0"]],
    ids=["blocks-run", "blocks-network"],
)
def test_a_command_that_needs_the_extra_names_it(bare: Path, tmp_path: Path, command: list[str]) -> None:
    refused = call(bare / command[0], *command[1:], cwd=tmp_path)
    assert refused.returncode == 2
    assert 'pip install "blocks-network[server]"' in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_without_a_key_blocks_run_names_both_ways_on(bare: Path, tmp_path: Path) -> None:
    refused = call(bare / "blocks-run", "--handler", "echo", cwd=tmp_path)
    assert refused.returncode == 2
    assert "BLOCKS_API_KEY" in refused.stderr
    assert "--local" in refused.stderr
    assert "Traceback" not in refused.stderr
