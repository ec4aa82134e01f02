"""Batches by turn of the event loop, at a session that only records what it is given."""

from __future__ import annotations

import asyncio
from typing import Any

from rmq_redis.errors import StoreError, StoreUnconfirmedError
from rmq_redis.store.group.turn import Turn, TurnBatch


class Session:
    """As much of ``GroupSession`` as a batch uses."""

    def __init__(self) -> None:
        self.pending_bytes = self.put_bytes = 0
        self.calls: list[tuple[Any, str, list[bytes], list[Any]]] = []

    def send(self, reply: Any, name: str, keys: list[bytes], args: list[Any]) -> None:
        self.calls.append((reply, name, keys, args))


class Recorded:
    """A batch of texts with what its items were answered."""

    def __init__(self, **options: Any) -> None:
        self.session = Session()
        self.answers: list[tuple[str, Any, StoreError | None]] = []
        self.batch: TurnBatch[str] = TurnBatch(self.session, "put", self.encode, self.answer, **options)  # type: ignore[arg-type]

    @staticmethod
    def encode(items: list[str]) -> tuple[list[bytes], list[Any]]:
        return [b"key"], list(items)

    def answer(self, item: str, answer: Any, error: StoreError | None) -> None:
        self.answers.append((item, answer, error))
        if item == "bad":
            raise ValueError(item)


async def test_items_of_one_turn_go_in_one_call_and_each_is_answered() -> None:
    r = Recorded()
    for text in "abc":
        r.batch.add(text, 10)
    assert r.session.calls == []
    assert (r.session.pending_bytes, r.session.put_bytes) == (30, 30)
    await asyncio.sleep(0)
    r.batch.add("d", 1)
    await asyncio.sleep(0)
    assert [call[1:] for call in r.session.calls] == [("put", [b"key"], ["a", "b", "c"]), ("put", [b"key"], ["d"])]
    r.session.calls[0][0]([1, 2, 3])
    assert r.answers == [("a", 1, None), ("b", 2, None), ("c", 3, None)]
    assert (r.session.pending_bytes, r.session.put_bytes) == (1, 31)


async def test_flush_sends_at_once_and_the_end_of_the_turn_sends_nothing_again() -> None:
    r = Recorded()
    r.batch.add("a")
    r.batch.flush()
    assert len(r.session.calls) == 1
    await asyncio.sleep(0)
    assert len(r.session.calls) == 1


async def test_failure_is_answered_without_and_late_confirmation_with_an_answer() -> None:
    r = Recorded()
    error, late = StoreError("unreachable"), StoreUnconfirmedError("stored", 10)
    for text in "ab":
        r.batch.add(text)
        r.batch.flush()
    r.session.calls[0][0](error)
    r.session.calls[1][0]([7], late)
    assert r.answers == [("a", None, error), ("b", 7, late)]


async def test_failing_callback_does_not_affect_other_answers() -> None:
    r = Recorded()
    for text in ("a", "bad", "c"):
        r.batch.add(text, 1)
    r.batch.flush()
    r.session.calls[0][0]([1, 2, 3])
    assert [item for item, _, _ in r.answers] == ["a", "bad", "c"]
    assert r.session.pending_bytes == 0


async def test_offered_turn_is_sent_or_refused_later() -> None:
    offered: list[Turn[str]] = []
    order: list[tuple[list[str], StoreError | None, int]] = []
    r = Recorded(
        offer=offered.append, on_answered=lambda turn, error: order.append((turn.items, error, len(r.answers)))
    )
    r.batch.add("a", 3)
    await asyncio.sleep(0)
    r.batch.add("b", 4)
    await asyncio.sleep(0)
    assert r.session.calls == []
    r.batch.send(offered[0])
    r.session.calls[0][0]([1])
    refusal = StoreError("busy")
    r.batch.refuse(offered[1], refusal)
    assert order == [(["a"], None, 0)]
    assert r.answers == [("a", 1, None), ("b", None, refusal)]
    assert r.session.pending_bytes == 0
