"""SQL92 filters: RocketMQ's condition language on message properties, parsed once and compiled to Python closures.

The language is RocketMQ's and not a dialect of SQL: ``NOT`` binds tighter than a comparison, ``IN`` takes strings only,
``CONTAINS``, ``STARTSWITH`` and ``ENDSWITH`` are operators. A property is text or missing; text is compared with a
number as a number. Logic is three-valued, and what cannot be compared (``'abc' > 5``) leaves the message unmatched.

Source: RocketMQ 5.3 filter/parser/SelectorParser.jj, filter/expression/*.java, broker/filter/ExpressionMessageFilter.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ...errors import SubscriptionParseFailedError
from ...protocol.properties import find_property
from ...protocol.record import record_properties_start
from .subscription import FIRST_SHARE

if TYPE_CHECKING:
    from lark import Lark, Token

MAX_EXPRESSION_CHARS = 4096
"""Longer expressions are refused: parsing happens on the broker's event loop (a full one takes some 20 ms, once)."""
MAX_DEPTH = 64
"""Operators inside one another; ``AND`` and ``OR`` chains of any length count as one."""

Evaluate = Callable[[str], Any]
"""A compiled (sub)expression: property string -> str, int, float, bool, or None for unknown. Raises ValueError when the
message has a value that cannot be compared."""

_GRAMMAR = r"""
?start: or_
?or_: and_ (_OR and_)*
?and_: equality (_AND equality)*
?equality: comparison
    | equality EQUAL comparison -> equal
    | equality NOT_EQUAL comparison -> not_equal
    | equality _IS _NULL -> is_null
    | equality _IS _NOT _NULL -> is_not_null
?comparison: unary
    | comparison ORDER unary -> order
    | comparison (CONTAINS | STARTSWITH | ENDSWITH) STRING -> text
    | comparison _NOT (CONTAINS | STARTSWITH | ENDSWITH) STRING -> not_text
    | comparison BETWEEN unary _AND unary -> between
    | comparison _NOT BETWEEN unary _AND unary -> not_between
    | comparison IN "(" STRING ("," STRING)* ")" -> in_
    | comparison _NOT IN "(" STRING ("," STRING)* ")" -> not_in
?unary: primary
    | "+" unary
    | "-" unary -> negate
    | _NOT unary -> not_
?primary: "(" or_ ")"
    | STRING -> string
    | DECIMAL -> decimal
    | FLOAT -> float_
    | "TRUE"i -> true
    | "FALSE"i -> false
    | _NULL -> null
    | PROPERTY -> property_

_OR: "OR"i
_AND: "AND"i
_NOT: "NOT"i
_IS: "IS"i
_NULL: "NULL"i
BETWEEN: "BETWEEN"i
IN: "IN"i
CONTAINS: "CONTAINS"i
STARTSWITH: "STARTSWITH"i
ENDSWITH: "ENDSWITH"i
EQUAL: "="
NOT_EQUAL.2: "<>"
ORDER: ">=" | "<=" | ">" | "<"
FLOAT.2: /(\d+\.\d*|\.\d+)(e[+-]?\d+)?|\d+e[+-]?\d+/i
DECIMAL: /0|[1-9]\d*l?/i
STRING: /'([^']|'')*'/
PROPERTY: /[a-z_$][a-z0-9_$]*/i

%ignore /[ \t\n\r\f]+/
%ignore /--[^\n\r]*[\n\r]/
%ignore /\/\*[^*]*\*(\*|[^*\/][^*]*\*)*\//
"""
_INTEGER_TEXT = re.compile(r"[+-]?\d+")
_DOUBLE_TEXT = re.compile(
    r"([+-]?(?:NaN|Infinity))|([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)[fFdD]?",
    re.ASCII,
)
_BLANKS = "".join(map(chr, range(33)))
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


class SqlFilter:
    """A compiled SQL92 expression."""

    __slots__ = ("_evaluate", "expression", "share")

    def __init__(self, expression: str, evaluate: Evaluate) -> None:
        self.expression = expression
        self._evaluate = evaluate
        self.share = FIRST_SHARE

    def matches(self, record: bytes) -> bool:
        """Whether a stored record's properties make the expression true: not false, unknown or impossible."""
        return self.matches_properties(record[record_properties_start(record) :].decode(errors="replace"))

    def matches_properties(self, properties: str) -> bool:
        """The same for a property string. Raises nothing."""
        try:
            return self._evaluate(properties) is True
        except ValueError:
            return False


