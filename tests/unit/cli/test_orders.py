"""The order events of the demo."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from rmq_redis.cli.orders import ORDERS, generate, json_lines

FILE = Path(__file__).parents[3] / "examples" / "orders.jsonl"


def test_file_equals_the_output_of_the_generator() -> None:
    assert FILE.read_text() == json_lines()
    assert FILE.stat().st_size < 900_000


def test_stream_is_sorted_by_time_and_interleaves_orders() -> None:
    events = [json.loads(line) for line in FILE.read_text().splitlines()]
    assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
    assert all(earlier["ts"] <= later["ts"] for earlier, later in pairwise(events))
    neighbours = sum(earlier["order_id"] == later["order_id"] for earlier, later in pairwise(events))
    assert neighbours < len(events) / 20


def test_every_order_has_a_valid_sequence_of_events() -> None:
    lives = defaultdict(list)
    for event in generate():
        lives[event["order_id"]].append(event)
    assert len(lives) == ORDERS
    for events in lives.values():
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[0]["type"] == "created"
        assert events[0]["amount_cents"] > 0
    kinds = {tuple(event["type"] for event in events) for events in lives.values()}
    assert kinds == {
        ("created", "cancelled"),
        ("created", "paid", "cancelled", "refunded"),
        ("created", "paid", "packed", "shipped", "delivered"),
        ("created", "paid", "packed", "shipped", "delivered", "refunded"),
    }


def test_number_and_seed_change_the_stream() -> None:
    assert len({event["order_id"] for event in generate(10)}) == 10
    assert json_lines(10, seed=1) != json_lines(10, seed=2)
    assert json_lines(10, seed=1) == json_lines(10, seed=1)
