"""Headers of tools: topics, groups and their statistics."""

from __future__ import annotations

from .base import Header, Int32


class CreateTopicRequestHeader(Header):
    topic: str
    read_queue_nums: Int32
    write_queue_nums: Int32
    perm: Int32
    default_topic: str = "TBW102"
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int32 | None = None
    order: bool = False
    attributes: str | None = None
    force: bool | None = None


class TopicRequestHeader(Header):
    """Any command that names just a topic (DELETE_TOPIC_IN_BROKER, GET_TOPIC_STATS_INFO, GET_TOPIC_CONFIG, ...)."""

    topic: str
    cluster_name: str | None = None


class GroupRequestHeader(Header):
    group: str


class DeleteSubscriptionGroupRequestHeader(Header):
    group_name: str
    clean_offset: bool = False


class TopicGroupRequestHeader(Header):
    """QUERY_CONSUME_TIME_SPAN, QUERY_SUBSCRIPTION_BY_CONSUMER."""

    topic: str
    group: str


class ConsumeStatsRequestHeader(Header):
    consumer_group: str
    topic: str | None = None
    topic_list: str | None = None


class BrokerConsumeStatsRequestHeader(Header):
    is_order: bool = False


class ViewBrokerStatsDataRequestHeader(Header):
    """VIEW_BROKER_STATS_DATA: a statistic of RocketMQ's ``BrokerStatsManager`` and its key, such as ``topic@group``."""

    stats_name: str
    stats_key: str
