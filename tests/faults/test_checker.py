"""The checker finds what it is there to find, and nothing else."""

from __future__ import annotations

from pathlib import Path

from rmq_redis.labs.chaos.checker import check
from rmq_redis.labs.chaos.history import Acked, Delivered, Event, Failed, HistoryReader, HistoryWriter

OK = "SEND_OK"


def acked(body: str, offset: int, *, sender: str = "p", queue_id: int = 0, status: str = OK) -> Acked:
    return Acked(sender, body, "broker-a", queue_id, offset, status)


def got(body: str, offset: int, *, consumer: str = "c", queue_id: int = 0) -> Delivered:
    return Delivered(consumer, body, "broker-a", queue_id, offset)


def test_correct_history_has_no_violations() -> None:
    verdict = check([acked("a", 0), acked("b", 1), Failed("p", "x", "timeout"), got("a", 0), got("b", 1)])
    assert verdict.violations == 0
    assert (verdict.acked, verdict.failed, verdict.delivered, verdict.duplicates) == (2, 1, 2, 0)


def test_undelivered_confirmed_message_is_a_violation() -> None:
    verdict = check([acked("a", 0), acked("b", 1), got("a", 0)])
    assert len(verdict.missing) == verdict.violations == 1
    assert verdict.missing[0].startswith("b ")
    assert any("missing: b" in line for line in verdict.lines())


def test_unconfirmed_message_may_be_missing_and_is_counted() -> None:
    verdict = check(
        [acked("a", 0, status="FLUSH_SLAVE_TIMEOUT"), acked("b", 1, status="SLAVE_NOT_AVAILABLE"), got("b", 1)]
    )
    assert verdict.violations == 0
    assert (verdict.acked, verdict.unconfirmed, verdict.unconfirmed_missing) == (0, 2, 1)


def test_unanswered_message_may_be_delivered() -> None:
    assert check([Failed("p", "x", "timeout"), got("x", 0)]).violations == 0


def test_duplicates_are_counted_and_allowed() -> None:
    history: list[Event] = [acked("a", 1), got("a", 0), got("a", 1), got("a", 1), got("a", 0, consumer="d")]
    verdict = check(history)
    assert verdict.violations == 0
    assert verdict.duplicates == 3


def test_reused_offset_is_a_violation() -> None:
    assert len(check([acked("a", 0), acked("b", 0, sender="q"), got("a", 0), got("b", 5)]).twice) == 1
    assert len(check([acked("a", 0), got("b", 0), got("a", 1)]).twice) == 1
    assert not check([acked("a", 0), acked("b", 0, queue_id=1), got("a", 0), got("b", 0, queue_id=1)]).twice


def test_key_that_changes_its_queue_is_a_violation() -> None:
    history: list[Event] = [acked("a", 0), acked("b", 0, queue_id=1), got("a", 0), got("b", 0, queue_id=1)]
    assert check(history).violations == 0
    assert check(history, keyed=lambda sender: sender != "p").violations == 0
    assert len(check(history, keyed=lambda sender: sender == "p").out_of_order) == 1


def test_messages_of_a_sender_out_of_order_are_a_violation() -> None:
    verdict = check([acked("a", 5), acked("b", 4), got("b", 4), got("a", 5)])
    assert len(verdict.out_of_order) == 1
    assert check([acked("a", 5), acked("b", 4, sender="q"), got("b", 4), got("a", 5)]).violations == 0


def test_queue_read_out_of_order_is_a_violation() -> None:
    assert len(check([got("b", 1), got("a", 0)]).out_of_order) == 1
    assert not check([got("b", 1), got("a", 0, consumer="d")]).out_of_order
    assert not check([got("a", 0), got("b", 1), got("a", 0), got("b", 1), got("c", 2)]).out_of_order


def test_growing_history_is_read_by_whole_lines(tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path)
    writer = HistoryWriter(tmp_path / "a.jsonl")
    writer.write(acked("a", 0))
    assert list(reader.read()) == [acked("a", 0)]
    assert list(reader.read()) == []
    writer.write(got("a", 0))
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'["failed","p",')
        file.flush()
        assert list(reader.read()) == [got("a", 0)]
        file.write(b'"x","error"]\n')
    assert list(reader.read()) == [Failed("p", "x", "error")]
    assert len(reader.events) == 3
    writer.close()
