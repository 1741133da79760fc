"""File names of artifacts: whatever an agent calls them, they stay in their directory and apart from each other."""

from __future__ import annotations

import hashlib
import os
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks_network import ArtifactRef, download_artifact
from blocks_network.consumer.downloads import ArtifactNotSaved, fetch_into, free_name, safe_file_name, save_all
from blocks_network.errors import TransportError
from blocks_network.wire.artifacts import build_artifact_ref


def inline(data: bytes, name: str | None = None, **more: Any) -> ArtifactRef:
    return ArtifactRef.from_dict({**build_artifact_ref(data=data, file_name=name), **more})


def fetch(ref: ArtifactRef, target: BinaryIO) -> None:
    fetch_into(ref, target, None)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        (r"C:\Users\x\y.txt", "y.txt"),
        (r"..\evil", "evil"),
        ("C:evil.txt", "evil.txt"),
        ("a\0b\n.txt", "ab.txt"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("ends. . ", "ends"),
        ("ab:c?", "ab_c_"),
        ("..", "fallback"),
        (".", "fallback"),
        ("", "fallback"),
        ("dir/", "fallback"),
        (None, "fallback"),
        (".hidden", ".hidden"),
    ],
)
def test_a_name_is_made_safe_as_close_to_itself_as_can_be(name: str | None, safe: str) -> None:
    assert safe_file_name(name, "fallback") == safe


@given(st.text())
def test_no_name_leaves_its_directory(name: str) -> None:
    safe = safe_file_name(name, "fallback")
    assert safe not in ("", ".", "..")
    assert Path(safe).name == safe
    assert not set(safe) & set('/\\\0:<>"|?*')
    assert len(safe.encode()) <= 255


@given(st.lists(st.sampled_from(["a", "A", "a.txt", "A.TXT", "x" * 260 + ".bin"]), max_size=8))
def test_no_two_names_are_one_file_anywhere(names: list[str]) -> None:
    taken: list[str] = []
    for name in names:
        taken.append(free_name(safe_file_name(name, "f"), taken))
    assert len({name.casefold() for name in taken}) == len(taken)
    assert all(len(name.encode()) <= 255 for name in taken)


def test_doubles_are_numbered(tmp_path: Path) -> None:
    paths = save_all([inline(b"1", "a.txt"), inline(b"2", "a.txt"), inline(b"3")], tmp_path / "x", fetch)
    assert [Path(path).name for path in paths] == ["a.txt", "a-1.txt", "artifact-2"]
    assert [Path(path).read_bytes() for path in paths] == [b"1", b"2", b"3"]


def test_the_directory_is_made_also_for_nothing(tmp_path: Path) -> None:
    assert save_all([], tmp_path / "a" / "b", fetch) == []
    assert (tmp_path / "a" / "b").is_dir()


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"mine")
    target = tmp_path / "out"
    target.mkdir()
    os.symlink(outside, target / "a.txt")
    save_all([inline(b"theirs", "a.txt")], target, fetch)
    assert outside.read_bytes() == b"mine"
    assert (target / "a.txt").read_bytes() == b"theirs"


def test_one_that_fails_does_not_stop_the_others_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    torn = inline(b"torn", "torn.txt", hash="sha256:" + "0" * 64)
    with pytest.raises(ArtifactNotSaved, match=r"torn\.txt.*2 of 3") as caught:
        save_all([inline(b"1", "a.txt"), torn, inline(b"2", "b.txt")], tmp_path, fetch)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert [Path(path).name for path in caught.value.paths] == ["a.txt", "b.txt"]


def test_bytes_are_checked_against_what_was_promised() -> None:
    good = hashlib.sha256(b"x").hexdigest()
    assert download_artifact(inline(b"x", hash=f"sha256:{good}")).data == b"x"
    assert download_artifact(inline(b"")).data == b""
    for promise in ({"hash": "sha256:" + "0" * 64}, {"size": 7}):
        with pytest.raises(TransportError, match="damaged"):
            download_artifact(inline(b"x", **promise))
        with pytest.raises(TransportError, match="damaged"):
            fetch_into(inline(b"x", **promise), BytesIO(), None)


@pytest.mark.parametrize(
    "ref", [{"kind": "inline"}, {"kind": "inline", "data": "%"}, {"kind": "cloud"}, {"kind": "file", "channel": "c"}]
)
def test_a_reference_that_cannot_be_followed_is_a_value_error(ref: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="artifact"):
        download_artifact(ref, object())  # type: ignore[arg-type]