def compile_sql(expression: str) -> SqlFilter:
    """Parses and compiles.

    Raises:
        SubscriptionParseFailedError: not an expression of the language, or too long or deep; names the place.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise SubscriptionParseFailedError(
            f"the SQL92 expression has {len(expression)} characters; at most {MAX_EXPRESSION_CHARS} are allowed"
        )
    import lark  # only brokers with such a filter pay for it

    try:
        # The parser calls _Compiler's methods bottom-up and hands back what the one for the whole returned.
        return SqlFilter(expression, _boolean(_parser().parse(expression)).evaluate)  # type: ignore[arg-type]
    except lark.UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        quoted = expression[at] == "'"
        problem = "the string does not end" if quoted else f"{expression[at]!r} begins nothing that is known"
    except lark.UnexpectedToken as error:
        if error.token.type == "$END":
            at, problem = len(expression), "the expression ends too early"
        else:
            at, problem = error.token.start_pos or 0, f"{str(error.token)[:40]!r} is not expected"
    except _IllegalError as error:
        at, problem = error.at, str(error)
    where = f"at character {at + 1}" + (f", before {expression[at : at + 30]!r}" if at < len(expression) else "")
    raise SubscriptionParseFailedError(f"the SQL92 expression {_short(expression)!r}: {problem} {where}")


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


@cache
def _parser() -> Lark:
    import lark

    # "basic": tokens are the same everywhere, as in RocketMQ's parser; LALR: linear time, no recursion.
    return lark.Lark(_GRAMMAR, parser="lalr", lexer="basic", g_regex_flags=re.ASCII, transformer=_Rules())


class _Rules:
    """What lark calls with a rule's parts in one list: ``_Compiler``'s method of the rule's name."""

    def __getattr__(self, rule: str) -> Callable[[list[Any]], _Node]:
        method = getattr(_Compiler, rule)
        return lambda parts: cast(_Node, method(*parts))


class _IllegalError(Exception):
    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.at = at


class _Node(msgspec.Struct, frozen=True, eq=False):
    """One compiled operand.

    Attributes:
        kind: result of ``evaluate`` besides None: "str", "int" (32 bit), "long", "double", "bool", "null" (only None).
        role: "property", "constant" or "" (computed); Java's classes, on which RocketMQ's checks depend.
        constant: the value, of a constant.
        at: where it begins in the expression.
        depth: operators inside one another.
    """

    kind: str
    evaluate: Evaluate
    role: str = ""
    constant: Any = None
    at: int = 0
    depth: int = 1


def _computed(kind: str, evaluate: Evaluate, *operands: _Node) -> _Node:
    depth = max(operand.depth for operand in operands) + 1
    if depth > MAX_DEPTH:
        raise _IllegalError(f"more than {MAX_DEPTH} operators inside one another", operands[0].at)
    return _Node(kind, evaluate, at=operands[0].at, depth=depth)


def _constant(kind: str, value: Any, at: int) -> _Node:
    return _Node(kind, lambda properties: value, "constant", value, at)


def _boolean(node: _Node) -> _Node:
    """A condition: what is a condition already, or a property, which is text and so never true."""
    if node.kind == "bool" or (node.role == "constant" and node.kind == "null"):
        return node
    if node.role != "property":
        raise _IllegalError("a value stands where a condition is needed,", node.at)
    evaluate = node.evaluate
    return _computed("bool", lambda properties: None if evaluate(properties) is None else False, node)


