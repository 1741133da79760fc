"""Filter expressions of subscribe: parsed once for each text, asked for each message.

    any       = all ("||" all)*
    all       = test ("&&" test)*
    test      = "!" test | "(" any ")" | sum comparison sum
    value     = field | "text" | 'text' | number | true | false | null | "(" value ")" | ("-" | "~") value
    field     = ("meta" | "data" | "uuid") ("." name | "[" text "]")*

`meta` is what was published beside the message, `data` the message, `uuid` its publisher. Comparisons are `== != < <=
> >= LIKE CONTAINS`; between values, from tight to loose: `* / %`, `+ -`, `&`, `^`, `|`, all tighter than a comparison.

- Equality holds between values of one type; `!=` is its contrary, so it holds for a missing field. Every other
  comparison with a missing field, or of types that it is not for, is false.
- Order and arithmetic are for numbers, bits for whole ones; what has no result (division by zero) counts as missing.
- `LIKE` compares whole texts, `*` standing for any characters; `CONTAINS` looks for a text in a text.
- `meta` alone, or a value where a test belongs, is refused.

A text has a bounded length and depth, so an evaluation takes bounded time; numbers are 64 bits wide or floating, so
none grows. Nothing of a message makes an evaluation fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from blocks_network.server.bus import Draft
from blocks_network.server.gateway.comparisons import ARITHMETIC, COMPARISONS, MISSING, minus, narrow, whole, xor

__all__ = ["Filter", "FilterError", "compile_filter"]

Filter = Callable[[Draft], bool]
"""A compiled filter expression: whether it lets a message pass."""
Value = Callable[[Draft], Any]
"""Gives a text, a number, a truth value, None, something that no comparison is for, or MISSING."""

DECODED_REMEMBERED = 32
"""Payloads and metas: one message is asked about by many filters in a row."""


class FilterError(ValueError):
    """The text is no filter expression; the message says where."""


def compile_filter(text: str, *, max_chars: int = 2_048, max_depth: int = 32) -> Filter:
    """Raises FilterError, also for a text longer than `max_chars` or with more than `max_depth` levels of nesting."""
    if len(text) > max_chars:
        raise FilterError(f"longer than {max_chars} characters")
    return _Parser(_tokens(text), max_depth).whole()


# -- tokens ----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number> 0[xX][0-9a-fA-F]{1,16} | (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})? )
      | (?P<name> [^\W\d]\w* )
      | (?P<text> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
      | (?P<sign> \|\| | && | == | != | <= | >= | [<>!()\[\].+\-*/%&|^~] )
      | (?P<end> \Z )
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class _Token(NamedTuple):
    kind: str
    """number, name, text, sign or end."""
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"cannot be read from character {at} on")
        kind = match.lastgroup or ""
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return tokens


# -- the grammar -----------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent. `_depth` counts what is open: parentheses and signs in front."""

    def __init__(self, tokens: list[_Token], max_depth: int) -> None:
        self._tokens, self._max_depth = tokens, max_depth
        self._next = 0
        self._depth = 0

    def whole(self) -> Filter:
        test = self._as_test(self._any())
        if self._token.kind != "end":
            raise self._unexpected()
        return test

    def _any(self) -> _Test | _Operand:
        first = self._all()
        if self._token.text != "||" or self._token.kind != "sign":
            return first
        tests = [self._as_test(first)]
        while self._took("||"):
            tests.append(self._as_test(self._all()))
        return _Test(_any_of(tuple(tests)))

    def _all(self) -> _Test | _Operand:
        first = self._comparison()
        if self._token.text != "&&" or self._token.kind != "sign":
            return first
        tests = [self._as_test(first)]
        while self._took("&&"):
            tests.append(self._as_test(self._comparison()))
        return _Test(_all_of(tuple(tests)))

    def _comparison(self) -> _Test | _Operand:
        left = self._chain(0)
        comparison = self._comparison_sign()
        if comparison is None:
            return left
        right = self._chain(0)
        return _Test(_compared(comparison, self._as_value(left), self._as_value(right)))

    def _comparison_sign(self) -> Callable[[Any, Any], bool] | None:
        token = self._token
        comparison = COMPARISONS.get(token.text.upper()) if token.kind in ("sign", "name") else None
        if comparison is not None:
            self._next += 1
        return comparison

    def _chain(self, level: int) -> _Test | _Operand:
        """Operands joined by the signs of one level, from left to right; a level lower binds tighter."""
        if level == len(ARITHMETIC):
            return self._signed()
        first = self._chain(level + 1)
        signs, rest = ARITHMETIC[level], []
        while self._token.kind == "sign" and self._token.text in signs:
            sign = signs[self._token.text]
            self._next += 1
            rest.append((sign, self._as_value(self._chain(level + 1))))
        return _Operand(_calculated(self._as_value(first), tuple(rest))) if rest else first

    def _signed(self) -> _Test | _Operand:
        if self._token.kind == "sign" and self._token.text in ("!", "-", "~"):
            self._deepen()
            sign = self._token.text
            self._next += 1
            found = self._signed()
            self._depth -= 1
            if sign == "!":
                return _Test(_denied(self._as_test(found)))
            zero, operation = (0, minus) if sign == "-" else (-1, xor)
            return _Operand(_calculated(_constant(zero), ((operation, self._as_value(found)),)))
        return self._primary()

    def _primary(self) -> _Test | _Operand:
        token = self._token
        if self._took("("):
            self._deepen()
            found = self._any()
            self._expect(")")
            self._depth -= 1
            return found
        self._next += 1
        if token.kind == "number":
            return _Operand(_constant(_number(token.text)))
        if token.kind == "text":
            return _Operand(_constant(_unquoted(token.text)))
        if token.kind == "name" and token.text in LITERALS:
            return _Operand(_constant(LITERALS[token.text]))
        if token.kind == "name" and token.text in ROOTS:
            return self._field(token)
        self._next -= 1
        raise self._unexpected()

    def _field(self, root: _Token) -> _Operand:
        path: list[str] = []
        while True:
            if self._took("."):
                if self._token.kind != "name":
                    raise self._unexpected()
                path.append(self._token.text)
                self._next += 1
            elif self._took("["):
                if self._token.kind != "text":
                    raise self._unexpected()
                path.append(_unquoted(self._token.text))
                self._next += 1
                self._expect("]")
            else:
                break
        if root.text == "meta" and not path:
            raise FilterError("meta alone has no value: name a field of it")
        return _Operand(_looked_up(ROOTS[root.text], tuple(path)) if path else ROOTS[root.text])

    # -- where it stands -----------------------------------------------------------------------------------------

    @property
    def _token(self) -> _Token:
        return self._tokens[min(self._next, len(self._tokens) - 1)]

    def _took(self, sign: str) -> bool:
        taken = self._token.kind == "sign" and self._token.text == sign
        self._next += taken
        return taken

    def _expect(self, sign: str) -> None:
        if not self._took(sign):
            raise self._unexpected()

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > self._max_depth:
            raise FilterError(f"nested deeper than {self._max_depth}")

    def _unexpected(self) -> FilterError:
        token = self._token
        what = f"{token.text[:20]!r} at character {token.at} is not expected" if token.text else "ends early"
        return FilterError(what)

    def _as_test(self, found: _Test | _Operand) -> Filter:
        if isinstance(found, _Operand):
            raise FilterError(f"a value stands before character {self._token.at} where a comparison belongs")
        return found.ask

    def _as_value(self, found: _Test | _Operand) -> Value:
        if isinstance(found, _Test):
            raise FilterError(f"a comparison stands before character {self._token.at} where a value belongs")
        return found.of


class _Test(NamedTuple):
    ask: Filter


class _Operand(NamedTuple):
    of: Value


def _unquoted(text: str) -> str:
    return _ESCAPED.sub(r"\1", text[1:-1])


def _number(text: str) -> int | float:
    if text[:2] in ("0x", "0X"):
        return narrow(int(text, 16))
    return whole(text) if text.isdigit() else float(text)


# -- what is asked for each message ----------------------------------------------------------------------------------


def _any_of(tests: tuple[Filter, ...]) -> Filter:
    def ask(draft: Draft) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost more than the tests
            if test(draft):
                return True
        return False

    return ask


def _all_of(tests: tuple[Filter, ...]) -> Filter:
    def ask(draft: Draft) -> bool:
        for test in tests:  # noqa: SIM110
            if not test(draft):
                return False
        return True

    return ask


def _denied(test: Filter) -> Filter:
    return lambda draft: not test(draft)


def _compared(comparison: Callable[[Any, Any], bool], left: Value, right: Value) -> Filter:
    return lambda draft: comparison(left(draft), right(draft))


def _calculated(first: Value, rest: tuple[tuple[Callable[[Any, Any], Any], Value], ...]) -> Value:
    def of(draft: Draft) -> Any:
        value = first(draft)
        for operation, operand in rest:
            value = operation(value, operand(draft))
        return value

    return of


def _constant(value: Any) -> Value:
    return lambda draft: value


def _looked_up(root: Value, path: tuple[str, ...]) -> Value:
    def of(draft: Draft) -> Any:
        value = root(draft)
        for name in path:
            if not isinstance(value, dict):
                return MISSING
            value = value.get(name, MISSING)
        return value

    return of


def _meta(draft: Draft) -> Any:
    return MISSING if draft.meta is None else _decoded(draft.meta)


def _data(draft: Draft) -> Any:
    return _decoded(draft.payload)


def _uuid(draft: Draft) -> Any:
    return draft.publisher or MISSING


ROOTS: dict[str, Value] = {"meta": _meta, "data": _data, "uuid": _uuid}
LITERALS = {"true": True, "false": False, "null": None}


@lru_cache(maxsize=DECODED_REMEMBERED)
def _decoded(text: bytes) -> Any:
    """The JSON; missing when it is nested deeper than can be read."""
    try:
        return json.loads(text, parse_int=whole)
    except (ValueError, RecursionError):
        return MISSING
