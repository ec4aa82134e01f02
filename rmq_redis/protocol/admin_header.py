"""Request headers of tools: a group's offsets, its members, the entries of a queue."""

from __future__ import annotations

from .header import Header, Int32, Int64


class ResetOffsetRequestHeader(Header):
    """INVOKE_BROKER_TO_RESET_OFFSET: to ``timestamp`` (ms; -1: the end), or one queue to ``offset``."""

    topic: str
    group: str
    timestamp: Int64
    is_force: bool = True
    queue_id: Int32 = -1
    offset: Int64 | None = None


class ConsumerStatusRequestHeader(Header):
    """INVOKE_BROKER_TO_GET_CONSUMER_STATUS, and what the broker asks clients. ``client_addr``: only this client id."""

    topic: str
    group: str
    client_addr: str | None = None


class ConsumerClientRequestHeader(Header):
    """GET_CONSUMER_RUNNING_INFO and CONSUME_MESSAGE_DIRECTLY."""

    consumer_group: str
    client_id: str
    msg_id: str | None = None
    topic: str | None = None


class ConsumerRequestHeader(Header):
    """What brokers ask a consumer: 220 and 221 name its ``group``, 307 and 309 its ``consumer_group``."""

    consumer_group: str = ""
    group: str = ""
    topic: str = ""
    broker_name: str = ""


class TopicGroupRequestHeader(Header):
    """QUERY_CONSUME_TIME_SPAN, QUERY_SUBSCRIPTION_BY_CONSUMER."""

    topic: str
    group: str


class BrokerConsumeStatsRequestHeader(Header):
    is_order: bool = False


class ViewBrokerStatsDataRequestHeader(Header):
    """VIEW_BROKER_STATS_DATA: a statistic of RocketMQ's ``BrokerStatsManager`` and its key, such as ``topic@group``."""

    stats_name: str
    stats_key: str


class QueryConsumeQueueRequestHeader(Header):
    topic: str
    queue_id: Int32
    index: Int64
    count: Int32
    consumer_group: str | None = None


class ResumeCheckHalfMessageRequestHeader(Header):
    """``msg_id``: the broker's id of a half message that was given up; ``topic`` is for a proxy's permissions."""

    msg_id: str | None = None
    topic: str | None = None
