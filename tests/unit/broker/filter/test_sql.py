"""SQL92 filters: the language, its refusals, and the evaluator against a model that follows RocketMQ's classes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sql_filter_model import NAMES, VALUES, Tree, outcome, trees, written

from rmq_redis.broker.filter.sql import MAX_EXPRESSION_CHARS, compile_sql
from rmq_redis.broker.filter.sql_operands import MAX_DEPTH
from rmq_redis.broker.filter.subscription import TagFilter, message_filter
from rmq_redis.errors import ResponseError, SubscriptionParseFailedError
from rmq_redis.protocol.properties import encode_properties


def passes(expression: str, **properties: Any) -> bool:
    text = encode_properties({name: str(value) for name, value in properties.items()})
    return compile_sql(expression).matches_properties(text)


@pytest.mark.parametrize(
    ("expression", "properties"),
    [
        ("a = 1", {"a": 1}),
        ("a <> 1", {"a": 2}),
        ("a > 5", {"a": 6}),
        ("5 <= a", {"a": 5}),
        ("a >= 2.5", {"a": "2.50"}),
        ("a = 3000000000", {"a": 3_000_000_000}),
        ("a = 3l", {"a": 3}),
        ("a < -5", {"a": -6}),
        ("a = +5", {"a": "+5"}),
        ("a > .5", {"a": "1e0"}),
        ("a < 5.", {"a": " 4.5f "}),
        ("a > 1E3", {"a": "Infinity"}),
        ("a > b", {"a": "10", "b": "9"}),
        ("a = b", {"a": "x", "b": "x"}),
        ("a BETWEEN 1 AND 3", {"a": 3}),
        ("a NOT BETWEEN 1 AND 3", {"a": 4}),
        ("a IN ('x', 'it''s')", {"a": "it's"}),
        ("a NOT IN ('x', 'y')", {"a": "z"}),
        ("a IS NULL", {}),
        ("a IS NOT NULL", {"a": 1}),
        ("NOT (a = 1)", {"a": 2}),
        ("a = 1 AND b = 2 OR c = 3", {"c": 3}),
        ("a = 1 AND (b = 2 OR c = 3)", {"a": 1, "c": 3}),
        ("a CONTAINS 'bc'", {"a": "abcd"}),
        ("a NOT CONTAINS 'x'", {"a": "abcd"}),
        ("a STARTSWITH 'ab'", {"a": "abcd"}),
        ("a NOT STARTSWITH 'b'", {"a": "abcd"}),
        ("a ENDSWITH 'cd'", {"a": "abcd"}),
        ("a NOT ENDSWITH 'c'", {"a": "abcd"}),
        ("a = TRUE", {"a": "True"}),
        ("(a > 1) = TRUE", {"a": 2}),
        ("TRUE", {}),
        ("NOT FALSE", {}),
        ("region\t=\r\n'杭州'", {"region": "杭州"}),
        ("$a_1 = 1 and B = 2", {"$a_1": 1, "B": 2}),
        ("NOTa = 1", {"NOTa": 1}),
        ("a /* not b */ = 1 -- the end\n", {"a": 1}),
        ("TAGS = 'paid' OR a = 1", {"TAGS": "paid"}),
        ("a = 1 OR b > 5", {"a": 1, "b": "text"}),  # decided before b is looked at
        ("NOT a", {"a": 1}),  # a is text, which is not true
    ],
)
def test_matching_properties_pass(expression: str, properties: dict[str, Any]) -> None:
    assert passes(expression, **properties)


@pytest.mark.parametrize(
    ("expression", "properties"),
    [
        ("a = 1", {}),
        ("a <> 1", {}),  # unknown, not true
        ("NOT (a = 1)", {}),
        ("NOT (a > 1)", {}),
        ("a NOT IN ('x')", {}),
        ("a NOT BETWEEN 1 AND 3", {}),
        ("a NOT CONTAINS 'x'", {}),
        ("a NOT CONTAINS ''", {"a": "x"}),
        ("NOT (a = 1 AND b = 1)", {"a": 1}),
        ("a = 1", {"ba": 1, "A": 1}),
        ("a > 5", {"a": "text"}),
        ("a > 5 OR b = 1", {"a": "text", "b": 1}),  # what cannot be compared ends it
        ("a = 5", {"a": "5.0"}),  # no whole number, as Java's Integer.valueOf says
        ("a = 5", {"a": "99999999999"}),  # nor is this one an int
        ("a = 5", {"a": "5_0"}),
        ("a = 5", {"a": " 5"}),
        ("a < 5.5", {"a": "nan"}),
        ("a = 'x'", {"a": "X"}),
        ("NOT a = 1", {"a": 2}),  # NOT takes the nearest operand: (NOT a) = 1
        ("a", {"a": "true"}),
        ("TRUE = a", {"a": "true"}),
        ("NULL", {}),
        ("-a = -5", {"a": 5}),  # text has no negative
    ],
)
def test_other_properties_do_not_pass(expression: str, properties: dict[str, Any]) -> None:
    assert not passes(expression, **properties)


def test_last_duplicate_property_wins_and_empty_value_is_null() -> None:
    assert compile_sql("a = 2").matches_properties("a\x011\x02a\x012\x02")
    assert compile_sql("a IS NULL").matches_properties("a\x01\x02")


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        ("", "the expression ends too early at character 1"),
        ("a = ", "the expression ends too early at character 5"),
        ("(a = 1", "the expression ends too early at character 7"),
        ("a = 1)", "')' is not expected at character 6"),
        ("a = 1 b", "'b' is not expected at character 7"),
        ("a LIKE 'x'", "'LIKE' is not expected at character 3"),
        ("a = 'x", "the string does not end at character 5"),
        ('a = "x"', "'\"' begins nothing that is known at character 5"),
        ("a == 1", "'=' is not expected at character 4"),
        ("a != 1", "'!' begins nothing that is known at character 3"),
        ("a IN (1, 2)", "'1' is not expected at character 7"),
        ("5 IN ('5')", "IN needs a property on its left at character 3"),
        ("a.b = 1", "'.' begins nothing that is known at character 2"),
        ("a = 007", "'0' is not expected at character 6"),
        ("a IS 5", "'5' is not expected at character 6"),
        ("a = NULL", "write IS NULL or IS NOT NULL at character 3"),
        ("a > 'x'", "compares numbers only, and one side is not a number at character 3"),
        ("a > TRUE", "compares numbers only"),
        ("a > (b = 1)", "compares numbers only"),
        ("a > b > c", "compares numbers only"),
        ("a BETWEEN 5 AND 1", "the lower bound comes first at character 3"),
        ("a BETWEEN 'a' AND 'b'", "compares numbers only"),
        ("TRUE = 1", "a boolean cannot be compared with this at character 6"),
        ("5", "a value stands where a condition is needed, at character 1"),
        ("a = 1 OR 'x'", "a value stands where a condition is needed, at character 10"),
        ("a > 0.0", "a floating-point number outside"),
        ("a > 1e999", "a floating-point number outside"),
        ("a = 9223372036854775808", "a whole number above 9223372036854775807 at character 5"),
        ("a = 1 -- the end", "'-' is not expected at character 7"),
        ("a = 1; DROP", "';' begins nothing that is known at character 6"),
        ("ſ = 1", "'ſ' begins nothing that is known at character 1"),
        ("a = 1\x00", "at character 6"),
    ],
)
def test_invalid_expression_is_refused_with_its_position(expression: str, place: str) -> None:
    with pytest.raises(SubscriptionParseFailedError) as refused:
        compile_sql(expression)
    assert place in refused.value.remark


def test_expression_length_and_depth_are_limited() -> None:
    chain = " OR ".join(["a=1"] * ((MAX_EXPRESSION_CHARS + 4) // 7))
    assert passes(chain, a=1)
    with pytest.raises(SubscriptionParseFailedError, match=f"{len(chain) + 100} characters; at most"):
        compile_sql(chain + " " * 100)
    assert passes("(" * 2000 + "a = 1" + ")" * 2000, a=1)
    assert passes("NOT " * (MAX_DEPTH - 2) + "TRUE")
    for too_deep in ("NOT " * MAX_DEPTH + "TRUE", "-" * MAX_DEPTH + "1 = a", "a" + "=a" * MAX_DEPTH):
        with pytest.raises(SubscriptionParseFailedError, match="operators inside one another"):
            compile_sql(too_deep)


def test_compiled_filters_and_refusals_are_cached() -> None:
    assert message_filter("a = 1", "SQL92") is message_filter("a = 1", "SQL92")
    for _ in range(2):
        with pytest.raises(SubscriptionParseFailedError, match="ends too early"):
            message_filter("a = ", "SQL92")
        with pytest.raises(ResponseError, match="it knows TAG and SQL92"):
            message_filter("a", "CLASS")
    assert message_filter("*") is message_filter("") is message_filter(None, "") is message_filter("a || *") is None
    assert isinstance(message_filter("a || b", None), TagFilter)
    with pytest.raises(SubscriptionParseFailedError):
        message_filter("*", "SQL92")


# --- against a model ---------------------------------------------------------------------------------------------


@given(trees(), st.dictionaries(st.sampled_from(NAMES), VALUES))
@example((">", ("property", "a"), ("negate", ("constant", 2**31))), {"a": "-2147483649"})
@example(("<", ("property", "a"), ("property", "b")), {"a": "-0.0", "b": "0.0"})
@example(("=", ("constant", "x"), ("property", "a")), {})
def test_filter_agrees_with_the_model(tree: Tree, properties: dict[str, str]) -> None:
    expression = written(tree)
    assume(len(expression) <= MAX_EXPRESSION_CHARS)
    expected = outcome(tree, properties)
    if expected is None:
        with pytest.raises(SubscriptionParseFailedError):
            compile_sql(expression)
    else:
        assert compile_sql(expression).matches_properties(encode_properties(properties)) is expected


# --- robustness --------------------------------------------------------------------------------------------------

WORDS = "NOT AND OR BETWEEN IN IS NULL TRUE FALSE CONTAINS STARTSWITH ENDSWITH"
SIGNS = "= <> < <= > >= ( ) , + - ' '' 'x' -- /* */ . $ ;"
REST = "a b e é 0 00 5 5.5 5l 9223372036854775808 1e999 \n \x00 \ud800"
FRAGMENTS = st.sampled_from(f"{WORDS} {SIGNS} {REST}".split(" "))


@given(
    st.one_of(st.lists(FRAGMENTS, max_size=60).map(" ".join), st.lists(FRAGMENTS, max_size=60).map("".join), st.text())
)
def test_arbitrary_text_compiles_or_is_refused(expression: str) -> None:
    try:
        compiled = compile_sql(expression)
    except SubscriptionParseFailedError:
        pass
    else:
        for properties in (
            "",
            "a\x01x\x02",
            "a\x011\x02b\x01" + "9" * 5000 + "\x02",
            "\x01\x02\x02a\x01",
            "a\x01\x00\x02",
        ):
            compiled.matches_properties(properties)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * MAX_EXPRESSION_CHARS,
        "- " * (MAX_EXPRESSION_CHARS // 2),
        "NOT " * (MAX_EXPRESSION_CHARS // 4),
        "'" * (MAX_EXPRESSION_CHARS - 1),
        "/*" + "*" * (MAX_EXPRESSION_CHARS - 2),
        "a=" * (MAX_EXPRESSION_CHARS // 2),
        "1" * MAX_EXPRESSION_CHARS,
        "1" * (MAX_EXPRESSION_CHARS - 2) + "e1",
        "a IN ('" + "','" * ((MAX_EXPRESSION_CHARS - 10) // 3),
        "a BETWEEN " * (MAX_EXPRESSION_CHARS // 10),
        "a" * MAX_EXPRESSION_CHARS + "=1",
    ],
)
def test_worst_case_expressions_are_refused_quickly(expression: str) -> None:
    started = time.process_time()
    with pytest.raises(SubscriptionParseFailedError):
        compile_sql(expression)
    assert time.process_time() - started < 10  # seconds of this process's own work; backtracking would take hours


@pytest.mark.parametrize("value", ["1" * 32_000 + "x", "1" * 32_000, " " * 32_000, "1." + "1" * 32_000, "\ud800" * 100])
def test_worst_case_values_are_compared_quickly(value: str) -> None:
    properties = f"a\x01{value}\x02"
    started = time.process_time()
    for expression in ("a > 5", "a > 5.5", "a > 5000000000", "a > a", "a = TRUE", "a CONTAINS '2'"):
        compile_sql(expression).matches_properties(properties)
    assert time.process_time() - started < 10


def test_sql_library_is_imported_with_the_first_sql_filter() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from rmq_redis.broker import broker; "
        "from rmq_redis.broker.filter.subscription import message_filter; "
        "message_filter('a || b'); assert 'lark' not in sys.modules; "
        "message_filter('a > 1', 'SQL92'); assert 'lark' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
