"""What a topic consists of: its brokers and queues, and its settings."""

from __future__ import annotations

import msgspec

from ..codes import Perm
from .messages import MessageQueue

MAX_QUEUE_NUMS = 1024
"""Queues that a topic may have in one broker group."""
DEFAULT_QUEUE_NUMS = 4
"""Read and write queues that an automatically created topic gets in each broker group."""
MASTER_ID = 0
"""The brokerId of a group's master; slaves have greater ones. Source: ``MixAll.MASTER_ID``."""


class BrokerData(msgspec.Struct, frozen=True):
    """The addresses of one broker group. Key 0 is the master."""

    cluster: str
    broker_name: str
    broker_addrs: dict[int, str]
    zone_name: str = ""


class QueueData(msgspec.Struct, frozen=True):
    """How many queues of a topic one broker group has, and what may be done with them (``Perm`` bits)."""

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


class TopicRouteData(msgspec.Struct, frozen=True):
    """Where the queues of a topic are."""

    broker_datas: list[BrokerData]
    queue_datas: list[QueueData]
    order_topic_conf: str | None = None

    def addresses_of(self, broker_name: str) -> dict[int, str]:
        """brokerId -> ``host:port`` of one group; empty for an unknown one."""
        for broker in self.broker_datas:
            if broker.broker_name == broker_name:
                return broker.broker_addrs
        return {}


def subscribe_queues(topic: str, route: TopicRouteData) -> list[MessageQueue]:
    """The queues that can be read, sorted. Source: MQClientInstance.topicRouteData2TopicSubscribeInfo."""
    return sorted(
        MessageQueue(topic, data.broker_name, queue_id)
        for data in route.queue_datas
        if data.perm & Perm.READ
        for queue_id in range(data.read_queue_nums)
    )


class TopicConfig(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a broker group knows of a topic. ``perm`` is made of ``Perm`` bits."""

    topic_name: str
    read_queue_nums: int = DEFAULT_QUEUE_NUMS
    write_queue_nums: int = DEFAULT_QUEUE_NUMS
    perm: int = int(Perm.READ | Perm.WRITE)
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: int = 0
    order: bool = False
    attributes: dict[str, str] = {}


class DataVersion(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Tells whether a broker's topic table changed: greater counter, newer table."""

    counter: int = 0
    state_version: int = 0
    timestamp: int = 0
