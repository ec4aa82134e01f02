"""Compiles each rule of the SQL92 grammar to a closure from a message's property string to a value.

Source: RocketMQ 5.3 filter/expression/*.java.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ...protocol.properties import find_property
from .java_compare import comparison

if TYPE_CHECKING:
    from lark import Token

MAX_DEPTH = 64
"""Nested operators; an ``AND`` or ``OR`` chain of any length counts as one."""

Evaluate = Callable[[str], Any]
"""A compiled (sub)expression: property string -> str, int, float, bool, or None for unknown. Raises ValueError when the
message has a value that cannot be compared."""

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TEXT_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "CONTAINS": operator.contains,
    "STARTSWITH": str.startswith,
    "ENDSWITH": str.endswith,
}


class IllegalExpressionError(Exception):
    """An expression that the grammar allows and the language does not; ``at``: where, from 0."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.at = at


class Operand(msgspec.Struct, frozen=True, eq=False):
    """A compiled (sub)expression.

    Attributes:
        kind: result of ``evaluate`` besides None: "str", "int" (32 bit), "long", "double", "bool", "null" (only None).
        role: "property", "constant" or "" (computed); Java's classes, on which RocketMQ's checks depend.
        constant: the value, of a constant.
        at: where it begins in the expression.
        depth: number of nested operators.
    """

    kind: str
    evaluate: Evaluate
    role: str = ""
    constant: Any = None
    at: int = 0
    depth: int = 1


def _computed(kind: str, evaluate: Evaluate, *operands: Operand) -> Operand:
    depth = max(operand.depth for operand in operands) + 1
    if depth > MAX_DEPTH:
        raise IllegalExpressionError(f"more than {MAX_DEPTH} operators inside one another", operands[0].at)
    return Operand(kind, evaluate, at=operands[0].at, depth=depth)


def _constant(kind: str, value: Any, at: int) -> Operand:
    return Operand(kind, lambda properties: value, "constant", value, at)


def condition(operand: Operand) -> Operand:
    """An operand where the grammar needs a condition. A property is accepted, but it is text and so never true."""
    if operand.kind == "bool" or (operand.role == "constant" and operand.kind == "null"):
        return operand
    if operand.role != "property":
        raise IllegalExpressionError("a value stands where a condition is needed,", operand.at)
    evaluate = operand.evaluate
    return _computed("bool", lambda properties: None if evaluate(properties) is None else False, operand)


class Compiler:
    """One method per rule of the grammar, called bottom-up while it parses."""

    # --- values --------------------------------------------------------------------------------------------------

    @staticmethod
    def property_(name: Token) -> Operand:
        key = str(name)
        return Operand("str", lambda properties: find_property(properties, key) or None, "property", at=_at(name))

    @staticmethod
    def string(text: Token) -> Operand:
        return _constant("str", _unquoted(text), _at(text))

    @staticmethod
    def decimal(text: Token) -> Operand:
        value = int(text.rstrip("lL")) if len(text) < 25 else 1 << 63
        if value >= 1 << 63:
            raise IllegalExpressionError("a whole number above 9223372036854775807", _at(text))
        return _constant("int" if value < 1 << 31 else "long", value, _at(text))

    @staticmethod
    def float_(text: Token) -> Operand:
        value = float(text)
        if math.isinf(value) or value == 0.0:
            raise IllegalExpressionError("a floating-point number outside 4.9E-324..1.7976931348623157E308", _at(text))
        return _constant("double", value, _at(text))

    @staticmethod
    def true(*word: Token) -> Operand:
        return _constant("bool", True, _at(*word))

    @staticmethod
    def false(*word: Token) -> Operand:
        return _constant("bool", False, _at(*word))

    @staticmethod
    def null(*word: Token) -> Operand:
        return _constant("null", None, _at(*word))

    @staticmethod
    def unary(operand: Operand) -> Operand:  # "+", which changes nothing
        return operand

    @staticmethod
    def negate(operand: Operand) -> Operand:
        if operand.kind not in ("int", "long", "double"):  # text is not a number before it is compared with one
            return _computed("null", lambda properties: None, operand)
        value = -operand.evaluate("")  # numbers do not depend on the message
        return _computed(operand.kind, lambda properties: value, operand)

    # --- logic ---------------------------------------------------------------------------------------------------

    @staticmethod
    def or_(*operands: Operand) -> Operand:
        return _logic(operands, decisive=True)

    @staticmethod
    def and_(*operands: Operand) -> Operand:
        return _logic(operands, decisive=False)

    @staticmethod
    def not_(operand: Operand) -> Operand:
        return _not(condition(operand))

    # --- comparisons ---------------------------------------------------------------------------------------------

    @staticmethod
    def order(left: Operand, symbol: Token, right: Operand) -> Operand:
        return _order(str(symbol), left, right, _at(symbol))

    @staticmethod
    def equal(left: Operand, symbol: Token, right: Operand) -> Operand:
        for operand in (left, right):
            if operand.role == "constant" and operand.kind == "null":
                raise IllegalExpressionError("NULL cannot be compared; write IS NULL or IS NOT NULL", _at(symbol))
        if left.role == right.role == "constant" and left.kind == "bool" != right.kind:
            raise IllegalExpressionError("a boolean cannot be compared with this", _at(symbol))
        return _computed("bool", _equal(left, right), left, right)

    @staticmethod
    def not_equal(left: Operand, symbol: Token, right: Operand) -> Operand:
        return _not(Compiler.equal(left, symbol, right))

    @staticmethod
    def is_null(operand: Operand) -> Operand:
        evaluate = operand.evaluate
        return _computed("bool", lambda properties: evaluate(properties) is None, operand)

    @staticmethod
    def is_not_null(operand: Operand) -> Operand:
        return _not(Compiler.is_null(operand))

    @staticmethod
    def between(value: Operand, word: Token, low: Operand, high: Operand) -> Operand:
        bounds = _order(">=", value, low, _at(word)), _order("<=", value, high, _at(word))
        if low.role == high.role == "constant":
            greater = comparison(low.kind, high.kind)(operator.gt, low.constant, high.constant)
            if greater:
                problem = f"BETWEEN {low.constant} AND {high.constant}: the lower bound comes first"
                raise IllegalExpressionError(problem, _at(word))
        return _logic(bounds, decisive=False)

    @staticmethod
    def not_between(value: Operand, word: Token, low: Operand, high: Operand) -> Operand:
        return _logic((_order("<", value, low, _at(word)), _order(">", value, high, _at(word))), decisive=True)

    @staticmethod
    def in_(left: Operand, word: Token, *texts: Token) -> Operand:
        return _in(left, word, texts, negated=False)

    @staticmethod
    def not_in(left: Operand, word: Token, *texts: Token) -> Operand:
        return _in(left, word, texts, negated=True)

    @staticmethod
    def text(left: Operand, word: Token, text: Token) -> Operand:
        return _text(left, word, text, negated=False)

    @staticmethod
    def not_text(left: Operand, word: Token, text: Token) -> Operand:
        return _text(left, word, text, negated=True)


