"""SQL92 filters: RocketMQ's condition language on message properties, parsed once and compiled to Python closures.

The language is RocketMQ's and not a dialect of SQL: ``NOT`` binds tighter than a comparison, ``IN`` takes strings only,
``CONTAINS``, ``STARTSWITH`` and ``ENDSWITH`` are operators. A property is text or missing; text is compared with a
number as a number. Logic is three-valued, and what cannot be compared (``'abc' > 5``) leaves the message unmatched.

Source: RocketMQ 5.3 filter/parser/SelectorParser.jj, filter/expression/*.java, broker/filter/ExpressionMessageFilter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from ...errors import SubscriptionParseFailedError
from ...protocol.record import record_properties_start
from .sql_operands import Compiler, Evaluate, IllegalExpressionError, Operand, condition
from .subscription import FIRST_SHARE

if TYPE_CHECKING:
    from lark import Lark

MAX_EXPRESSION_CHARS = 4096
"""Longer expressions are refused: parsing happens on the broker's event loop (a full one takes some 20 ms, once)."""
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
        # The parser calls Compiler's methods bottom-up and hands back what the one for the whole returned.
        return SqlFilter(expression, condition(_parser().parse(expression)).evaluate)  # type: ignore[arg-type]
    except lark.UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        quoted = expression[at] == "'"
        problem = "the string does not end" if quoted else f"{expression[at]!r} begins nothing that is known"
    except lark.UnexpectedToken as error:
        if error.token.type == "$END":
            at, problem = len(expression), "the expression ends too early"
        else:
            at, problem = error.token.start_pos or 0, f"{str(error.token)[:40]!r} is not expected"
    except IllegalExpressionError as error:
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
    """What lark calls with a rule's parts in one list: ``Compiler``'s method of the rule's name."""

    def __getattr__(self, rule: str) -> Callable[[list[Any]], Operand]:
        method = getattr(Compiler, rule)
        return lambda parts: cast(Operand, method(*parts))
