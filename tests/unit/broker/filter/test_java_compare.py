"""Comparison of two present values of a SQL92 filter, by the kinds of its operands."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from rmq_redis.broker.filter.java_compare import Meets, comparison


@pytest.mark.parametrize(
    ("left_kind", "right_kind", "meets", "left", "right"),
    [
        pytest.param("str", "int", operator.eq, "+5", 5, id="text as int"),
        pytest.param("str", "long", operator.gt, "3000000000", 1, id="text as long"),
        pytest.param("str", "str", operator.gt, "10", "9", id="two texts as doubles"),
        pytest.param("str", "double", operator.eq, " 4.5f ", 4.5, id="Java's double suffix and blanks"),
        pytest.param("str", "double", operator.gt, "NaN", 1e308, id="NaN above everything"),
        pytest.param("str", "str", operator.eq, "NaN", "NaN", id="NaN equals itself"),
        pytest.param("str", "double", operator.lt, "-0.0", 0.0, id="minus zero below zero"),
        pytest.param("str", "bool", operator.eq, "TRUE", True, id="text as boolean"),
    ],
)
def test_values_compare_as_in_java(left_kind: str, right_kind: str, meets: Meets, left: Any, right: Any) -> None:
    assert comparison(left_kind, right_kind)(meets, left, right)


@pytest.mark.parametrize(
    ("left_kind", "right_kind", "left", "right"),
    [
        pytest.param("str", "int", "2147483648", 1, id="text beyond 32 bits"),
        pytest.param("str", "long", "9223372036854775808", 1, id="text beyond 64 bits"),
        pytest.param("str", "int", "1.5", 1, id="fraction as int"),
        pytest.param("str", "double", "0x1p3", 8.0, id="hexadecimal text"),
        pytest.param("bool", "str", True, "true", id="boolean with text"),
    ],
)
def test_values_that_java_cannot_convert_raise_value_error(
    left_kind: str, right_kind: str, left: Any, right: Any
) -> None:
    with pytest.raises(ValueError):
        comparison(left_kind, right_kind)(operator.eq, left, right)
