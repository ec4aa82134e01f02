"""Counters of stored and delivered messages per topic, queue and consumer group.

Stored messages are counted at their queue (``Queue.puts``), deliveries here. Code 28, code 315 and metrics sinks read
the same counters. Names and keys are those of RocketMQ 5.3 ``BrokerStatsManager``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..store.group.counters import Counter, Window, add_up
from ..store.group.queue import Queue
from ..store.group.queues import QueueStore
from .group.topics import TopicTable

GroupTopic = tuple[str, str]

_WITHOUT_SYSTEM_TOPIC = "_WITHOUT_SYSTEM_TOPIC"
_IDLE_LOOK_S = 3600.0
"""Counters are dropped after a day, and one hour more does not matter."""


class Windows(NamedTuple):
    """The windows of a statistic of code 315, and the field of ``Total`` that it shows."""

    field: str
    windows: tuple[Window, Window, Window]


class BrokerStatistics:
    """Counters of one broker process; they start at 0 with it.

    Attributes:
        gets: messages delivered by pull and POP; ``times`` counts the requests that got at least one.
        miss_total: requests that were answered without a message.
        longest_get_ms: the longest read of a delivery.
        acks, checkpoints: acknowledged messages, and POP answers with messages.
    """

    def __init__(self, cluster_name: str, topics: TopicTable, queue_store: QueueStore) -> None:
        self._cluster_name = cluster_name
        self._topics = topics
        self._queue_store = queue_store
        self.gets = Counter()
        self.miss_total = 0
        self.longest_get_ms = 0
        self.acks = Counter()
        self.checkpoints = Counter()
        self._system_gets: list[Counter] = []
        self._looked_s = time.monotonic()
        self._gets: dict[GroupTopic, dict[int, Counter]] = {}
        self._acks: dict[GroupTopic, Counter] = {}
        self._checkpoints: dict[GroupTopic, Counter] = {}
        self._send_backs: dict[GroupTopic, Counter] = {}
        self._readers = self._make_readers()

    # --- counting ------------------------------------------------------------------------------------------------

    def delivered(self, group: str, queue: Queue, nums: int, size: int, ms: int) -> None:
        """A group got ``nums`` messages of ``size`` bytes from a queue, which took ``ms`` milliseconds to read."""
        pair = (group, queue.topic)
        queues = self._gets.get(pair)
        if queues is None:
            queues = self._gets[pair] = {}
        counter = queues.get(queue.queue_id)
        if counter is None:
            counter = queues[queue.queue_id] = Counter()
            if self._topics.is_system(queue.topic):
                self._system_gets.append(counter)
        counter.add(nums, size, ms)
        self.gets.add(nums, size, ms)
        self.longest_get_ms = max(self.longest_get_ms, ms)

    def popped(self, group: str, queue: Queue, nums: int, size: int) -> None:
        """As ``delivered``, by POP."""
        self.delivered(group, queue, nums, size, 0)
        _count(self._checkpoints, (group, queue.topic), 1)
        self.checkpoints.add(1, 0)

    def acknowledged(self, group: str, topic: str, nums: int) -> None:
        """A group acknowledged popped messages. Unknown groups are not counted, as clients could make up names."""
        if nums and self._topics.group(group):
            _count(self._acks, (group, topic), nums)
            self.acks.add(nums, 0)

    def sent_back(self, group: str, topic: str) -> None:
        """A group gave back a message of a topic (CONSUMER_SEND_MSG_BACK)."""
        _count(self._send_backs, (group, topic), 1)

    def forget_topic(self, topic: str) -> None:
        """Drops the counters of a deleted topic. Those of its queues are part of the queues."""
        self._forget(lambda pair: pair[1] == topic)

    def forget_group(self, group: str) -> None:
        """Drops the counters of a deleted group."""
        self._forget(lambda pair: pair[0] == group)

    def _forget(self, is_gone: Callable[[GroupTopic], bool]) -> None:
        for table in (self._gets, self._acks, self._checkpoints, self._send_backs):
            for pair in [pair for pair in table if is_gone(pair)]:
                del table[pair]

    def forget_idle(self) -> None:
        """Drops counters without an event for a day; looks once an hour."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _IDLE_LOOK_S:
            return
        self._looked_s = now_s
        self._system_gets = [counter for counter in self._system_gets if not counter.is_idle()]
        for pair, queues in list(self._gets.items()):
            if all(counter.is_idle() for counter in queues.values()):
                del self._gets[pair]
        for table in (self._acks, self._checkpoints, self._send_backs):
            for pair, counter in list(table.items()):
                if counter.is_idle():
                    del table[pair]

    # --- reading (code 315) --------------------------------------------------------------------------------------

    def windows(self, name: str, key: str) -> Windows | None:
        """The last minute, hour and day of a statistic; None for an unknown name, or one that was never counted."""
        reader = self._readers.get(name)
        if reader is None:
            return None
        field, find = reader
        found = _sum(find(key))
        if found is None:
            return None
        if name.endswith(_WITHOUT_SYSTEM_TOPIC):
            system = _sum(self._system_puts() if name.startswith("BROKER_PUT") else self._system_gets)
            found = found if system is None else (found[0] - system[0], found[1] - system[1], found[2] - system[2])
        return Windows(field, found)

    def tps(self, name: str, key: str) -> float:
        """A statistic per second, of the last minute."""
        found = self.windows(name, key)
        if found is None:
            return 0.0
        minute = found.windows[0]
        total: int = getattr(minute.total, found.field)
        return total / minute.elapsed_s

    def _make_readers(self) -> dict[str, tuple[str, Callable[[str], Iterable[Counter]]]]:
        return {
            "TOPIC_PUT_NUMS": ("nums", self._topic_puts),
            "TOPIC_PUT_SIZE": ("size", self._topic_puts),
            "QUEUE_PUT_NUMS": ("nums", self._queue_puts),
            "QUEUE_PUT_SIZE": ("size", self._queue_puts),
            "TOPIC_PUT_LATENCY": ("ms", self._latency_puts),
            "GROUP_GET_NUMS": ("nums", self._group_gets),
            "GROUP_GET_SIZE": ("size", self._group_gets),
            "QUEUE_GET_NUMS": ("nums", self._queue_gets),
            "QUEUE_GET_SIZE": ("size", self._queue_gets),
            "GROUP_GET_LATENCY": ("ms", self._latency_gets),
            "GROUP_ACK_NUMS": ("nums", lambda key: _of_pair(self._acks, key)),
            "GROUP_CK_NUMS": ("nums", lambda key: _of_pair(self._checkpoints, key)),
            "SNDBCK_PUT_NUMS": ("nums", lambda key: _of_pair(self._send_backs, key)),
            "BROKER_PUT_NUMS": ("nums", lambda key: self._of_broker(key, [self._queue_store.puts])),
            "BROKER_GET_NUMS": ("nums", lambda key: self._of_broker(key, [self.gets])),
            "BROKER_ACK_NUMS": ("nums", lambda key: self._of_broker(key, [self.acks])),
            "BROKER_CK_NUMS": ("nums", lambda key: self._of_broker(key, [self.checkpoints])),
            "BROKER_PUT_NUMS" + _WITHOUT_SYSTEM_TOPIC: (
                "nums",
                lambda key: self._of_broker(key, [self._queue_store.puts]),
            ),
            "BROKER_GET_NUMS" + _WITHOUT_SYSTEM_TOPIC: ("nums", lambda key: self._of_broker(key, [self.gets])),
        }

    def _of_broker(self, key: str, counters: Iterable[Counter]) -> Iterable[Counter]:
        return counters if key == self._cluster_name else ()

    def _topic_puts(self, key: str) -> Iterator[Counter]:
        topic = self._topics.topics.get(key)
        return (queue.puts for queue in (topic.queues if topic else ()) if queue.puts)

    def _queue_puts(self, key: str) -> list[Counter]:
        """``topic@queueId``"""
        topic, _, queue_id = key.rpartition("@")
        queue = self._queue_store.queues.get((topic, _queue_id(queue_id)))
        return [queue.puts] if queue and queue.puts else []

    def _latency_puts(self, key: str) -> list[Counter]:
        """``queueId@topic``"""
        queue_id, _, topic = key.partition("@")
        return self._queue_puts(f"{topic}@{queue_id}")

    def _group_gets(self, key: str) -> Iterable[Counter]:
        """``topic@group``"""
        topic, _, group = key.partition("@")
        return self._gets.get((group, topic), {}).values()

    def _queue_gets(self, key: str) -> list[Counter]:
        """``topic@queueId@group``"""
        topic, _, rest = key.partition("@")
        queue_id, _, group = rest.partition("@")
        counter = self._gets.get((group, topic), {}).get(_queue_id(queue_id))
        return [] if counter is None else [counter]

    def _latency_gets(self, key: str) -> Iterable[Counter]:
        """``queueId@topic@group``, or ``topic@group`` for all its queues"""
        if key.count("@") < 2:
            return self._group_gets(key)
        queue_id, topic, group = key.split("@", 2)
        return self._queue_gets(f"{topic}@{queue_id}@{group}")

    def _system_puts(self) -> Iterator[Counter]:
        for name, topic in self._topics.topics.items():
            if self._topics.is_system(name):
                yield from (queue.puts for queue in topic.queues if queue.puts)


def _queue_id(text: str) -> int:
    """A queue id; -1 for other text. Python refuses to convert numbers with thousands of digits."""
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _sum(counters: Iterable[Counter]) -> tuple[Window, Window, Window] | None:
    """The sum of several counters' windows; None without counters."""
    found = [counter.windows() for counter in counters]
    if not found:
        return None
    minute, hour, day = (add_up(windows) for windows in zip(*found, strict=True))
    return minute, hour, day


def _count(table: dict[GroupTopic, Counter], pair: GroupTopic, nums: int) -> None:
    counter = table.get(pair)
    if counter is None:
        counter = table[pair] = Counter()
    counter.add(nums, 0)


def _of_pair(table: dict[GroupTopic, Counter], key: str) -> list[Counter]:
    """``topic@group``"""
    topic, _, group = key.partition("@")
    counter = table.get((group, topic))
    return [] if counter is None else [counter]
