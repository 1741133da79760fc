"""What a handler may return, and what is said about everything else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from blocks_network.agent.results import Artifact, artifacts_of
from blocks_network.errors import HandlerResultError


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Model:
    """What a pydantic object looks like from outside."""

    def model_dump_json(self) -> str:
        return '{"x":1}'


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, []),
        ({}, []),
        ({"artifacts": []}, []),
        ({"artifacts": None}, []),
        ({"artifacts": [{"data": None}]}, []),
        ("text", [Artifact(b"text", "text/plain")]),
        ("", [Artifact(b"", "text/plain")]),
        (b"\x00", [Artifact(b"\x00")]),
        (bytearray(b"ab"), [Artifact(b"ab")]),
        ({"a": 1}, [Artifact(b'{"a": 1}', "application/json")]),
        (Point(1, 2), [Artifact(b'{"x": 1, "y": 2}', "application/json")]),
        (Model(), [Artifact(b'{"x":1}', "application/json")]),
        ({"artifact": "old", "mimeType": "text/x"}, [Artifact(b"old", "text/x")]),
        (
            {"artifacts": [{"data": "ü", "mimeType": "text/html", "fileName": "a.html", "outputId": "page"}]},
            [Artifact("ü".encode(), "text/html", "a.html", "page")],
        ),
        ({"artifacts": [{"data": b"x", "mimeType": ""}]}, [Artifact(b"x", "application/octet-stream")]),
    ],
)
def test_every_form_becomes_artifacts(result: Any, expected: list[Artifact]) -> None:
    assert artifacts_of(result) == expected


@pytest.mark.parametrize(
    ("result", "named"),
    [
        (42, "int"),
        (object(), "object"),
        ([1, 2], "list"),
        ({"artifacts": "no list"}, "str, not a list"),
        ({"artifacts": ["text"]}, r"artifacts\[0\] is str"),
        ({"artifacts": [{"data": "a"}, {"mime": "b"}]}, r'artifacts\[1\] has no "data"'),
        ({"artifacts": [{"data": 5}]}, r"artifacts\[0\]\.data is int"),
        ({"artifacts": [{"data": "a", "fileName": 5}]}, r"artifacts\[0\]\.fileName is int"),
        ({"a": object()}, "no JSON"),
        ({"a": float("nan")}, "no JSON"),
        (Point, "type"),
    ],
)
def test_nonsense_is_named_with_its_type(result: Any, named: str) -> None:
    with pytest.raises(HandlerResultError, match=named) as raised:
        artifacts_of(result)
    assert isinstance(raised.value, TypeError)


def test_json_keeps_unicode_readable() -> None:
    (artifact,) = artifacts_of({"name": "Ærøskøbing 🙂"})
    assert json.loads(artifact.data) == {"name": "Ærøskøbing 🙂"}
    assert "Ærøskøbing 🙂".encode() in artifact.data