def _at(*tokens: Token) -> int:
    return (tokens[0].start_pos or 0) if tokens else 0


def _unquoted(text: Token) -> str:
    return text[1:-1].replace("''", "'")


def _not(operand: Operand) -> Operand:
    evaluate = operand.evaluate

    def not_(properties: str) -> bool | None:
        value = evaluate(properties)
        return None if value is None else value is not True

    return _computed("bool", not_, operand)


def _logic(operands: tuple[Operand, ...], *, decisive: bool) -> Operand:
    """OR (decided by the first true) or AND (by the first false); else unknown if an operand is unknown."""
    conditions = tuple(condition(operand) for operand in operands)
    evaluates = [condition.evaluate for condition in conditions]

    def logic(properties: str) -> bool | None:
        result: bool | None = not decisive
        for evaluate in evaluates:
            value: bool | None = evaluate(properties)
            if value is decisive:
                return decisive
            if value is None:
                result = None
        return result

    return _computed("bool", logic, *conditions)


def _order(symbol: str, left: Operand, right: Operand, at: int) -> Operand:
    for operand in (left, right):
        if operand.kind == "bool" or (operand.role == "constant" and operand.kind in ("str", "null")):
            raise IllegalExpressionError(f"{symbol} compares numbers only, and one side is not a number", at)
    compare, meets = comparison(left.kind, right.kind), _ORDERS[symbol]
    evaluate_left, evaluate_right = left.evaluate, right.evaluate

    def order(properties: str) -> bool | None:
        left_value = evaluate_left(properties)
        if left_value is None:
            return None
        right_value = evaluate_right(properties)
        if right_value is None:
            return None
        return compare(meets, left_value, right_value)

    return _computed("bool", order, left, right)


def _equal(left: Operand, right: Operand) -> Evaluate:
    evaluate_left, evaluate_right = left.evaluate, right.evaluate
    both_text = left.kind == right.kind == "str"
    compare = comparison(left.kind, right.kind)

    def equal(properties: str) -> bool | None:
        left_value, right_value = evaluate_left(properties), evaluate_right(properties)
        if left_value is None or right_value is None:
            # Not symmetrical in RocketMQ: a missing left side is unknown, a missing right side alone is false.
            return True if right_value is left_value else None if left_value is None else False
        if both_text:
            return bool(left_value == right_value)
        return compare(operator.eq, left_value, right_value)

    return equal


def _in(left: Operand, word: Token, texts: tuple[Token, ...], *, negated: bool) -> Operand:
    if left.role != "property":
        raise IllegalExpressionError("IN needs a property on its left", _at(word))
    wanted = frozenset(_unquoted(text) for text in texts)
    evaluate = left.evaluate

    def in_(properties: str) -> bool | None:
        value = evaluate(properties)
        return None if value is None else (value in wanted) is not negated

    return _computed("bool", in_, left)


def _text(left: Operand, word: Token, text: Token, *, negated: bool) -> Operand:
    """CONTAINS and the like: never unknown; false, negated or not, if the value is not text or the search is empty."""
    search, has = _unquoted(text), _TEXT_OPERATORS[word.upper()]
    evaluate = left.evaluate

    def text_(properties: str) -> bool:
        value = evaluate(properties)
        return isinstance(value, str) and search != "" and has(value, search) is not negated

    return _computed("bool", text_, left)
