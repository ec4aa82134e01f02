"""The topics and consumer groups of a broker: looked up in memory, changed through the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ...codes import Perm
from ...config import BrokerConfig
from ...errors import (
    InvalidParameterError,
    StoreError,
    StoreLostError,
)
from ...model import (
    DEFAULT_QUEUE_NUMS,
    DEFAULT_TOPIC,
    MAX_QUEUE_NUMS,
    RETRY_PREFIX,
    DataVersion,
    MessageQueue,
    TopicConfig,
    group_name_error,
    is_system_topic,
    reply_topic,
    topic_name_error,
)
from ...protocol.group_config import SubscriptionGroupConfig
from ...protocol.pop import pop_retry_topic
from ...store.group.config import ConfigStore, StoredTopic
from ...store.group.offsets import OffsetStore
from ...store.group.queue import Queue
from ...store.group.queues import QueueStore
from ...store.redis.connection import StoreConnection
from ..office import Office

logger = logging.getLogger(__name__)

TEMPLATE_QUEUE_NUMS = 8
"""Minimum queues of TBW102: the most that a client may request. Source: BrokerConfig.defaultTopicQueueNums."""
_ALL_PERMISSIONS = int(Perm.READ | Perm.WRITE | Perm.INHERIT | Perm.PRIORITY)


class Topic:
    """A topic and its queues.

    Attributes:
        queues: one entry per queue id that the topic ever had; those removed from it keep their messages.
        queue_nums: number of queues that can be read or written now.
    """

    __slots__ = ("config", "name_bytes", "queue_numbers", "queue_nums", "queues")

    def __init__(self, stored: StoredTopic, queues: list[Queue]) -> None:
        self.config = stored.config
        self.queue_numbers = stored.queue_numbers
        self.queues = queues
        self.queue_nums = max(self.config.read_queue_nums, self.config.write_queue_nums)
        self.name_bytes = stored.config.topic_name.encode()


class TopicTable:
    """Topics and groups of one broker group.

    ``on_change`` is awaited after every change that NameServers must know, ``on_queue_gone`` is called with every queue
    of a deleted topic.
    """

    def __init__(
        self,
        config: BrokerConfig,
        office: Office,
        configs: ConfigStore,
        queue_store: QueueStore,
        offsets: OffsetStore,
        on_change: Callable[[], Awaitable[None]],
        on_queue_gone: Callable[[Queue], None],
    ) -> None:
        self._config = config
        self._office = office
        self._configs = configs
        self._queue_store = queue_store
        self._offsets = offsets
        self._on_change = on_change
        self._on_queue_gone = on_queue_gone
        self.lock = asyncio.Lock()
        self._version = 0
        self._started_ms = int(time.time() * 1000)
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, SubscriptionGroupConfig] = {}

    async def start(self) -> None:
        """Loads everything; a master creates missing system topics. Raises StoreError.

        First it restores what the store has lost since this broker read it last.
        """
        if self._office.is_writing and self._version > await self._configs.version():
            await self.put_again(self._queue_store.current())
        await self.reload(force=True)
        if not self._office.is_writing:
            return
        for wanted in self._system_topics():
            known = self.topics.get(wanted.topic_name)
            # The template follows its setting, which may have changed since it was created.
            if known is None or (
                wanted.topic_name == DEFAULT_TOPIC and known.config.write_queue_nums != wanted.write_queue_nums
            ):
                await self.add(wanted)
        if not self._config.auto_create_topic_enable and DEFAULT_TOPIC in self.topics:
            del self.topics[DEFAULT_TOPIC]

    def _system_topics(self) -> list[TopicConfig]:
        rw = int(Perm.READ | Perm.WRITE)
        names = ("SELF_TEST_TOPIC", "RMQ_SYS_TRACE_TOPIC", reply_topic(self._config.cluster_name))
        topics = [TopicConfig(topic_name=name, read_queue_nums=1, write_queue_nums=1, perm=rw) for name in names]
        for name in dict.fromkeys((self._config.broker_name, self._config.cluster_name)):
            topics.append(TopicConfig(topic_name=name, read_queue_nums=1, write_queue_nums=1, perm=rw | Perm.INHERIT))
        if self._config.auto_create_topic_enable:
            nums = self._config.default_topic_queue_nums
            if nums >= DEFAULT_QUEUE_NUMS:  # clients select among the first 4 queues of the template
                nums = max(nums, TEMPLATE_QUEUE_NUMS)
            topics.append(
                TopicConfig(
                    topic_name=DEFAULT_TOPIC, read_queue_nums=nums, write_queue_nums=nums, perm=rw | Perm.INHERIT
                )
            )
        return topics

    def is_system(self, topic: str) -> bool:
        """Whether operators may not create or delete this topic."""
        cluster = self._config.cluster_name
        return is_system_topic(topic) or topic in (self._config.broker_name, cluster, reply_topic(cluster))

    async def reload(self, *, force: bool = False) -> bool:
        """Reads topics and groups if they changed since the last time, or if ``force`` is set. Raises StoreError."""
        role = self._queue_store.role
        version = await self._configs.version()
        if version == self._version and self.topics and not force:
            return False
        stored = await self._configs.load_topics()
        groups = await self._configs.load_groups()
        await self._queue_store.open_queues(
            [
                (MessageQueue(name, self._config.broker_name, i), number)
                for name, item in stored.items()
                for i, number in enumerate(item.queue_numbers)
            ]
        )
        if self._queue_store.role != role:  # read as a slave, so too old for a master
            return False
        self.groups = groups
        for gone in self.topics.keys() - stored.keys():
            self._queue_store.forget_queues(gone)
        self.topics = {name: self._topic(item) for name, item in stored.items()}
        self._version = version
        return True

    def _topic(self, stored: StoredTopic) -> Topic:
        name = stored.config.topic_name
        queues = [self._queue_store.queues[name, i] for i in range(len(stored.queue_numbers))]
        for queue in queues:
            queue.first_offset = max(queue.first_offset, stored.first_offset)
        return Topic(stored, queues)

    async def put_again(self, connection: StoreConnection) -> None:
        """Restores topics and groups in a store that lost them, such as a promoted replica. Raises StoreError."""
        topics = [StoredTopic(topic.config, topic.queue_numbers) for topic in self.topics.values()]
        version = await self._configs.put_again(connection, self._version, topics, self.groups.values())
        if version > self._version:
            logger.warning("the store had lost topics or groups: they are written again")
            self._version = version

    async def check(self) -> None:
        """Raises StoreLostError if the store lost configurations: an evicted key, or a snapshot of the same epoch."""
        lost = await self._configs.lost(self._version, has_groups=bool(self.groups))
        if lost:
            raise StoreLostError(f"missing, or older than they were: {', '.join(lost)}")

    @property
    def data_version(self) -> DataVersion:
        # The epoch is the state version, so that of two masters of one group a NameServer prefers the later.
        return DataVersion(counter=self._version, state_version=self._queue_store.epoch, timestamp=self._started_ms)

    def configs(self) -> dict[str, TopicConfig]:
        """All topic configurations by name."""
        return {name: topic.config for name, topic in self.topics.items()}

    # --- topics --------------------------------------------------------------------------------------------------

    async def announce(self) -> None:
        """Registers the topics as they are now at the NameServers."""
        await self._on_change()

    async def put(self, config: TopicConfig) -> None:
        """Creates or changes a topic for an operator.

        Raises:
            InvalidParameterError: illegal name, a system topic, or a queue number out of range.
            StoreError: the store is unavailable.
        """
        if error := self._config_error(config):
            raise InvalidParameterError(error)
        async with self.lock:
            await self.add(config)
        await self.announce()

    def _config_error(self, config: TopicConfig) -> str | None:
        """What is wrong with an operator's configuration, or None."""
        if error := topic_name_error(config.topic_name):
            return error
        if self.is_system(config.topic_name):
            return f"the topic {config.topic_name!r} is a system topic"
        for name, nums in (("readQueueNums", config.read_queue_nums), ("writeQueueNums", config.write_queue_nums)):
            if not 0 <= nums <= MAX_QUEUE_NUMS:
                return f"{name} is {nums}, expected 0 to {MAX_QUEUE_NUMS}"
        if not max(config.read_queue_nums, config.write_queue_nums):
            return "a topic needs at least one queue"
        if not 0 <= config.perm <= _ALL_PERMISSIONS:
            return f"perm is {config.perm}, expected a sum of 4 (read), 2 (write) and 1 (inherit)"
        return None

    async def add(self, config: TopicConfig) -> None:
        """Creates or changes a topic, unchecked and not yet announced; the caller holds ``lock``. Raises StoreError."""
        known = self.topics.get(config.topic_name)
        stored = await self._configs.put_topic(config, known.queue_numbers if known else ())
        await self._queue_store.open_queues(
            [
                (MessageQueue(config.topic_name, self._config.broker_name, i), number)
                for i, number in enumerate(stored.queue_numbers)
            ]
        )
        self.topics[config.topic_name] = self._topic(stored)
        self._version += 1
        logger.info(
            "topic %s: %d read and %d write queues, perm %d",
            config.topic_name,
            config.read_queue_nums,
            config.write_queue_nums,
            config.perm,
        )

    async def delete(self, topic: str) -> None:
        """Deletes a topic with its messages, offsets and POP retry topics; an unknown topic is no error.

        Raises:
            InvalidParameterError: blank, or a system topic.
            StoreError: the store is unavailable.
        """
        if not topic.strip() or self.is_system(topic):
            raise InvalidParameterError(f"the topic {topic!r} is a system topic and cannot be deleted")
        async with self.lock:
            if topic not in self.topics:
                return
            # First from memory: a write after the removal would bring the keys back.
            gone = {name: self.topics.pop(name) for name in (topic, *self._pop_retry_topics(topic))}
            offsets = {
                (group, name): self._offsets.forget((group, name))
                for name in gone
                for group in self._offsets.groups_of(name)
            }
            await asyncio.sleep(0)  # appends of this turn of the loop go to Redis before the removal
            try:
                queues = [queue for deleted in gone.values() for queue in deleted.queues]
                await self._configs.remove_topics(list(gone), queues, list(offsets))
            except StoreError:
                self.topics |= gone
                for (group, name), by_queue in offsets.items():
                    for queue_id, offset in by_queue.items():
                        self._offsets.commit(group, name, queue_id, offset)
                raise
            for name in gone:
                for queue in self._queue_store.forget_queues(name):
                    self._on_queue_gone(queue)
            self._version += 1
            logger.info("topic %s: deleted", ", ".join(gone))
        await self.announce()

    def _pop_retry_topics(self, topic: str) -> list[str]:
        """POP retry topics of a topic, one for each group with offsets in it; without the topic, they are never read.

        ``%RETRY%a_b_c`` can belong to group a and topic b_c, to a_b and c, or to group a_b_c itself. If the name fits
        another existing group or topic, it is kept, as its messages would be lost. Source: RocketMQ 5.3
        ``clearRetryTopicWhenDeleteTopic``, which does not check that.
        """
        found = []
        for group in self._offsets.groups_of(topic):
            name = pop_retry_topic(group, topic)
            meant = name.removeprefix(RETRY_PREFIX)
            splits = [(meant[:i], meant[i + 1 :]) for i, character in enumerate(meant) if character == "_"]
            is_shared = meant in self.groups or any(
                other_group in self.groups and other in self.topics and other != topic for other_group, other in splits
            )
            if name in self.topics and not is_shared:
                found.append(name)
        return found

    # --- groups --------------------------------------------------------------------------------------------------

    async def put_group(self, config: SubscriptionGroupConfig) -> None:
        """Creates or changes a consumer group for an operator. Raises InvalidParameterError, StoreError."""
        error = group_name_error(config.group_name)
        if error is None and not 0 <= config.retry_queue_nums <= MAX_QUEUE_NUMS:
            error = f"retryQueueNums is {config.retry_queue_nums}, expected 0 to {MAX_QUEUE_NUMS}"
        if not error and config.group_retry_policy:
            error = config.group_retry_policy.error()
        if error:
            raise InvalidParameterError(error)
        await self.add_group(config)
        logger.info("consumer group %s: configured", config.group_name)

    async def add_group(self, config: SubscriptionGroupConfig) -> None:
        """Stores a group, unchecked. Raises StoreError."""
        await self._configs.put_group(config)
        self.groups[config.group_name] = config
        self._version += 1

    async def delete_group(self, group: str, *, clean_offsets: bool) -> None:
        """Deletes a consumer group; an unknown one is no error. Raises StoreError."""
        topics = self._offsets.topics_of(group) if clean_offsets else []
        await self._configs.remove_group(group, topics)
        self.groups.pop(group, None)
        self._version += 1
        for topic in topics:
            self._offsets.forget((group, topic))
        logger.info("consumer group %s: deleted", group)

    def group(self, name: str) -> SubscriptionGroupConfig | None:
        """A group's configuration, or None if the group is unknown."""
        return self.groups.get(name)
