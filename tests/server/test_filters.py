"""Filter expressions: what they say, what is refused, and that nothing breaks or detains them."""

from __future__ import annotations

import json
import re
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks_network.server.bus import Draft
from blocks_network.server.gateway.filters import FilterError, compile_filter
from blocks_network.server.limits import Limits


def draft(meta: Any = None, data: Any = None, uuid: str = "") -> Draft:
    """A message; `meta` None is published without."""
    return Draft(
        "sub",
        "room",
        json.dumps(data).encode(),
        uuid,
        meta=json.dumps(meta).encode() if meta is not None else None,
    )


def passes(text: str, meta: Any = None, data: Any = None, uuid: str = "") -> bool:
    return compile_filter(text)(draft(meta, data, uuid))


# -- what they say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta.city == 'Rome'", True),
        ('meta.city == "Rome"', True),
        ("'Rome' == meta.city", True),
        ("meta.city == 'rome'", False),
        ("meta.city != 'Paris'", True),
        ('meta["two words"] == 2', True),
        ("meta['two words'] == 2", True),
        ("meta.deep.er['st'] == 'found'", True),
        ("meta.deep.er == 'found'", False),
        ("meta.level > 4 && meta.level <= 5", True),
        ("meta.level < 5 || meta.city LIKE 'R*e'", True),
        ("meta.level >= 5.0", True),
        ("meta.level == 5.0", True),
        ("meta.level == '5'", False),
        ("meta.level > '4'", False),
        ("meta.city > 'A'", False),
        ("meta.city CONTAINS 'om'", True),
        ("meta.city contains 'Om'", False),
        ("meta.city LIKE 'om'", False),
        ("meta.city LIKE '*om*'", True),
        ("meta.like LIKE 'x'", True),
        ("meta.like LIKE 'x*x'", False),
        ("meta.like LIKE '*x*' && meta.like LIKE 'x**'", True),
        ("'aba' LIKE 'ab*ba'", False),
        ("'abba' LIKE 'ab*ba'", True),
        ("!(meta.level == 5)", False),
        ("!!(meta.level == 5)", True),
        ("(meta.level) == (5)", True),
        ("meta.open == true && meta.none == null", True),
        ("meta.open == 1", False),
        ("meta.open == 'true'", False),
        ("data.score * 2 + 1 == 21", True),
        ("data.score - 3 - 2 == 5", True),
        ("data.score / 4 == 2.5", True),
        ("data.score % 3 == 1 && -7 % 3 == -1", True),
        ("data.score & 2 == 2", True),
        ("data.score & 4 | 1 == 1", True),
        ("data.score ^ 0xff == 245", True),
        ("~data.score == -11", True),
        ("1 | 1 ^ 1 == 1", True),
        ("1 & 2 ^ 4 == 4", True),
        ("4 ^ 2 & 1 == 4", True),
        ("1 & 1 + 1 == 0", True),
        ("2 + 3 * 4 == 14", True),
        ("meta.level == 5 || meta.level == 5 && meta.level == 4", True),
        ("-data.score < -9", True),
        ("data.text == 'it\\'s \"so\"'", True),
        ("uuid == 'alice'", True),
        ("uuid != 'bob'", True),
    ],
)
def test_an_expression_says(text: str, expected: bool) -> None:
    meta = {
        "city": "Rome",
        "level": 5,
        "two words": 2,
        "deep": {"er": {"st": "found"}},
        "like": "x",
        "open": True,
        "none": None,
    }
    assert passes(text, meta, {"score": 10, "text": 'it\'s "so"'}, "alice") is expected


def test_the_filters_of_agents_and_streams_say_what_their_authors_mean() -> None:
    for_one = "meta.instance == 'i-1' || meta.broadcast == \"true\""
    assert passes(for_one, {"instance": "i-1"})
    assert passes(for_one, {"broadcast": "true"})
    assert not passes(for_one, {"instance": "i-2"})
    assert not passes(for_one)
    not_mine = "meta.sender != 'me'"
    assert passes(not_mine, {"sender": "you"})
    assert passes(not_mine)
    assert not passes(not_mine, {"sender": "me"})


