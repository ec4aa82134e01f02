"""RocketMQ's SQL92 filters as its interpreter works: expressions as trees, checked and evaluated by types of values.

It is dynamic where the code under test is not: it looks at two values when it compares them. Source: RocketMQ 5.3
filter/expression/*.java; tests/interop compares it, and the code under test, with the real one.
"""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st


class RefusedError(Exception):
    """RocketMQ refuses this expression when it compiles."""


class ImpossibleError(Exception):
    """RocketMQ fails while it evaluates: the message does not match."""


class Long(int):
    """java.lang.Long; a plain int is an Integer."""


NAMES = ("a", "b", "c")
CONDITIONS = {
    "or",
    "and",
    "not",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "is null",
    "is not null",
    "between",
    "not between",
} | {
    "in",
    "not in",
    "contains",
    "not contains",
    "startswith",
    "not startswith",
    "endswith",
    "not endswith",
}
Tree = tuple[Any, ...]


def trees() -> st.SearchStrategy[Tree]:
    texts = st.sampled_from(["", "x", "it's", "5", "5.0", "true", "-7", "Infinity", "NaN", "1e3", "杭 州", "x%_"])
    numbers = st.one_of(
        st.sampled_from([0, 1, 5, 7, 2**31 - 1, 2**31, 2**63 - 1]),
        st.sampled_from([0.5, 5.0, 7.25, 1e300, 4e-320]),
    )
    leaves = st.one_of(
        st.tuples(st.just("property"), st.sampled_from(NAMES)),
        st.tuples(st.just("constant"), st.one_of(texts, numbers, st.booleans(), st.none())),
    )

    def grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        def binary(*kinds: str) -> st.SearchStrategy[Tree]:
            return st.tuples(st.sampled_from(kinds), inner, inner)

        properties = st.tuples(st.just("property"), st.sampled_from(NAMES))
        return st.one_of(
            binary("or", "and"),
            binary("=", "<>", "<", "<=", ">", ">="),
            st.tuples(st.sampled_from(["not", "negate", "is null", "is not null"]), inner),
            st.tuples(st.sampled_from(["between", "not between"]), inner, inner, inner),
            st.tuples(st.sampled_from(["in", "not in"]), properties, st.lists(texts, min_size=1, max_size=6)),
            st.tuples(
                st.sampled_from([word for word in sorted(CONDITIONS) if word.endswith(("contains", "with"))]),
                inner,
                texts,
            ),
        )

    return st.recursive(leaves, grow, max_leaves=8)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def written(tree: Tree) -> str:
    """The expression, with parentheses around every operand."""
    match tree:
        case ("property", name):
            return str(name)
        case ("constant", None):
            return "NULL"
        case ("constant", bool(value)):
            return str(value)
        case ("constant", str(value)):
            return quoted(value)
        case ("constant", value):
            return repr(value)
        case ("not", inner):
            return f"NOT ({written(inner)})"
        case ("negate", inner):
            return f"- ({written(inner)})"
        case (("is null" | "is not null") as word, inner):
            return f"({written(inner)}) {word}"
        case (("between" | "not between") as word, value, low, high):
            return f"({written(value)}) {word} ({written(low)}) and ({written(high)})"
        case (("in" | "not in") as word, value, texts):
            return f"({written(value)}) {word} ({', '.join(map(quoted, texts))})"
        case (word, left, str(text)):
            return f"({written(left)}) {word} {quoted(text)}"
        case (word, left, right):
            return f"({written(left)}) {word} ({written(right)})"
    raise AssertionError(tree)


def check_condition(tree: Tree) -> None:
    is_condition = tree[0] in CONDITIONS or tree[0] == "property"
    if not is_condition and not (tree[0] == "constant" and (tree[1] is None or isinstance(tree[1], bool))):
        raise RefusedError(tree)


def check_order(tree: Tree) -> None:
    if tree[0] in CONDITIONS or (tree[0] == "constant" and type(tree[1]) not in (int, float)):
        raise RefusedError(tree)


def check(tree: Tree) -> None:
    """Raises RefusedError where RocketMQ's factory methods throw."""
    for part in tree[1:]:
        if isinstance(part, tuple):
            check(part)
    match tree:
        case ("or" | "and", left, right):
            check_condition(left)
            check_condition(right)
        case ("not", inner):
            check_condition(inner)
        case ("<" | "<=" | ">" | ">=", left, right):
            check_order(left)
            check_order(right)
        case ("=" | "<>", left, right):
            if ("constant", None) in (left, right):
                raise RefusedError(tree)
            if left[0] == right[0] == "constant" and isinstance(left[1], bool) and not isinstance(right[1], bool):
                raise RefusedError(tree)
        case ("between" | "not between", value, low, high):
            for operand in (value, low, high):
                check_order(operand)
            if tree[0] == "between" and low[0] == high[0] == "constant" and low[1] > high[1]:
                raise RefusedError(tree)


