"""Admin: ``AsyncAdmin`` without an event loop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Unpack

from ...codes import Perm
from ...config import ClientConfig
from ...model import MessageExt, MessageQueue, TopicConfig, TopicRouteData
from ...protocol.bodies.progress import ConsumeOffset, TopicOffset
from ...protocol.bodies.route import ClusterInfo
from ...protocol.group_config import SubscriptionGroupConfig
from ..admin.admin import AsyncAdmin
from ..admin.brokers import Backlog
from ..admin.groups import ConsumerConnections
from ..admin.messages import ANY_TIME_MS
from ..admin.topics import DEFAULT_QUEUE_NUMS
from ..core.settings import ClientSettings
from .facade import Renewed


class Admin(Renewed[AsyncAdmin]):
    """``AsyncAdmin`` for code without an event loop."""

    def __init__(
        self, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **settings: Unpack[ClientSettings]
    ) -> None:
        super().__init__(functools.partial(AsyncAdmin, namesrv_addr, config=config, **settings))

    def cluster_info(self) -> ClusterInfo:
        """As ``AsyncAdmin.cluster_info``."""
        return self._run(self._async.cluster_info())

    def master_addresses(self, cluster: str | None = None) -> list[str]:
        """As ``AsyncAdmin.master_addresses``."""
        return self._run(self._async.master_addresses(cluster))

    def master_address(self, broker_name: str) -> str:
        """As ``AsyncAdmin.master_address``."""
        return self._run(self._async.master_address(broker_name))

    def runtime_info(self, broker_addr: str) -> dict[str, str]:
        """As ``AsyncAdmin.runtime_info``."""
        return self._run(self._async.runtime_info(broker_addr))

    def consumer_offsets(self, broker_addr: str) -> dict[tuple[str, str], dict[int, int]]:
        """As ``AsyncAdmin.consumer_offsets``."""
        return self._run(self._async.consumer_offsets(broker_addr))

    def backlog(self, broker_name: str) -> Backlog:
        """As ``AsyncAdmin.backlog``."""
        return self._run(self._async.backlog(broker_name))

    def wipe_write_perm(self, broker_name: str) -> int:
        """As ``AsyncAdmin.wipe_write_perm``."""
        return self._run(self._async.wipe_write_perm(broker_name))

    def add_write_perm(self, broker_name: str) -> int:
        """As ``AsyncAdmin.add_write_perm``."""
        return self._run(self._async.add_write_perm(broker_name))

    def create_topic(
        self,
        topic: str,
        *,
        queue_nums: int = DEFAULT_QUEUE_NUMS,
        read_queue_nums: int | None = None,
        write_queue_nums: int | None = None,
        perm: int = int(Perm.READ | Perm.WRITE),
        order: bool = False,
        attributes: str | None = None,
        cluster: str | None = None,
        broker_addr: str | None = None,
    ) -> list[str]:
        """As ``AsyncAdmin.create_topic``."""
        return self._run(
            self._async.create_topic(
                topic,
                queue_nums=queue_nums,
                read_queue_nums=read_queue_nums,
                write_queue_nums=write_queue_nums,
                perm=perm,
                order=order,
                attributes=attributes,
                cluster=cluster,
                broker_addr=broker_addr,
            )
        )

    def update_topic(
        self,
        topic: str,
        *,
        queue_nums: int | None = None,
        perm: int | None = None,
        attributes: str | None = None,
        cluster: str | None = None,
    ) -> list[str]:
        """As ``AsyncAdmin.update_topic``."""
        return self._run(
            self._async.update_topic(topic, queue_nums=queue_nums, perm=perm, attributes=attributes, cluster=cluster)
        )

    def delete_topic(self, topic: str, *, cluster: str | None = None) -> None:
        """As ``AsyncAdmin.delete_topic``."""
        self._run(self._async.delete_topic(topic, cluster=cluster))

    def topic_list(self) -> list[str]:
        """As ``AsyncAdmin.topic_list``."""
        return self._run(self._async.topic_list())

    def topic_route(self, topic: str) -> TopicRouteData:
        """As ``AsyncAdmin.topic_route``."""
        return self._run(self._async.topic_route(topic))

    def wait_for_route(self, topic: str, timeout_s: float | timedelta = 10.0) -> TopicRouteData:
        """As ``AsyncAdmin.wait_for_route``."""
        return self._run(self._async.wait_for_route(topic, timeout_s))

    def topic_config(self, topic: str, *, broker_addr: str | None = None) -> TopicConfig:
        """As ``AsyncAdmin.topic_config``."""
        return self._run(self._async.topic_config(topic, broker_addr=broker_addr))

    def topic_stats(self, topic: str) -> dict[MessageQueue, TopicOffset]:
        """As ``AsyncAdmin.topic_stats``."""
        return self._run(self._async.topic_stats(topic))

    def create_group(
        self,
        group: str,
        *,
        retry_max_times: int = 16,
        retry_queue_nums: int = 1,
        retry_delays_s: Sequence[float] = (),
        consume_enable: bool = True,
        consume_broadcast_enable: bool = True,
        cluster: str | None = None,
        broker_addr: str | None = None,
    ) -> list[str]:
        """As ``AsyncAdmin.create_group``."""
        return self._run(
            self._async.create_group(
                group,
                retry_max_times=retry_max_times,
                retry_queue_nums=retry_queue_nums,
                retry_delays_s=retry_delays_s,
                consume_enable=consume_enable,
                consume_broadcast_enable=consume_broadcast_enable,
                cluster=cluster,
                broker_addr=broker_addr,
            )
        )

    def group_configs(self, broker_addr: str) -> dict[str, SubscriptionGroupConfig]:
        """As ``AsyncAdmin.group_configs``."""
        return self._run(self._async.group_configs(broker_addr))

    def put_group_config(self, config: SubscriptionGroupConfig, broker_addr: str) -> None:
        """As ``AsyncAdmin.put_group_config``."""
        self._run(self._async.put_group_config(config, broker_addr))

    def delete_group(self, group: str, *, clean_offset: bool = True, cluster: str | None = None) -> None:
        """As ``AsyncAdmin.delete_group``."""
        self._run(self._async.delete_group(group, clean_offset=clean_offset, cluster=cluster))

    def consumer_connections(self, group: str) -> ConsumerConnections:
        """As ``AsyncAdmin.consumer_connections``."""
        return self._run(self._async.consumer_connections(group))

    def consume_stats(self, group: str, topic: str | None = None) -> dict[MessageQueue, ConsumeOffset]:
        """As ``AsyncAdmin.consume_stats``."""
        return self._run(self._async.consume_stats(group, topic))

    def reset_offset(self, group: str, topic: str, timestamp_ms: int, *, force: bool = True) -> dict[MessageQueue, int]:
        """As ``AsyncAdmin.reset_offset``."""
        return self._run(self._async.reset_offset(group, topic, timestamp_ms, force=force))

    def reset_queue_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """As ``AsyncAdmin.reset_queue_offset``."""
        self._run(self._async.reset_queue_offset(group, queue, offset))

    def view_message(self, message_id: str, topic: str | None = None) -> MessageExt:
        """As ``AsyncAdmin.view_message``."""
        return self._run(self._async.view_message(message_id, topic))

    def resume_check_half_message(self, offset_msg_id: str) -> MessageExt:
        """As ``AsyncAdmin.resume_check_half_message``."""
        return self._run(self._async.resume_check_half_message(offset_msg_id))

    def query_message(
        self, topic: str, key: str, *, max_num: int = 32, begin_ms: int = 0, end_ms: int = ANY_TIME_MS
    ) -> list[MessageExt]:
        """As ``AsyncAdmin.query_message``."""
        return self._run(self._async.query_message(topic, key, max_num=max_num, begin_ms=begin_ms, end_ms=end_ms))

    def query_by_unique_key(
        self, topic: str, unique_key: str, *, begin_ms: int = 0, end_ms: int = ANY_TIME_MS
    ) -> list[MessageExt]:
        """As ``AsyncAdmin.query_by_unique_key``."""
        return self._run(self._async.query_by_unique_key(topic, unique_key, begin_ms=begin_ms, end_ms=end_ms))

    def message_at(self, queue: MessageQueue, offset: int) -> MessageExt:
        """As ``AsyncAdmin.message_at``."""
        return self._run(self._async.message_at(queue, offset))

    def min_offset(self, queue: MessageQueue) -> int:
        """As ``AsyncAdmin.min_offset``."""
        return self._run(self._async.min_offset(queue))

    def max_offset(self, queue: MessageQueue) -> int:
        """As ``AsyncAdmin.max_offset``."""
        return self._run(self._async.max_offset(queue))

    def search_offset(self, queue: MessageQueue, timestamp_ms: int) -> int:
        """As ``AsyncAdmin.search_offset``."""
        return self._run(self._async.search_offset(queue, timestamp_ms))

    def put_kv_config(self, namespace: str, key: str, value: str) -> None:
        """As ``AsyncAdmin.put_kv_config``."""
        self._run(self._async.put_kv_config(namespace, key, value))

    def get_kv_config(self, namespace: str, key: str) -> str | None:
        """As ``AsyncAdmin.get_kv_config``."""
        return self._run(self._async.get_kv_config(namespace, key))

    def delete_kv_config(self, namespace: str, key: str) -> None:
        """As ``AsyncAdmin.delete_kv_config``."""
        self._run(self._async.delete_kv_config(namespace, key))

    def kv_config(self, namespace: str) -> dict[str, str]:
        """As ``AsyncAdmin.kv_config``."""
        return self._run(self._async.kv_config(namespace))
