"""Judges a history: what was promised, and whether it was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .history import Acked, Delivered, Event, Failed

_SHOWN = 5
_OK = "SEND_OK"


@dataclass
class Verdict:
    """Counts, and what was wrong.

    Attributes:
        acked: sends answered SEND_OK.
        unconfirmed: sends answered stored, but not confirmed by a replica or the disk.
        unconfirmed_missing: of these, messages that nobody got: allowed, and counted.
        duplicates: deliveries of a body beyond its first.
        missing, twice, out_of_order: violations, each as a line for people.
    """

    acked: int = 0
    unconfirmed: int = 0
    failed: int = 0
    delivered: int = 0
    duplicates: int = 0
    unconfirmed_missing: int = 0
    missing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return len(self.missing) + len(self.twice) + len(self.out_of_order)

    def lines(self) -> list[str]:
        """The verdict for people."""
        lines = [
            f"acknowledged {self.acked}, of these missing {len(self.missing)}",
            f"stored but not confirmed {self.unconfirmed}, of these missing {self.unconfirmed_missing} (allowed)",
            f"not answered {self.failed}",
            f"delivered {self.delivered}, more than once {self.duplicates}",
            f"offsets assigned twice {len(self.twice)}, out of order {len(self.out_of_order)}",
        ]
        for name, found in (("missing", self.missing), ("twice", self.twice), ("out of order", self.out_of_order)):
            lines += [f"  {name}: {line}" for line in found[:_SHOWN]]
        return lines


def check(events: Iterable[Event], *, keyed: Callable[[str], bool] | None = None) -> Verdict:
    """Judges a whole history; the events of one client must be in the order in which they happened.

    - Every message whose send was answered SEND_OK is delivered at least once.
    - No place (queue and offset) holds two messages.
    - Of one sender's messages in a queue, a later one has the larger offset.
    - A consumer gets the messages of a queue that are new to it in ascending order. What it gets again is a duplicate.
    - All messages of a sender with a sharding key in strict order are in one queue.

    Args:
        keyed: whether a sender is such a one; None: none is.
    """
    verdict = Verdict()
    acked: dict[str, Acked] = {}
    times: Counter[str] = Counter()
    places: dict[tuple[str, int, int], str] = {}
    sent_to: dict[tuple[str, str, int], Acked] = {}
    reached: dict[tuple[str, str, int], int] = {}
    seen: set[tuple[str, str, int, int]] = set()
    kept_to: dict[str, tuple[str, int]] = {}

    def place(broker_name: str, queue_id: int, queue_offset: int, body: str) -> None:
        other = places.setdefault((broker_name, queue_id, queue_offset), body)
        if other != body:
            verdict.twice.append(f"{broker_name} queue {queue_id} offset {queue_offset} is {other} and {body}")

    for event in events:
        if isinstance(event, Failed):
            verdict.failed += 1
        elif isinstance(event, Acked):
            acked[event.body] = event
            place(event.broker_name, event.queue_id, event.queue_offset, event.body)
            key = (event.sender, event.broker_name, event.queue_id)
            before = sent_to.get(key)
            if before is not None and before.queue_offset >= event.queue_offset:
                verdict.out_of_order.append(
                    f"{event.sender} sent {before.body} and then {event.body} to {event.broker_name} queue "
                    f"{event.queue_id}; they are at {before.queue_offset} and {event.queue_offset}"
                )
            sent_to[key] = event
            if keyed is not None and keyed(event.sender):
                queue = kept_to.setdefault(event.sender, key[1:])
                if queue != key[1:]:
                    verdict.out_of_order.append(f"{event.body} went to {key[1:]}, the key's queue is {queue}")
        else:
            _check_delivery(event, verdict, reached, seen)
            times[event.body] += 1
            place(event.broker_name, event.queue_id, event.queue_offset, event.body)
    for body, event in acked.items():
        is_ok = event.status == _OK
        verdict.acked += is_ok
        verdict.unconfirmed += not is_ok
        if body not in times:
            if is_ok:
                verdict.missing.append(
                    f"{body} at {event.broker_name} queue {event.queue_id} offset {event.queue_offset}"
                )
            else:
                verdict.unconfirmed_missing += 1
    verdict.delivered = times.total()
    verdict.duplicates = verdict.delivered - len(times)
    return verdict


def _check_delivery(
    event: Delivered,
    verdict: Verdict,
    reached: dict[tuple[str, str, int], int],
    seen: set[tuple[str, str, int, int]],
) -> None:
    queue = (event.consumer, event.broker_name, event.queue_id)
    if (*queue, event.queue_offset) in seen:
        return
    seen.add((*queue, event.queue_offset))
    if event.queue_offset < reached.get(queue, -1):
        verdict.out_of_order.append(
            f"{event.consumer} got offset {event.queue_offset} of {event.broker_name} queue {event.queue_id} after "
            f"{reached[queue]}"
        )
    reached[queue] = max(event.queue_offset, reached.get(queue, -1))
