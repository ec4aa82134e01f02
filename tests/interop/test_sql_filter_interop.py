"""Our SQL92 filters, and the model that their tests use, against RocketMQ's own. Runs only with RMQ_INTEROP_JAVA=1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from interop_support import Cluster, Driver, create_topic, unique_name, wait_until
from sql_filter_model import NAMES, VALUES, Tree, outcome, trees, written

from rmq_redis.broker.filter.sql import MAX_EXPRESSION_CHARS, compile_sql
from rmq_redis.errors import SubscriptionParseFailedError
from rmq_redis.protocol.properties import encode_properties

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

Case = tuple[str, dict[str, str]]
WRITTEN: list[Case] = [
    ("NOT a = 1", {"a": "2"}),
    ("a > 5 OR b = 1", {"a": "text", "b": "1"}),
    ("b = 1 OR a > 5", {"a": "text", "b": "1"}),
    ("a > 0.0", {}),
    ("a = 9223372036854775807", {"a": "9223372036854775807"}),
    ("a = 9223372036854775808", {}),
    ("a IN (1)", {}),
    ("a != 1", {}),
    ('a = "x"', {}),
    ("", {}),
    ("a", {"a": "true"}),
    ("a CONTAINS b", {}),
    ("NOTa = 1", {"NOTa": "1"}),
    ("a=5AND b=6", {"a": "5", "b": "6"}),
    ("a /* b */ = 1 -- c\n", {"a": "1"}),
    ("a = 'it''s'", {"a": "it's"}),
    ("a > b > c", {}),
    ("a = b = TRUE", {"a": "1", "b": "1"}),
    ("a < 5.", {"a": "1f"}),
    ("a < .5e1", {"a": " 4 "}),
    ("a = 5", {"a": "٥"}),
    ("- - 5 = a", {"a": "5"}),
    ("a BETWEEN -1 AND -5", {"a": "-3"}),
    ("a IS NULL = TRUE", {}),
    ("ſ = 1", {}),
]
TRAILING = ["a = 007", "a = 0L", "a LIKE 'x'", "a = 1 b"]
"""RocketMQ stops reading where an expression could end; we refuse what follows."""


def generated(count: int) -> list[tuple[Tree, dict[str, str]]]:
    found: list[tuple[Tree, dict[str, str]]] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(trees(), st.dictionaries(st.sampled_from(NAMES), VALUES))
    def collect(tree: Tree, properties: dict[str, str]) -> None:
        if len(written(tree)) <= MAX_EXPRESSION_CHARS:
            found.append((tree, properties))

    collect()
    return found


def ours(expression: str, properties: dict[str, str]) -> bool | None:
    try:
        return compile_sql(expression).matches_properties(encode_properties(properties))
    except SubscriptionParseFailedError:
        return None


def test_expressions_match_the_same_messages_as_in_rocketmq(
    java_driver: Driver, cluster: Cluster, tmp_path: Path
) -> None:
    from_model = generated(3000)
    cases = [
        *WRITTEN,
        *((sql, {}) for sql in TRAILING),
        *((written(tree), properties) for tree, properties in from_model),
    ]
    file = tmp_path / "cases"
    file.write_text("".join(json.dumps({"sql": sql, "properties": properties}) + "\n" for sql, properties in cases))
    events = [event for event in java_driver.run(cluster, "filter", file=file) if event["event"] == "filtered"]
    theirs = [event.get("passes") for event in events]
    assert len(theirs) == len(cases)
    assert {None, True, False} <= set(theirs)
    differing = [
        (sql, properties, event)
        for (sql, properties), event in zip(cases, events, strict=True)
        if sql not in TRAILING and ours(sql, properties) is not event.get("passes")
    ]
    assert not differing, differing
    assert [ours(sql, {}) for sql in TRAILING] == [None] * len(TRAILING)
    model = [outcome(tree, properties) for tree, properties in from_model]
    assert model == theirs[-len(model) :]


def test_java_consumes_by_a_condition(java_driver: Driver, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    sent = []
    for price in (5, 50):
        sent += java_driver.produce(cluster, topic, 20, properties=f"price={price}", body_prefix=f"costs-{price}")
    wanted = {event["body"] for event in sent if event["body"].startswith("costs-50-")}
    with java_driver.consume(cluster, topic, unique_name("group"), sql="price > 9 AND shop IS NULL") as consumer:
        consumer.wait_for_bodies(wanted)
        # What comes later wakes a pull that waits, if it passes.
        java_driver.produce(cluster, topic, 1, properties="price=5", body_prefix="late-5")
        java_driver.produce(cluster, topic, 1, properties="price=50", body_prefix="late-50")
        consumer.wait_for_bodies({"late-50-0"})
        consumer.stop()
        assert sorted(consumer.bodies()) == sorted([*wanted, "late-50-0"])


def test_java_gets_the_filter_error_when_it_starts(java_driver: Driver, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    with java_driver.consume(cluster, topic, unique_name("group"), sql="price >") as consumer:
        wait_until(lambda: consumer.ended, "the consumer gives up")
        report = consumer.report()
    assert "CODE: 23" in report
    if not cluster.is_external:
        assert "the expression ends too early at character 8" in report
