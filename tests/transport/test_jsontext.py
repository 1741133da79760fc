"""JSON is read and written the same with the faster library as without it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks_network import jsontext

TEXTS = [
    b'"\\ud800"',
    b'"\xff"',
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-0",
    b"01",
    b"1.",
    b"[1,]",
    b'{"a":1,"a":2}',
    b"[1] x",
    b"",
    b" ",
    b"\xef\xbb\xbf1",
    b'"a\nb"',
    b'"\x7f"',
    b"18446744073709551616",
    b"9" * 5_000,
    b"[" * 100_000,
    b"5e-324",
    b"123456789.123456789123456789",
    b'"\\u0000"',
    b"tru",
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.fixture(params=[True, False], ids=["msgspec", "json"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(jsontext, "_FASTER", None)
    else:
        assert jsontext._FASTER is not None, "the tests need the extra `fast`, which `dev` brings"
    return bool(request.param)


def outcome(read: Any, text: bytes) -> tuple[Any, ...]:
    try:
        value = read(text)
    except (ValueError, RecursionError) as fault:
        return type(fault), None
    return type(value), repr(value)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_whatever_is_read_is_what_json_reads(library: bool, text: bytes) -> None:
    assert outcome(jsontext.decode, text) == outcome(json.loads, text)


@given(text=st.binary(max_size=40) | st.text(alphabet='0123456789.eE+-[]{}",:tfn \\u').map(str.encode))
def test_so_is_any_other_text(text: bytes) -> None:
    assert outcome(jsontext.decode, text) == outcome(json.loads, text)


@given(value=values)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    written = jsontext.encode_plain(value)
    if written is None:  # left to json: not every number and text can be written as JSON in UTF-8
        with pytest.raises(ValueError):
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        return
    assert repr(json.loads(written)) == repr(value)


class Text(str):
    """May want to be written in another way."""


@pytest.mark.parametrize(
    "value", [math.nan, {"a": math.inf}, [b"bytes"], {1: 2}, {1, 2}, Text("a"), {Text("a"): 1}, object(), (1, 2)]
)
def test_what_json_writes_in_a_way_of_its_own_or_not_at_all_is_left_to_it(value: Any) -> None:
    assert jsontext.encode_plain(value) is None
    assert jsontext.encode_plain({"deep": [value]}) is None


def test_what_holds_itself_is_left_to_json() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert jsontext.encode_plain(endless) is None


class Older(Exception):
    """The faults of versions before 0.21."""


@pytest.mark.parametrize("found", [ImportError("wrong binary"), SimpleNamespace(DecodeError=Older)])
def test_a_library_that_is_broken_or_too_old_is_not_used(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(jsontext, "import_module", import_module)
    assert jsontext._faster() is None


def test_without_the_library_all_is_left_to_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsontext, "_FASTER", None)
    assert jsontext.encode_plain({"a": 1}) is None
