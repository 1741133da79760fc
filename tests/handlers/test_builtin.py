"""The built-in handlers' tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blocks_network.handlers import adder_handler, echo_handler
from blocks_network.types import RequestPart, StartTaskMessage


def task(*parts: Any) -> StartTaskMessage:
    return StartTaskMessage(task_id="t", request_parts=list(parts))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([RequestPart(text="Hello")], "Hello"),
        ([RequestPart(text="")], ""),
        ([RequestPart(part_id="a"), RequestPart(text="second")], "second"),
        ([{"text": "dict"}], "dict"),
        (["plain"], "plain"),
        ([], "[]"),
        ([RequestPart(part_id="é", extra={"k": 1})], '[{"partId": "\\u00e9", "k": 1}]'),
    ],
)
def test_echo(parts: list[Any], expected: str) -> None:
    (artifact,) = echo_handler(task(*parts))["artifacts"]
    assert artifact == {"data": f"Echoed request: {expected}", "mimeType": "text/plain"}


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([RequestPart(text='{"a": 2, "b": 40}')], 42),
        ([RequestPart(text='{"kind": "math_add", "a": 1.5, "b": 1}')], 2.5),
        ([RequestPart(text='{"kind": null, "a": 1, "b": 1}')], 2),
        ([RequestPart(extra={"a": 1, "b": 2})], 3),
        ([{"a": 1, "b": 2}], 3),
        (["no json", RequestPart(text='{"a": 1, "b": 2}')], 3),
        ([RequestPart(text='{"kind": "other", "a": 9, "b": 9}'), RequestPart(text='{"a": 1, "b": 2}')], 3),
        ([RequestPart(text=f'{{"a": {10**400}, "b": 1}}')], 10**400 + 1),
    ],
)
def test_adder_adds(parts: list[Any], total: float) -> None:
    (artifact,) = adder_handler(task(*parts))["artifacts"]
    answer = json.loads(artifact["data"])
    assert list(answer) == ["ok", "a", "b", "sum"]
    assert (answer["ok"], answer["sum"]) == (True, total)


@pytest.mark.parametrize(
    "part",
    [
        RequestPart(text="Hello"),
        RequestPart(text='{"a": true, "b": 1}'),
        RequestPart(text='{"a": NaN, "b": 1}'),
        RequestPart(text='{"a": 1e308, "b": 1e308}'),
        RequestPart(text=f'{{"a": {10**400}, "b": 1.5}}'),
        RequestPart(text='{"a": 1}'),
        RequestPart(text="[1, 2]"),
        RequestPart(text="", extra={"a": 1, "b": 2}),
        RequestPart(text='{"kind": "math_sub", "a": 1, "b": 2}'),
    ],
)
def test_adder_says_what_it_misses(part: RequestPart) -> None:
    (artifact,) = adder_handler(task(part))["artifacts"]
    answer = json.loads(artifact["data"])
    assert answer == {
        "ok": False,
        "error": "Missing math_add request with numeric a and b",
        "input": [part.to_dict()],
    }


def test_no_parts_at_all() -> None:
    (artifact,) = adder_handler(task())["artifacts"]
    assert json.loads(artifact["data"])["input"] == []
