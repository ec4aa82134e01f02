"""Bodies about offsets and statistics: how far topics and consumer groups are.

Source: RocketMQ 5.3 ``TopicStatsTable``, ``ConsumeStats``, ``ConsumeStatsList``, ``QueryConsumeTimeSpanBody``,
``QueryConsumeQueueResponseBody``, ``BrokerStatsData``.
"""

from __future__ import annotations

from typing import Any, Self

from ...model import DataVersion, MessageQueue
from .base import Body, convert, object_body
from .heartbeat import SubscriptionData


class TopicOffset(Body, frozen=True, kw_only=True):
    """What one queue holds: offsets ``min_offset`` to ``max_offset`` - 1, the last stored at that ms (0: empty).

    ``store_bytes`` is the memory that they take, if the broker reports it (ours does; Apache's does not: None).
    """

    last_update_timestamp: int = 0
    max_offset: int
    min_offset: int
    store_bytes: int | None = None


class TopicStats(Body, frozen=True, kw_only=True):
    """Answer to GET_TOPIC_STATS_INFO."""

    offset_table: dict[MessageQueue, TopicOffset] = {}
    topic_put_tps: float = 0.0


class ConsumeOffset(Body, frozen=True):
    """How far a group is in one queue; ``last_timestamp`` is the store time (ms) of the last consumed message."""

    broker_offset: int
    consumer_offset: int
    last_timestamp: int = 0
    pull_offset: int = 0

    @property
    def diff(self) -> int:
        """Messages not consumed yet."""
        return self.broker_offset - self.consumer_offset

    @property
    def in_flight(self) -> int:
        """Messages delivered and not consumed yet."""
        return self.pull_offset - self.consumer_offset


class ConsumeStats(Body, frozen=True, kw_only=True):
    """Answer to GET_CONSUME_STATS."""

    consume_tps: float = 0.0
    offset_table: dict[MessageQueue, ConsumeOffset] = {}


class BrokerConsumeStats(Body, frozen=True, kw_only=True):
    """Answer to GET_BROKER_CONSUME_STATS: one item a group, its topics one by one."""

    broker_addr: str
    consume_stats_list: list[dict[str, list[ConsumeStats]]]
    total_diff: int
    total_inflight_diff: int


class QueueTimeSpan(Body, frozen=True, kw_only=True):
    """Store times (ms) of a queue's first, last and last consumed message; ``delay_time`` is the lag in ms."""

    message_queue: MessageQueue
    min_time_stamp: int
    max_time_stamp: int
    consume_time_stamp: int
    delay_time: int


class ConsumeTimeSpans(Body, frozen=True):
    """Answer to QUERY_CONSUME_TIME_SPAN."""

    consume_time_span_set: list[QueueTimeSpan]


class ConsumerOffsetTable(Body, frozen=True, kw_only=True):
    """Answer to GET_ALL_CONSUMER_OFFSET: ``topic@group`` -> queue id -> offset."""

    data_version: DataVersion = DataVersion()
    offset_table: dict[str, dict[int, int]] = {}

    def by_group(self) -> dict[tuple[str, str], dict[int, int]]:
        """(consumer group, topic) -> queue id -> offset."""
        names = {name: name.partition("@") for name in self.offset_table}
        return {(group, topic): self.offset_table[name] for name, (topic, _, group) in names.items()}


class ResetOffsets(Body, frozen=True):
    """Offsets to go on at: answer to INVOKE_BROKER_TO_RESET_OFFSET, body of RESET_CONSUMER_CLIENT_OFFSET."""

    offset_table: dict[MessageQueue, int] = {}

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A table, or the list of queues with an offset that clients in C++ get. Raises RemoteProtocolError."""
        table: Any = object_body(data).get("offsetTable") or {}
        if isinstance(table, list):
            return cls({convert(item, MessageQueue): int(item.get("offset", 0)) for item in table})
        offsets: dict[MessageQueue, int] = convert(table, dict[MessageQueue, int])
        return cls(offsets)


class ConsumerStatus(Body, frozen=True):
    """Answer to GET_CONSUMER_STATUS_FROM_CLIENT: a member's offsets by queue, passed on as the member writes them."""

    message_queue_table: dict[Any, Any] = {}


class ConsumerStatusTable(Body, frozen=True):
    """Answer to INVOKE_BROKER_TO_GET_CONSUMER_STATUS: the offsets of each client id."""

    consumer_table: dict[str, dict[Any, Any]]


class QueueEntry(Body, frozen=True, kw_only=True):
    """A message as RocketMQ's consume queue has it; ``eval`` says whether the group's filter lets it pass."""

    physic_offset: int
    physic_size: int
    tags_code: int
    eval: bool


class QueueEntries(Body, frozen=True, kw_only=True):
    """Answer to QUERY_CONSUME_QUEUE."""

    max_queue_index: int
    min_queue_index: int
    subscription_data: SubscriptionData | None = None
    filter_data: str | None = None
    queue_data: list[QueueEntry]


class StatsItem(Body, frozen=True, kw_only=True):
    """A statistic over a time: the mean per event, the sum, the rate per second."""

    avgpt: float
    sum: int
    tps: float


class BrokerStatsData(Body, frozen=True, kw_only=True):
    """Answer to VIEW_BROKER_STATS_DATA."""

    stats_day: StatsItem
    stats_hour: StatsItem
    stats_minute: StatsItem
