"""The data directory: one node at a time, the same keys after a restart, and clear words about what is in the way."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from blocks_network.errors import ConfigurationError
from blocks_network.server.config import NodeConfig
from blocks_network.server.datadir import DataDirectory, Identity


def test_keys_are_those_of_the_first_start(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path / "net")
    first.open()
    made = first.identity(None)
    first.close()

    again = DataDirectory(tmp_path / "net")
    again.open()
    assert again.identity(None).to_document() == made.to_document()
    again.close()


def test_a_given_api_key_replaces_the_kept_one_and_no_keyset(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.open()
    made = directory.identity(None)
    given = directory.identity("bk_given")
    assert given.api_key == "bk_given"
    assert given.to_document()["keysets"] == made.to_document()["keysets"]
    assert directory.identity(None).api_key == "bk_given"
    directory.close()


def test_the_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "net")
    directory.open()
    directory.identity(None)
    assert stat.S_IMODE((tmp_path / "net" / "network.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "net").stat().st_mode) == 0o700
    directory.close()


def test_a_second_node_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from blocks_network.server.datadir import DataDirectory\n"
            f"directory = DataDirectory(pathlib.Path({str(tmp_path)!r})); directory.open()\n"
            "print('open', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ConfigurationError, match=f"in use by another node \\(process {holder.pid}\\)"):
            DataDirectory(tmp_path).open()
        holder.kill()
        holder.wait()
        after = DataDirectory(tmp_path)
        after.open()  # a process that was killed holds nothing
        after.close()
    finally:
        holder.kill()
        holder.communicate()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        DataDirectory(tmp_path / "file" / "net").open()
    assert "--data" in str(caught.value)


def test_a_directory_of_another_format_is_refused_untouched(tmp_path: Path) -> None:
    written = json.dumps({**Identity.generate().to_document(), "format": 2})
    (tmp_path / "network.json").write_text(written)
    directory = DataDirectory(tmp_path)
    directory.open()
    with pytest.raises(ConfigurationError, match="has format 2"):
        directory.identity(None)
    directory.close()
    assert (tmp_path / "network.json").read_text() == written


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "keysets": {"playground": 1}}', "\x00"])
def test_damaged_keys_are_never_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "network.json").write_text(text)
    directory = DataDirectory(tmp_path)
    directory.open()
    with pytest.raises(ConfigurationError, match="damaged"):
        directory.identity("bk_given")
    directory.close()
    assert (tmp_path / "network.json").read_text() == text


def test_secrets_are_not_in_a_representation() -> None:
    identity = Identity.generate("bk_secret")
    assert "bk_secret" not in repr(identity)
    assert identity.keysets.by_name("network").secret_key not in repr(list(identity.keysets))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"port": 70_000}, "port 70000"),
        ({"port": -1}, "port -1"),
        ({"api_key": "secret"}, "bk_"),
        ({"api_key": "bk_"}, "bk_"),
        ({"api_key": "bk_with space"}, "spaces"),
        ({"public_base": "localhost:80"}, "public address"),
        ({"public_base": "https://host/path"}, "public address"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_at_once(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        NodeConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "secret" not in str(caught.value)