def evaluated(tree: Tree, properties: dict[str, str]) -> Any:
    def value_of(part: Tree) -> Any:
        return evaluated(part, properties)

    def condition_of(part: Tree) -> bool | None:
        value = value_of(part)
        if part[0] == "property":
            return None if value is None else False
        assert value is None or isinstance(value, bool)
        return value

    match tree:
        case ("property", name):
            return properties.get(name)
        case ("constant", value):
            return Long(value) if type(value) is int and value >= 2**31 else value
        case (("or" | "and") as word, left, right):
            for_sure = word == "or"
            first = condition_of(left)
            if first is for_sure:
                return for_sure
            second = condition_of(right)
            if second is for_sure:
                return for_sure
            return None if None in (first, second) else not for_sure
        case ("not", inner):
            value = condition_of(inner)
            return None if value is None else not value
        case ("negate", inner):
            value = value_of(inner)
            return type(value)(-value) if type(value) in (int, Long, float) else None
        case ("is null", inner):
            return value_of(inner) is None
        case ("is not null", inner):
            return value_of(inner) is not None
        case ("=", left, right):
            first, second = value_of(left), value_of(right)
            if first is None or second is None:
                return True if first is second else (None if first is None else False)
            if type(first) is type(second) is str:
                return first == second
            return compared(first, second) == 0
        case ("<>", left, right):
            value = value_of(("=", left, right))
            return None if value is None else not value
        case (("<" | "<=" | ">" | ">=") as word, left, right):
            first = value_of(left)
            second = None if first is None else value_of(right)
            if first is None or second is None:
                return None
            if type(first) is type(second) is str:
                first, second = double(first), double(second)
            sign = compared(first, second)
            return {"<": sign < 0, "<=": sign <= 0, ">": sign > 0, ">=": sign >= 0}[word]
        case ("between", value, low, high):
            return value_of(("and", (">=", value, low), ("<=", value, high)))
        case ("not between", value, low, high):
            return value_of(("or", ("<", value, low), (">", value, high)))
        case (("in" | "not in") as word, inner, texts):
            value = value_of(inner)
            return None if value is None else (value in texts) == (word == "in")
        case (word, inner, text):
            value = value_of(inner)
            if not isinstance(value, str) or not text:
                return False
            found = {
                "contains": text in value,
                "startswith": value[: len(text)] == text,
                "endswith": value[-len(text) :] == text,
            }[word.removeprefix("not ")]
            return found != word.startswith("not ")
    raise AssertionError(tree)


def double(text: str) -> float:
    text = text.strip(" ")
    if text in ("nan", "inf", "infinity") or "_" in text:
        raise ImpossibleError(text)
    try:
        return float(text)
    except ValueError:
        raise ImpossibleError(text) from None


def whole(text: str, bits: int) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()) or not -(2 ** (bits - 1)) <= int(text) < 2 ** (bits - 1):
        raise ImpossibleError(text)
    return int(text)


def compared(left: Any, right: Any) -> int:
    """The sign of ``left.compareTo(right)``, converted as ComparisonExpression.__compare does."""
    kinds = (type(left), type(right))
    if kinds == (bool, str):
        raise ImpossibleError("ClassCastException")
    if kinds == (str, bool):
        left = left.lower() == "true"
    elif bool in kinds and kinds[0] is not kinds[1]:
        return -1
    elif float in kinds:
        left, right = (double(value) if isinstance(value, str) else float(value) for value in (left, right))
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) - math.isnan(right)
        if left == right == 0:
            return int(math.copysign(1, left) - math.copysign(1, right))
    elif str in kinds:
        bits = 64 if Long in kinds else 32
        left, right = (whole(value, bits) if isinstance(value, str) else value for value in (left, right))
    return (left > right) - (left < right)


VALUES = st.one_of(
    st.sampled_from(
        ["x", "it's", "5", "5.0", "+5", "-7", "0", "-0.0", "true", "TRUE", "NaN", "Infinity", "1e3", "1_0"]
    ),
    st.integers(-(2**64), 2**64).map(str),
    st.floats().map(repr).filter(lambda text: text not in ("inf", "-inf", "nan")),
)


def outcome(tree: Tree, properties: dict[str, str]) -> bool | None:
    """Whether a message with these properties passes; None: RocketMQ refuses the expression."""
    try:
        check(tree)
        check_condition(tree)
    except RefusedError:
        return None
    try:
        return evaluated(tree, properties) is True
    except ImpossibleError:
        return False