class _Compiler:
    """One method per rule of the grammar, called bottom-up while it parses."""

    # --- values --------------------------------------------------------------------------------------------------

    @staticmethod
    def property_(name: Token) -> _Node:
        key = str(name)
        return _Node("str", lambda properties: find_property(properties, key) or None, "property", at=_at(name))

    @staticmethod
    def string(text: Token) -> _Node:
        return _constant("str", _unquoted(text), _at(text))

    @staticmethod
    def decimal(text: Token) -> _Node:
        value = int(text.rstrip("lL")) if len(text) < 25 else 1 << 63
        if value >= 1 << 63:
            raise _IllegalError("a whole number above 9223372036854775807", _at(text))
        return _constant("int" if value < 1 << 31 else "long", value, _at(text))

    @staticmethod
    def float_(text: Token) -> _Node:
        value = float(text)
        if math.isinf(value) or value == 0.0:
            raise _IllegalError("a floating-point number outside 4.9E-324..1.7976931348623157E308", _at(text))
        return _constant("double", value, _at(text))

    @staticmethod
    def true(*word: Token) -> _Node:
        return _constant("bool", True, _at(*word))

    @staticmethod
    def false(*word: Token) -> _Node:
        return _constant("bool", False, _at(*word))

    @staticmethod
    def null(*word: Token) -> _Node:
        return _constant("null", None, _at(*word))

    @staticmethod
    def unary(operand: _Node) -> _Node:  # "+", which changes nothing
        return operand

    @staticmethod
    def negate(operand: _Node) -> _Node:
        if operand.kind not in ("int", "long", "double"):  # text is not a number before it is compared with one
            return _computed("null", lambda properties: None, operand)
        value = -operand.evaluate("")  # numbers do not depend on the message
        return _computed(operand.kind, lambda properties: value, operand)

    # --- logic ---------------------------------------------------------------------------------------------------

    @staticmethod
    def or_(*operands: _Node) -> _Node:
        return _logic(operands, decisive=True)

    @staticmethod
    def and_(*operands: _Node) -> _Node:
        return _logic(operands, decisive=False)

    @staticmethod
    def not_(operand: _Node) -> _Node:
        return _not(_boolean(operand))

    # --- comparisons ---------------------------------------------------------------------------------------------

    @staticmethod
    def order(left: _Node, symbol: Token, right: _Node) -> _Node:
        return _order(str(symbol), left, right, _at(symbol))

    @staticmethod
    def equal(left: _Node, symbol: Token, right: _Node) -> _Node:
        for operand in (left, right):
            if operand.role == "constant" and operand.kind == "null":
                raise _IllegalError("NULL cannot be compared; write IS NULL or IS NOT NULL", _at(symbol))
        if left.role == right.role == "constant" and left.kind == "bool" != right.kind:
            raise _IllegalError("a boolean cannot be compared with this", _at(symbol))
        return _computed("bool", _equal(left, right), left, right)

    @staticmethod
    def not_equal(left: _Node, symbol: Token, right: _Node) -> _Node:
        return _not(_Compiler.equal(left, symbol, right))

    @staticmethod
    def is_null(operand: _Node) -> _Node:
        evaluate = operand.evaluate
        return _computed("bool", lambda properties: evaluate(properties) is None, operand)

    @staticmethod
    def is_not_null(operand: _Node) -> _Node:
        return _not(_Compiler.is_null(operand))

    @staticmethod
    def between(value: _Node, word: Token, low: _Node, high: _Node) -> _Node:
        bounds = _order(">=", value, low, _at(word)), _order("<=", value, high, _at(word))
        if low.role == high.role == "constant" and _compared(low, high)(operator.gt, low.constant, high.constant):
            raise _IllegalError(f"BETWEEN {low.constant} AND {high.constant}: the lower bound comes first", _at(word))
        return _logic(bounds, decisive=False)

    @staticmethod
    def not_between(value: _Node, word: Token, low: _Node, high: _Node) -> _Node:
        return _logic((_order("<", value, low, _at(word)), _order(">", value, high, _at(word))), decisive=True)

    @staticmethod
    def in_(left: _Node, word: Token, *texts: Token) -> _Node:
        return _in(left, word, texts, negated=False)

    @staticmethod
    def not_in(left: _Node, word: Token, *texts: Token) -> _Node:
        return _in(left, word, texts, negated=True)

    @staticmethod
    def text(left: _Node, word: Token, text: Token) -> _Node:
        return _text(left, word, text, negated=False)

    @staticmethod
    def not_text(left: _Node, word: Token, text: Token) -> _Node:
        return _text(left, word, text, negated=True)


def _at(*tokens: Token) -> int:
    return (tokens[0].start_pos or 0) if tokens else 0


def _unquoted(text: Token) -> str:
    return text[1:-1].replace("''", "'")


