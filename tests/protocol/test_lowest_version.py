"""The oldest `pubnub` that the package allows: the core of these tests once more, with it in place of the newest.

It needs the package index, so only `.ci/run` (BLOCKS_CI=1) runs it; elsewhere it is skipped, with this reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

HOME = Path(__file__).parent
CORE = [
    "test_messages.py",
    "test_history.py",
    "test_catch_up.py",
    "test_tokens_in_use.py",
    "test_presence_and_groups.py",
    "test_filtered_subscribe.py",
]

LEFT_OPEN = ["-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
"""That version's clients leave their sockets to the garbage collector."""

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("BLOCKS_CI") != "1", reason="installs an old client; set BLOCKS_CI=1 as .ci/run does"
    ),
    pytest.mark.timeout(300),
]


def lowest() -> str:
    """`10.6.0` for a requirement such as `pubnub<11,>=10.6`."""
    (requirement,) = [line for line in requires("blocks-network") or () if line.startswith("pubnub")]
    found = re.search(r">=([0-9.]+)", requirement)
    assert found is not None, requirement
    return ".".join([*found[1].split("."), "0", "0"][:3])


def python(*arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """This environment's Python; what is in `path` goes before what is installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BLOCKS_", "PYTEST_"))}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=HOME, env=environment, capture_output=True, text=True, timeout=250
    )


def test_the_core_holds_with_the_lowest_version(tmp_path: Path) -> None:
    version = lowest()
    installed = python("-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, f"pubnub=={version}")
    assert installed.returncode == 0, installed.stderr
    asked = python(
        "-c", "import pubnub, importlib.metadata as m; print(pubnub.__file__, m.version('pubnub'))", path=tmp_path
    )
    assert asked.stdout.split() == [str(tmp_path / "pubnub" / "__init__.py"), version], asked.stderr
    ran = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", *LEFT_OPEN, *(HOME / name for name in CORE), path=tmp_path
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr
