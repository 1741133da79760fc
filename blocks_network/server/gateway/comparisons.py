"""What the signs of a filter expression do. Every operation takes any value and gives one; none raises.

Values are what JSON has, with whole numbers of 64 bits and floating ones beyond, and MISSING for what is not there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

__all__ = ["ARITHMETIC", "COMPARISONS", "MISSING", "minus", "narrow", "whole", "xor"]

MISSING = object()
"""Neither equal to anything nor unequal to nothing: what a message does not have, or what has no result."""
INT64_MAX = 2**63 - 1
INT64_DIGITS = 19


def whole(digits: str) -> int | float:
    """Without a limit on its digits: a number that is no 64-bit one is a floating one."""
    return narrow(int(digits)) if len(digits) <= INT64_DIGITS + 1 else float(digits)


def narrow(value: int | float) -> int | float:
    if isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
        return float(value)
    return value


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right) and not (_is_number(left) and _is_number(right)):
        return False
    return left is not MISSING and not isinstance(left, dict | list) and bool(left == right)


def _unequal(left: Any, right: Any) -> bool:
    return not _equal(left, right)


def _ordered(comparison: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda left, right: _is_number(left) and _is_number(right) and comparison(left, right)


def _contains(left: Any, right: Any) -> bool:
    return isinstance(left, str) and isinstance(right, str) and right in left


def _like(left: Any, right: Any) -> bool:
    """Takes the first place for each piece between stars, which is never worse than a later one."""
    if not (isinstance(left, str) and isinstance(right, str)):
        return False
    head, *pieces = right.split("*")
    if not pieces:
        return left == right
    tail = pieces.pop()
    if not (left.startswith(head) and left.endswith(tail)):
        return False
    at, end = len(head), len(left) - len(tail)
    for piece in pieces:
        found = left.find(piece, at, end) if at <= end else -1
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": _unequal,
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "LIKE": _like,
    "CONTAINS": _contains,
}


def _numeric(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def calculate(left: Any, right: Any) -> Any:
        if not (_is_number(left) and _is_number(right)):
            return MISSING
        try:
            return narrow(operation(left, right))
        except (ArithmeticError, ValueError):
            return MISSING

    return calculate


def _bitwise(operation: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    return lambda left, right: operation(left, right) if type(left) is int and type(right) is int else MISSING


def _remainder(left: float, right: float) -> float:
    """With the sign of the dividend; whole numbers stay exact."""
    if isinstance(left, int) and isinstance(right, int):
        return abs(left) % abs(right) * (1 if left >= 0 else -1)
    return math.fmod(left, right)


minus, xor = _numeric(operator.sub), _bitwise(operator.xor)
ARITHMETIC: tuple[dict[str, Callable[[Any, Any], Any]], ...] = (
    {"|": _bitwise(operator.or_)},
    {"^": xor},
    {"&": _bitwise(operator.and_)},
    {"+": _numeric(operator.add), "-": minus},
    {"*": _numeric(operator.mul), "/": _numeric(operator.truediv), "%": _numeric(_remainder)},
)