def _not(operand: _Node) -> _Node:
    evaluate = operand.evaluate

    def not_(properties: str) -> bool | None:
        value = evaluate(properties)
        return None if value is None else value is not True

    return _computed("bool", not_, operand)


def _logic(operands: tuple[_Node, ...], *, decisive: bool) -> _Node:
    """OR (decided by the first true) or AND (by the first false); unknown when undecided and one was unknown."""
    conditions = tuple(_boolean(operand) for operand in operands)
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


def _order(symbol: str, left: _Node, right: _Node, at: int) -> _Node:
    for operand in (left, right):
        if operand.kind == "bool" or (operand.role == "constant" and operand.kind in ("str", "null")):
            raise _IllegalError(f"{symbol} compares numbers only, and one side is not a number", at)
    compare, meets = _compared(left, right), _ORDERS[symbol]
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


def _equal(left: _Node, right: _Node) -> Evaluate:
    evaluate_left, evaluate_right = left.evaluate, right.evaluate
    both_text = left.kind == right.kind == "str"
    compare = _compared(left, right)

    def equal(properties: str) -> bool | None:
        left_value, right_value = evaluate_left(properties), evaluate_right(properties)
        if left_value is None or right_value is None:
            # Not symmetrical in RocketMQ: a missing left side is unknown, a missing right side alone is false.
            return True if right_value is left_value else None if left_value is None else False
        if both_text:
            return bool(left_value == right_value)
        return compare(operator.eq, left_value, right_value)

    return equal


def _in(left: _Node, word: Token, texts: tuple[Token, ...], *, negated: bool) -> _Node:
    if left.role != "property":
        raise _IllegalError("IN needs a property on its left", _at(word))
    wanted = frozenset(_unquoted(text) for text in texts)
    evaluate = left.evaluate

    def in_(properties: str) -> bool | None:
        value = evaluate(properties)
        return None if value is None else (value in wanted) is not negated

    return _computed("bool", in_, left)


def _text(left: _Node, word: Token, text: Token, *, negated: bool) -> _Node:
    """CONTAINS and the like: never unknown; false, negated or not, for what is no text or for an empty search."""
    search, has = _unquoted(text), _TEXT_OPERATORS[word.upper()]
    evaluate = left.evaluate

    def text_(properties: str) -> bool:
        value = evaluate(properties)
        return isinstance(value, str) and search != "" and has(value, search) is not negated

    return _computed("bool", text_, left)


# --- comparing as Java does --------------------------------------------------------------------------------------

_Meets = Callable[[Any, Any], bool]


def _compared(left: _Node, right: _Node) -> Callable[[_Meets, Any, Any], bool]:
    """The way to compare two present values of these kinds. Source: ComparisonExpression.__compare."""
    kinds = {left.kind, right.kind}
    if "null" in kinds:  # never two present values
        return lambda meets, left_value, right_value: False
    if kinds == {"bool"}:
        return lambda meets, left_value, right_value: meets(left_value, right_value)
    if "bool" in kinds:
        if kinds != {"bool", "str"}:
            return lambda meets, left_value, right_value: False
        return _text_to_boolean if left.kind == "str" else _boolean_to_text
    if kinds == {"str"} or "double" in kinds:
        return _doubles
    return _longs if "long" in kinds else _ints


def _text_to_boolean(meets: _Meets, left: str, right: bool) -> bool:
    return meets(left.lower() == "true", right)


def _boolean_to_text(meets: _Meets, left: bool, right: str) -> bool:
    raise ValueError(f"{left} and {right!r}")  # RocketMQ converts only the other way round, and fails here


def _doubles(meets: _Meets, left: Any, right: Any) -> bool:
    left, right = _double(left), _double(right)
    if left != right:
        if math.isnan(left) or math.isnan(right):
            return meets(math.isnan(left), math.isnan(right))  # NaN equals itself and is above everything
        return meets(left, right)
    return meets(math.copysign(1.0, left), math.copysign(1.0, right))  # -0.0 is below 0.0


def _ints(meets: _Meets, left: Any, right: Any) -> bool:
    return meets(_integer(left, 31), _integer(right, 31))


def _longs(meets: _Meets, left: Any, right: Any) -> bool:
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