def test_a_missing_field_makes_every_comparison_false_but_unequal() -> None:
    for sign in ("==", "<", "<=", ">", ">=", "LIKE", "CONTAINS"):
        assert not passes(f"meta.x {sign} 0", {"y": 0})
        assert not passes(f"meta.x {sign} data.x", {"y": 0}, {})
        assert not passes(f"'a' {sign} meta.x.y.z")
    assert passes("meta.x != 0", {"y": 0})
    assert passes("meta.x != meta.z", {"y": 0})


def test_what_has_no_result_counts_as_missing() -> None:
    for text in ("1 / 0", "1 % 0", "1.5 & 1", "meta.word + 1", "~1.5", "-meta.word", "1e308 * 10 % 2"):
        assert not passes(f"{text} == {text}", {"word": "w"}), text
        assert passes(f"{text} != 1", {"word": "w"}), text


def test_a_message_that_is_no_object_has_no_fields_but_a_value() -> None:
    for value in ("text", 7, 7.5, True):
        assert passes(f"data == {json.dumps(value)}", data=value)
        assert not passes("data.x == 1", data=value)
    assert not passes("data == data", data=[1])
    assert not passes("meta.x == 1", meta=["x"])


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "meta == 1",
        "meta.* == 1",
        "data.* LIKE 'a'",
        "meta.a",
        "!meta.a",
        "meta.a && meta.b == 1",
        "meta.a = 1",
        "meta.a == 1 == 1",
        "(meta.a == 1) == true",
        "(meta.a == 1) + 1 == 2",
        "meta.a == 1 &&",
        "|| meta.a == 1",
        "meta.a == (1",
        "meta.a == 1)",
        "meta.a == 'open",
        "meta.a == 1 meta.b == 2",
        "meta. == 1",
        "meta[0] == 1",
        "meta['a' == 1",
        "country == 'it'",
        "meta.a LIKE",
        "meta.a @ 1",
        "meta.a == 1;",
        "__import__('os') == 1",
        "0x == 1",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(FilterError):
        compile_filter(text)


def test_length_and_depth_are_bounded() -> None:
    limits = Limits()

    def compiled(text: str) -> object:
        return compile_filter(text, max_chars=limits.filter_chars, max_depth=limits.filter_depth)

    longest = "1 == 1".ljust(limits.filter_chars)
    assert compiled(longest)
    with pytest.raises(FilterError, match="longer than"):
        compiled(longest + " ")
    depth = limits.filter_depth
    for opening, closing, levels in (("(", ")", 1), ("!", "", 1), ("!(", ")", 2)):
        times = (depth - 1) // levels  # the expression inside brings its own parentheses
        assert compiled(opening * times + "(1 == 1)" + closing * times)
        with pytest.raises(FilterError, match="deeper"):
            compiled(opening * (times + 1) + "(1 == 1)" + closing * (times + 1))


def test_the_deepest_and_the_longest_expressions_are_answered() -> None:
    depth = Limits().filter_depth
    nested = "1"
    for _ in range(depth - 1):
        nested = f"(0|0^7&0+1*{nested})"
    assert passes(f"({nested} == 1 && 1 == 1 || 1 == 2)")
    chain = "+".join(["1"] * 1000)
    assert passes(f"{chain} == 1000")
    assert passes(" || ".join(["1==2"] * 200 + ["1==1"]))


# -- nothing breaks or detains them ------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
WORDS = """meta data uuid meta.a data.b.c meta['a'] ( ) ! ~ - + * / % & | ^ && || == != < <= > >= LIKE CONTAINS true
    null 'a' 'a*' "b" 0 7 2.5 1e400 0xff . [ ]"""
words = st.sampled_from(WORDS.split())


@given(st.text(max_size=80) | st.text(alphabet=st.characters(), max_size=20), json_values)
def test_any_text_is_refused_or_answered(text: str, value: Any) -> None:
    try:
        accepted = compile_filter(text)
    except FilterError:
        return
    assert accepted(draft(value, value, "u")) in (True, False)


@given(st.lists(words, max_size=12), json_values, json_values)
def test_any_words_are_refused_or_answered(parts: list[str], meta: Any, data: Any) -> None:
    try:
        accepted = compile_filter(" ".join(parts))
    except FilterError:
        return
    assert accepted(draft(meta, data, "u")) in (True, False)


