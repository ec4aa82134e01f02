"""What a simulation finds out."""

from __future__ import annotations

from dataclasses import dataclass, field

BUCKETS = 60
"""Parts of the duration that figures over time are kept for."""


def percentile(values: list[float], part: float) -> float:
    """The smallest of the sorted values that at least this part of them is not above; 0 without values."""
    return values[max(-int(-part * len(values) // 1), 1) - 1] if values else 0.0


def most_to_mean(values: list[float]) -> float:
    """1 when all are equal; 0 without values."""
    return max(values) * len(values) / sum(values) if any(values) else 0.0


@dataclass
class BrokerFigures:
    """A group: attempts that went there in all and per bucket, messages stored, seconds in the route."""

    name: str
    zone: str
    sent: int = 0
    stored: int = 0
    present_s: float = 0.0
    sent_over_time: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass
class ProducerFigures:
    """What a load balancer made of the sends.

    Attributes:
        latencies_over_time: ms until the answer or the last error, by the bucket in which the send began.
        other_zone: attempts that went to a group of another zone than the producer's.
        keys_moved: sends whose key was in another queue the time before.
        problem: what the strategy did wrong, "" for nothing.
    """

    name: str
    brokers: list[BrokerFigures]
    failed: int = 0
    retries: int = 0
    other_zone: int = 0
    keyed: int = 0
    keys_moved: int = 0
    problem: str = ""
    latencies_over_time: list[list[float]] = field(default_factory=lambda: [[] for _ in range(BUCKETS)])

    def latencies(self) -> list[float]:
        """All, sorted."""
        return sorted(latency for bucket in self.latencies_over_time for latency in bucket)

    @property
    def balance(self) -> float:
        """The busiest group's stored messages, per second in the route, to the mean of all groups."""
        return most_to_mean([broker.stored / broker.present_s for broker in self.brokers if broker.present_s])


@dataclass
class Change:
    """The shares after a change of members or queues.

    Attributes:
        most, fewest: queues of one member.
        moved: queues that were there before and have another owner now.
        least_moves: as many must move for even shares (which differ by one queue at most).
        problem: why there are no shares, "" if every queue has exactly one owner.
    """

    at_s: float
    what: str
    members: int
    queues: int
    most: int = 0
    fewest: int = 0
    moved: int = 0
    least_moves: int = 0
    problem: str = ""

    @property
    def balance(self) -> float:
        """Most queues of a member to the mean."""
        return self.most * self.members / self.queues if self.queues else 0.0


@dataclass
class ConsumerFigures:
    """What an allocate strategy made of a group's members."""

    name: str
    group: str
    changes: list[Change] = field(default_factory=list)
    problem: str = ""
