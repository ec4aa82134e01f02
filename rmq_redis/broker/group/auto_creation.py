"""Topics and groups that are made when they are first used: on a send, a heartbeat, a pull, a dead letter.

Source: RocketMQ 5.3 ``TopicConfigManager``, ``SubscriptionGroupManager``.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ...codes import Perm
from ...config import BrokerConfig
from ...errors import (
    InvalidParameterError,
    NoPermissionError,
    SubscriptionGroupNotExistError,
    TopicNotExistError,
)
from ...model import (
    DEFAULT_QUEUE_NUMS,
    DEFAULT_TOPIC,
    DLQ_PREFIX,
    RETRY_PREFIX,
    TopicConfig,
    group_name_error,
    topic_name_error,
)
from ...protocol.group_config import SubscriptionGroupConfig
from ..office import Office
from .topics import Topic, TopicTable

logger = logging.getLogger(__name__)

_WARNING_PERIOD_S = 10.0
"""Every send to a new topic meets a reached bound, so it is not logged each time."""


class AutoCreation:
    """Finds a topic or group in the table, or adds it there if the configuration allows it."""

    def __init__(self, config: BrokerConfig, office: Office, table: TopicTable) -> None:
        self._config = config
        self._office = office
        self._table = table
        self._announcements: set[asyncio.Task[None]] = set()
        self._registering: dict[str, asyncio.Task[None]] = {}
        self._next_warning_s = 0.0

    # --- topics --------------------------------------------------------------------------------------------------

    async def topic_for_send(self, topic: str, default_topic: str, queue_nums: int) -> Topic:
        """The topic, made as a client's first send makes it: from a template, or as a retry topic of one queue.

        Args:
            default_topic: the template.
            queue_nums: how many queues the client requests.

        Raises:
            TopicNotExistError: automatic creation is off or the template does not allow it.
            SubscriptionGroupNotExistError: the group of a retry or dead-letter topic cannot be created.
            InvalidParameterError: illegal name.
        """
        table = self._table
        if error := topic_name_error(topic):
            raise InvalidParameterError(error)
        if topic.startswith((RETRY_PREFIX, DLQ_PREFIX)):  # else these names would have no bound
            await self.ensure_group(topic.removeprefix(RETRY_PREFIX).removeprefix(DLQ_PREFIX), retry=False)
        async with table.lock:
            if topic in table.topics:
                return table.topics[topic]
            if topic.startswith(RETRY_PREFIX):
                await table.add(_retry_topic(topic, queue_nums=1))
            else:
                await table.add(self._from_template(topic, default_topic, queue_nums))
        self._announce()  # not awaited: what was sent first must be stored before what comes next
        return table.topics[topic]

    def _from_template(self, topic: str, default_topic: str, queue_nums: int) -> TopicConfig:
        """A topic with the template's permissions, but not its inherit bit, and at most as many queues.

        Clients request 4 queues by default; from TBW102 they get ``default_topic_queue_nums``, so that an operator can
        choose more. Raises TopicNotExistError.
        """
        template = self._table.topics.get(default_topic)
        if template is None or not template.config.perm & Perm.INHERIT:
            raise TopicNotExistError(
                f"the topic {topic!r} does not exist and is not created automatically; create it first"
            )
        if not topic.startswith(DLQ_PREFIX) and self._topics_without_group() >= self._config.max_auto_topics:
            self._warn_of_bound("max_auto_topics", topic)
            raise TopicNotExistError(
                f"the topic {topic!r} does not exist, and this broker has the {self._config.max_auto_topics} "
                "topics up to which it creates them automatically (max_auto_topics); create it first"
            )
        nums = min(max(queue_nums, 1), template.config.write_queue_nums)
        if default_topic == DEFAULT_TOPIC and queue_nums == DEFAULT_QUEUE_NUMS:
            nums = self._config.default_topic_queue_nums
        perm = int(template.config.perm & ~Perm.INHERIT)
        return TopicConfig(topic_name=topic, read_queue_nums=nums, write_queue_nums=nums, perm=perm)

    def _topics_without_group(self) -> int:
        return sum(not name.startswith((RETRY_PREFIX, DLQ_PREFIX)) for name in self._table.topics)

    def _warn_of_bound(self, setting: str, name: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_warning_s:
            self._next_warning_s = now_s + _WARNING_PERIOD_S
            logger.error("%s is reached: %r is not created automatically, nor is any other", setting, name)

    def _announce(self) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._table.announce())
        self._announcements.add(task)
        task.add_done_callback(self._announcements.discard)
        return task

    async def ensure_dead_letter_topic(self, group: str) -> Topic:
        """``%DLQ%group``, made with one queue if it is missing.

        Raises:
            NoPermissionError: it does not allow writing.
            InvalidParameterError: illegal group name.
            StoreError: the store is unavailable.
        """
        name = DLQ_PREFIX + group
        if name not in self._table.topics:
            await self._table.put(TopicConfig(topic_name=name, read_queue_nums=1, write_queue_nums=1))
        topic = self._table.topics[name]
        if not topic.config.perm & Perm.WRITE:
            raise NoPermissionError(f"the topic {name!r} does not allow writing")
        return topic

    async def ensure_system_topic(self, name: str) -> Topic:
        """A system topic of one queue, made if it is missing. Raises StoreError."""
        async with self._table.lock:
            if name not in self._table.topics:
                await self._table.add(TopicConfig(topic_name=name, read_queue_nums=1, write_queue_nums=1))
        return self._table.topics[name]

    # --- groups --------------------------------------------------------------------------------------------------

    async def ensure_group(self, name: str, *, retry: bool = True, registered: bool = True) -> SubscriptionGroupConfig:
        """The group, and its retry topic, made if they are missing.

        The retry topic exists from the first heartbeat on: clients query its route at once and then only every 30 s.

        Args:
            retry: whether the retry topic is needed.
            registered: whether to wait until a new retry topic is in the routes.

        Raises:
            InvalidParameterError: illegal name.
            SubscriptionGroupNotExistError: unknown and not created automatically.
        """
        group = self._table.group(name)
        if group is None or (retry and RETRY_PREFIX + name not in self._table.topics):
            if error := group_name_error(name):
                raise InvalidParameterError(error)
            async with self._table.lock:
                group = self._table.group(name)
                if group is None:
                    group = self._new_group(name)
                    if not self._office.is_master:  # served from memory until the master stores it
                        self._table.groups[name] = group
                        return group
                    await self._table.add_group(group)
                if retry:
                    await self._ensure_retry_topic(group)
        if registered:
            await self.retry_topic_registered(name)
        return group

    def _new_group(self, name: str) -> SubscriptionGroupConfig:
        """The configuration of a new group. Raises SubscriptionGroupNotExistError."""
        if not self._config.auto_create_subscription_group:
            raise SubscriptionGroupNotExistError(
                f"the consumer group {name!r} does not exist and is not created automatically"
            )
        if len(self._table.groups) >= self._config.max_auto_groups:
            self._warn_of_bound("max_auto_groups", name)
            raise SubscriptionGroupNotExistError(
                f"the consumer group {name!r} does not exist, and this broker has the "
                f"{self._config.max_auto_groups} groups up to which it creates them automatically "
                "(max_auto_groups); create it first"
            )
        return SubscriptionGroupConfig(group_name=name)

    async def _ensure_retry_topic(self, group: SubscriptionGroupConfig) -> None:
        """Makes a group's retry topic if it is missing and its name is not too long; the caller holds the lock."""
        name = RETRY_PREFIX + group.group_name
        if name in self._table.topics or topic_name_error(name):
            return
        await self._table.add(_retry_topic(name, group.retry_queue_nums))
        self._registering[name] = task = self._announce()
        task.add_done_callback(lambda _: self._registering.pop(name, None))

    async def retry_topic_registered(self, group: str) -> None:
        """Returns when a registration of a group's new retry topic that is under way has ended."""
        if task := self._registering.get(RETRY_PREFIX + group):
            await asyncio.shield(task)

    def has_retry_topic(self, group: str) -> bool:
        """Whether a group's retry topic exists and is in the routes: members query them only every 30 s."""
        name = RETRY_PREFIX + group
        return name in self._table.topics and name not in self._registering


def _retry_topic(name: str, queue_nums: int) -> TopicConfig:
    return TopicConfig(topic_name=name, read_queue_nums=queue_nums, write_queue_nums=queue_nums)
