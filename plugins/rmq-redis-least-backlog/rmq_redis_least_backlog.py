"""Sends to the queue whose consumers are least behind."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rmq_redis import AsyncAdmin, Message, MessageQueue, hookimpl
from rmq_redis.errors import ConfigError, RmqError
from rmq_redis.hookspecs import ClientContext, QueueSelector

logger = logging.getLogger(__name__)

GROUP_VARIABLE = "LEAST_BACKLOG_GROUP"
PERIOD_VARIABLE = "LEAST_BACKLOG_PERIOD_S"
_tasks: dict[int, asyncio.Task[None]] = {}

Backlogs = Callable[[str], Awaitable[Mapping[MessageQueue, int]]]


class LeastBacklog:
    """The queue with the least (backlog of the group + messages sent there since that was asked).

    The backlog of each topic is asked for in the background, every ``period_s``; until it is known any queue is chosen.
    """

    def __init__(self, config: object, backlogs: Backlogs, period_s: float) -> None:
        self._config = config
        self._backlogs = backlogs
        self._period_s = period_s
        self._behind: dict[str, dict[MessageQueue, int]] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        behind = self._behind.get(message.topic)
        if behind is None:
            behind = self._behind[message.topic] = {}
            if id(self._config) not in _tasks:
                _tasks[id(self._config)] = asyncio.get_running_loop().create_task(self._ask_regularly())
        least = min(behind.get(queue, 0) for queue in queues)
        chosen = random.choice([queue for queue in queues if behind.get(queue, 0) == least])
        behind[chosen] = least + 1
        return chosen

    async def refresh(self) -> None:
        """Asks for the backlogs of the topics in use."""
        for topic in list(self._behind):
            try:
                self._behind[topic] = dict(await self._backlogs(topic))
            except RmqError as error:  # the group has not consumed the topic yet, or a broker is away
                logger.info("backlog of topic %s is not known: %s", topic, error)

    async def _ask_regularly(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._period_s)


def backlogs_of(group: str, namesrv_addr: str) -> Backlogs:
    """Asks the brokers how far a group is behind in each queue of a topic."""

    async def ask(topic: str) -> Mapping[MessageQueue, int]:
        async with AsyncAdmin(namesrv_addr) as admin:
            stats = await admin.consume_stats(group, topic)
        return {queue: max(offset.broker_offset - offset.consumer_offset, 0) for queue, offset in stats.items()}

    return ask


def _make(context: ClientContext) -> LeastBacklog:
    group = os.environ.get(GROUP_VARIABLE, "")
    if not group:
        raise ConfigError(f"LEAST_BACKLOG needs the consumer group whose backlog counts: {GROUP_VARIABLE}=GROUP")
    period_s = float(os.environ.get(PERIOD_VARIABLE, "2"))
    return LeastBacklog(context.config, backlogs_of(group, context.config.namesrv_addr), period_s)


@hookimpl
def register_queue_selectors(context: ClientContext) -> Mapping[str, Callable[[], QueueSelector]]:
    return {"LEAST_BACKLOG": lambda: _make(context)}


@hookimpl
def role_stopping(role: str, config: object) -> None:
    task = _tasks.pop(id(config), None)
    if role == "producer" and task is not None:
        task.cancel()
