"""The order events of the demo: what the services of a small shop would send. The same every time.

Each order begins with ``created``, which has the customer, the items and the amount. Most go on with ``paid``,
``packed``, ``shipped`` and ``delivered``; some are ``cancelled``, before or after the payment, and some of the paid
ones ``refunded``. The stream is sorted by time, so the events of many orders are interleaved, as in a shop. Fields:

| field | |
|---|---|
| ``event_id`` | 1, 2, 3, ... through the whole stream |
| ``order_id`` | ``A0001``, ...: what the demo shards by |
| ``seq`` | 1, 2, 3, ... through the events of one order: what the demo checks |
| ``type`` | created, paid, packed, shipped, delivered, cancelled, refunded |
| ``ts`` | seconds since 1970 |
| ``customer``, ``amount_cents``, ``items`` | of ``created``: who, how much, ``[[sku, quantity], ...]`` |
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

ORDERS = 2_000
SEED = 20_260_302
KEY_FIELD = "order_id"
SEQ_FIELD = "seq"

_START = 1_772_409_600  # 2026-03-02 00:00 UTC
_OPEN_S = 36 * 3600  # the orders of one and a half days
_CUSTOMERS = 700
_PRICES = {"mug": 1290, "tea": 690, "pot": 3450, "jar": 850, "spoon": 420, "tray": 2190, "filter": 560, "kettle": 5900}


def generate(orders: int = ORDERS, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """The events in order of time."""
    # Only random() itself: it gives the same numbers in every version of Python, the other methods need not.
    chance = random.Random(seed).random
    events: list[dict[str, Any]] = []
    for number in range(1, orders + 1):
        events += _order(number, orders, chance)
    events.sort(key=lambda event: (event["ts"], event["order_id"], event["seq"]))
    for event_id, event in enumerate(events, 1):
        yield {"event_id": event_id, **event}


def _order(number: int, orders: int, chance: Callable[[], float]) -> Iterator[dict[str, Any]]:
    def between(low_s: float, high_s: float) -> int:
        return round(low_s + (high_s - low_s) * (chance() + chance()) / 2)

    skus = list(_PRICES)
    items = [
        (skus[int(chance() * len(skus))], 1 + int(chance() * chance() * 4)) for _ in range(1 + int(chance() * 2.4))
    ]
    first = {
        "customer": f"c{1 + int(chance() * _CUSTOMERS)}",
        "amount_cents": sum(_PRICES[sku] * quantity for sku, quantity in items),
        "items": items,
    }
    ts = _START + round(_OPEN_S * (number - chance()) / orders)
    for seq, (kind, low_s, high_s) in enumerate(_life(chance()), 1):
        ts += between(low_s, high_s) if high_s else 0
        event = {"order_id": f"A{number:04}", "seq": seq, "type": kind, "ts": ts}
        yield event | first if seq == 1 else event


def _life(fate: float) -> list[tuple[str, float, float]]:
    """The events of an order, each with the least and the most seconds since the one before."""
    minute, hour = 60.0, 3600.0
    created = ("created", 0.0, 0.0)
    paid = ("paid", 5.0, 20 * minute)
    packed = ("packed", 20 * minute, 9 * hour)
    shipped = ("shipped", 10 * minute, 12 * hour)
    delivered = ("delivered", 9 * hour, 60 * hour)
    if fate < 0.04:
        return [created, ("cancelled", minute, 24 * hour)]
    if fate < 0.07:
        return [created, paid, ("cancelled", minute, 3 * hour), ("refunded", minute, 2 * hour)]
    if fate < 0.12:
        return [created, paid, packed, shipped, delivered, ("refunded", 5 * hour, 90 * hour)]
    return [created, paid, packed, shipped, delivered]


def json_lines(orders: int = ORDERS, seed: int = SEED) -> str:
    """The stream as the text of a JSON-lines file."""
    return "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in generate(orders, seed))