class Said(NamedTuple):
    """An expression, how tight its outermost sign binds, and its value."""

    text: str
    binding: int
    value: int


SIGNS = {"|": 0, "^": 1, "&": 2, "+": 3, "-": 3, "*": 4}


def joined(left: Said, sign: str, right: Said) -> Said:
    """With parentheses only where precedence and left association need them."""
    binding = SIGNS[sign]
    first = left.text if left.binding >= binding else f"({left.text})"
    second = right.text if right.binding > binding else f"({right.text})"
    calculate = {
        "|": int.__or__,
        "^": int.__xor__,
        "&": int.__and__,
        "+": int.__add__,
        "-": int.__sub__,
        "*": int.__mul__,
    }[sign]
    return Said(f"{first} {sign} {second}", binding, calculate(left.value, right.value))


sums = st.recursive(
    st.integers(0, 9).map(lambda number: Said(str(number), 9, number)),
    lambda inner: st.builds(joined, inner, st.sampled_from(sorted(SIGNS)), inner),
    max_leaves=12,
)


@given(sums)
def test_arithmetic_has_one_meaning(said: Said) -> None:
    assert passes(f"{said.text} == data", data=said.value)
    assert not passes(f"{said.text} == data", data=said.value + 1)


def either(left: Said, sign: str, right: Said) -> Said:
    binding = 0 if sign == "||" else 1
    first = left.text if left.binding >= binding else f"({left.text})"
    second = right.text if right.binding > binding else f"({right.text})"
    value = left.value or right.value if sign == "||" else left.value and right.value
    return Said(f"{first}{sign}{second}", binding, value)


def denied(inner: Said) -> Said:
    return Said(f"!{inner.text}" if inner.binding == 3 else f"!({inner.text})", 3, not inner.value)


tests = st.recursive(
    st.sampled_from([Said("meta.a == 1", 2, True), Said("meta.b != 2", 2, False), Said("meta.c < 3", 2, False)]),
    lambda inner: st.builds(either, inner, st.sampled_from(["&&", "||"]), inner) | inner.map(denied),
    max_leaves=12,
)


@given(tests)
def test_logic_has_one_meaning(said: Said) -> None:
    assert passes(said.text, {"a": 1, "b": 2}) is bool(said.value)


@given(st.text("ab", max_size=12), st.text("ab*", max_size=8))
def test_a_star_stands_for_any_characters(text: str, pattern: str) -> None:
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", "[ab]*"), text) is not None
    assert passes("data LIKE meta.pattern", {"pattern": pattern}, text) is expected


@given(st.text(max_size=20))
def test_every_text_can_be_asked_for(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    assert passes(f"data == '{escaped}'", data=text)
    assert passes(f"meta['{escaped}'] == 1", {text: 1})


def test_a_message_that_cannot_be_read_has_no_fields() -> None:
    endless = b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    assert not compile_filter("data.a == 1")(Draft("sub", "room", endless))
    assert compile_filter("meta.b == 1")(Draft("sub", "room", endless, meta=b'{"b":1}'))


def test_numbers_do_not_grow() -> None:
    huge = b'{"a":' + b"9" * 20_000 + b',"b":9223372036854775807}'
    message = Draft("sub", "room", huge)
    product = "*".join(["data.a"] * 200)
    assert compile_filter(f"{product} > 1")(message)
    assert compile_filter("data.b * data.b > 8e37")(message)
    assert compile_filter("data.b == 9223372036854775807 && data.b != 9223372036854775806")(message)


def test_the_slowest_expressions_take_milliseconds() -> None:
    text = "a" * 30_000
    pattern = "'" + "*".join(["aab"] * 100) + "*'"
    slow = " || ".join([f"data LIKE {pattern}"] * 4 + ["data CONTAINS 'aaaaaaaaab'"] * 10)
    assert len(slow) <= Limits().filter_chars
    accepted, message = compile_filter(slow), draft(data=text)
    accepted(message)
    began = time.perf_counter()
    assert not accepted(message)
    assert time.perf_counter() - began < 0.5
