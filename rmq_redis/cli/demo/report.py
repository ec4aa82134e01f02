"""What the demo saw: which events arrived, how often, in which order, how fast."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError


@dataclass
class Result:
    """The end of a demo. ``ok``: every event arrived, and the events of every key were handled in their order."""

    ok: bool
    events: int
    sent: int
    repeated_sends: int
    received: int
    duplicates: int
    keys: int
    keys_out_of_order: int
    seconds: float
    throughput_per_s: float
    e2e_p50_ms: float
    e2e_p99_ms: float
    messages_per_queue: dict[str, dict[str, int]] = field(default_factory=dict)
    messages_per_broker: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Collects the reports of the workers.

    Attributes:
        events: how many there are to be sent.
        sent, repeated: what the producer said last.
        received: different events that were handled.
    """

    def __init__(self, events: int) -> None:
        self.events = events
        self.sent = 0
        self.repeated = 0
        self.received = 0
        self.duplicates = 0
        self.e2e_ns: list[int] = []
        self._seen: set[int] = set()
        self._handled: dict[str, list[tuple[int, int]]] = {}
        self._queues: Counter[tuple[str, int]] = Counter()
        self._first_ns = 0
        self._last_ns = 0

    def producer_said(self, what: dict[str, Any]) -> None:
        if "sent" in what:
            self.sent, self.repeated, self._first_ns = what["sent"], what["repeated"], what["first_ns"]

    def consumer_said(self, what: dict[str, Any]) -> None:
        for line, key, seq, broker_name, queue_id, handled_ns, sent_ns in what.get("handled", ()):
            if line in self._seen:
                self.duplicates += 1
                continue
            self._seen.add(line)
            self.received += 1
            self.e2e_ns.append(handled_ns - sent_ns)
            self._handled.setdefault(key, []).append((handled_ns, seq))
            self._queues[broker_name, queue_id] += 1
            self._last_ns = max(self._last_ns, handled_ns)

    @property
    def sent_for_sure(self) -> int:
        """What the producer said last, or what arrived if that is more: the workers' reports are not in step."""
        return max(self.sent, self.received)

    @property
    def complete(self) -> bool:
        return self.received == self.events

    def result(self) -> Result:
        """How it went. Order is that of the handling, over all consumers; a repetition does not count as disorder."""
        out_of_order = 0
        for events in self._handled.values():
            events.sort()
            numbers = [seq for _, seq in events]
            out_of_order += any(later <= earlier for earlier, later in itertools.pairwise(numbers))
        seconds = (self._last_ns - self._first_ns) / 1e9 if self.received else 0.0
        per_queue: dict[str, dict[str, int]] = {}
        for (broker_name, queue_id), count in sorted(self._queues.items()):
            per_queue.setdefault(broker_name, {})[str(queue_id)] = count
        return Result(
            ok=self.complete and self.sent == self.events and out_of_order == 0,
            events=self.events,
            sent=self.sent,
            repeated_sends=self.repeated,
            received=self.received,
            duplicates=self.duplicates,
            keys=len(self._handled),
            keys_out_of_order=out_of_order,
            seconds=round(seconds, 3),
            throughput_per_s=round(self.received / seconds, 1) if seconds > 0 else 0.0,
            e2e_p50_ms=percentile_ms(self.e2e_ns, 50),
            e2e_p99_ms=percentile_ms(self.e2e_ns, 99),
            messages_per_queue=per_queue,
            messages_per_broker={name: sum(queues.values()) for name, queues in per_queue.items()},
        )


def percentile_ms(values_ns: list[int], percent: int) -> float:
    """The smallest value that so many percent are not above; 0 without values."""
    if not values_ns:
        return 0.0
    index = max(0, -(-len(values_ns) * percent // 100) - 1)
    return round(sorted(values_ns)[index] / 1e6, 3)


def check_file(path: Path, key_field: str) -> int:
    """The number of events in a JSON-lines file.

    Raises:
        ConfigError: it has none, or a line that is no JSON object with ``key_field``; the text names the line.
    """
    events = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text:
                continue
            try:
                event = json.loads(text)
            except ValueError as error:
                raise ConfigError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(event, dict) or event.get(key_field) in (None, ""):
                there = f"its fields are {', '.join(event)}" if isinstance(event, dict) else "it is no object"
                raise ConfigError(f"{path}, line {number}: no field {key_field!r} ({there}); see --key-field")
            events += 1
    if not events:
        raise ConfigError(f"{path} has no events: one JSON object a line is needed")
    return events
