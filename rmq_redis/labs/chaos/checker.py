"""Judges a history: what was promised, and whether it was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .history import Acked, Delivered, Event, Failed

_SHOWN = 5
"""Enough to find the fault in the histories, which have all of them."""
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
    - Of one sender's messages in a queue, a later message has the larger offset.
    - A consumer gets the new messages of a queue in ascending order; a repeated offset is a duplicate.
    - All messages of a sender with a sharding key in strict order are in one queue.

    Args:
        keyed: whether a sender uses a sharding key in strict order; None: no sender does.
    """
    judge = _Judge(keyed or (lambda sender: False))
    for event in events:
        if isinstance(event, Failed):
            judge.verdict.failed += 1
        elif isinstance(event, Acked):
            judge.sent(event)
        else:
            judge.delivered(event)
    return judge.end()


class _Judge:
    """What the events so far imply for the next ones."""

    def __init__(self, keyed: Callable[[str], bool]) -> None:
        self.verdict = Verdict()
        self._keyed = keyed
        self._acked: dict[str, Acked] = {}
        self._deliveries: Counter[str] = Counter()
        self._places: dict[tuple[str, int, int], str] = {}
        self._last_sent: dict[tuple[str, str, int], Acked] = {}
        self._queue_of_sender: dict[str, tuple[str, int]] = {}
        self._reached: dict[tuple[str, str, int], int] = {}
        self._seen: set[tuple[str, str, int, int]] = set()

    def sent(self, event: Acked) -> None:
        self._acked[event.body] = event
        self._check_place(event)
        queue = event.broker_name, event.queue_id
        before = self._last_sent.get((event.sender, *queue))
        if before and before.queue_offset >= event.queue_offset:
            self.verdict.out_of_order.append(
                f"{event.sender} sent {before.body} and then {event.body} to {event.broker_name} queue "
                f"{event.queue_id}; they are at {before.queue_offset} and {event.queue_offset}"
            )
        self._last_sent[event.sender, *queue] = event
        if self._keyed(event.sender):
            first = self._queue_of_sender.setdefault(event.sender, queue)
            if first != queue:
                self.verdict.out_of_order.append(f"{event.body} went to {queue}, the key's queue is {first}")

    def delivered(self, event: Delivered) -> None:
        self._check_order(event)
        self._deliveries[event.body] += 1
        self._check_place(event)

    def _check_place(self, event: Acked | Delivered) -> None:
        other = self._places.setdefault((event.broker_name, event.queue_id, event.queue_offset), event.body)
        if other != event.body:
            self.verdict.twice.append(
                f"{event.broker_name} queue {event.queue_id} offset {event.queue_offset} is {other} and {event.body}"
            )

    def _check_order(self, event: Delivered) -> None:
        queue = (event.consumer, event.broker_name, event.queue_id)
        if (*queue, event.queue_offset) in self._seen:
            return
        self._seen.add((*queue, event.queue_offset))
        reached = self._reached.get(queue, -1)
        if event.queue_offset < reached:
            self.verdict.out_of_order.append(
                f"{event.consumer} got offset {event.queue_offset} of {event.broker_name} queue {event.queue_id} after "
                f"{reached}"
            )
        self._reached[queue] = max(event.queue_offset, reached)

    def end(self) -> Verdict:
        """Counts, and finds the missing messages."""
        verdict = self.verdict
        for body, event in self._acked.items():
            is_ok = event.status == _OK
            verdict.acked += is_ok
            verdict.unconfirmed += not is_ok
            if body in self._deliveries:
                continue
            if is_ok:
                verdict.missing.append(
                    f"{body} at {event.broker_name} queue {event.queue_id} offset {event.queue_offset}"
                )
            else:
                verdict.unconfirmed_missing += 1
        verdict.delivered = self._deliveries.total()
        verdict.duplicates = verdict.delivered - len(self._deliveries)
        return verdict
