"""Comparing two values of a SQL92 filter as Java does: whole numbers of 32 or 64 bits, doubles, and text as a number.

Source: RocketMQ 5.3 filter/expression/ComparisonExpression.java; ``Integer``, ``Long`` and ``Double.valueOf``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

Meets = Callable[[Any, Any], bool]
"""An operator of Python, such as ``operator.lt``."""
Compare = Callable[[Meets, Any, Any], bool]
"""Applies the operator to two present values. Raises ValueError if they cannot be compared."""

_INTEGER_TEXT = re.compile(r"[+-]?\d+")
_DOUBLE_TEXT = re.compile(
    r"([+-]?(?:NaN|Infinity))|([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)[fFdD]?",
    re.ASCII,
)
_BLANKS = "".join(map(chr, range(33)))


def comparison(left_kind: str, right_kind: str) -> Compare:
    """How two present values of these kinds are compared. Source: ComparisonExpression.__compare."""
    kinds = {left_kind, right_kind}
    if "null" in kinds:  # never two present values
        return lambda meets, left_value, right_value: False
    if kinds == {"bool"}:
        return lambda meets, left_value, right_value: meets(left_value, right_value)
    if "bool" in kinds:
        if kinds != {"bool", "str"}:
            return lambda meets, left_value, right_value: False
        return _text_to_boolean if left_kind == "str" else _boolean_to_text
    if kinds == {"str"} or "double" in kinds:
        return _doubles
    return _longs if "long" in kinds else _ints


def _text_to_boolean(meets: Meets, left: str, right: bool) -> bool:
    return meets(left.lower() == "true", right)


def _boolean_to_text(meets: Meets, left: bool, right: str) -> bool:
    raise ValueError(f"{left} and {right!r}")  # RocketMQ converts only the other way round, and fails here


def _doubles(meets: Meets, left: Any, right: Any) -> bool:
    left, right = _double(left), _double(right)
    if left != right:
        if math.isnan(left) or math.isnan(right):
            return meets(math.isnan(left), math.isnan(right))  # NaN equals itself and is above everything
        return meets(left, right)
    return meets(math.copysign(1.0, left), math.copysign(1.0, right))  # -0.0 is below 0.0


def _ints(meets: Meets, left: Any, right: Any) -> bool:
    return meets(_integer(left, 31), _integer(right, 31))


def _longs(meets: Meets, left: Any, right: Any) -> bool:
    return meets(_integer(left, 63), _integer(right, 63))


def _double(value: Any) -> float:
    """Double.valueOf, but for hexadecimal text. Raises ValueError."""
    if isinstance(value, str):
        found = _DOUBLE_TEXT.fullmatch(value.strip(_BLANKS))
        if found is None:
            raise ValueError(f"{value[:40]!r} is no number")
        value = found[1] or found[2]
    return float(value)


def _integer(value: Any, bits: int) -> int:
    """Integer.valueOf, Long.valueOf. Raises ValueError, also for what does not fit."""
    if isinstance(value, str):
        if _INTEGER_TEXT.fullmatch(value) is None:
            raise ValueError(f"{value[:40]!r} is no whole number")
        value = int(value)
        if not -1 << bits <= value < 1 << bits:
            raise ValueError(f"{value} does not fit into {bits + 1} bits")
    return int(value)
