from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest
import rmq_redis_least_backlog as plugin

from rmq_redis import Message, MessageQueue
from rmq_redis.config import ClientConfig
from rmq_redis.errors import ConfigError, RouteNotFoundError
from rmq_redis.hookspecs import ClientContext
from rmq_redis.plugins import create_plugin_manager, queue_selector

QUEUES = [MessageQueue("T", "broker-a", number) for number in range(4)]
MESSAGE = Message("T", b"x")


def test_the_queues_that_are_least_behind_are_filled_up_first() -> None:
    known = {QUEUES[0]: 10, QUEUES[1]: 4, QUEUES[2]: 4, QUEUES[3]: 100}

    async def run() -> Counter[MessageQueue]:
        async def ask(topic: str) -> Mapping[MessageQueue, int]:
            return known

        config = ClientConfig()
        select = plugin.LeastBacklog(config, ask, 3600.0)
        select(QUEUES, MESSAGE, None)
        await select.refresh()
        chosen = Counter(select(QUEUES, MESSAGE, None) for _ in range(18))
        plugin.role_stopping("producer", config)
        return chosen

    assert asyncio.run(run()) == {QUEUES[1]: 8, QUEUES[2]: 8, QUEUES[0]: 2}


def test_an_unknown_backlog_leaves_any_queue() -> None:
    async def run() -> set[MessageQueue]:
        async def ask(topic: str) -> Mapping[MessageQueue, int]:
            raise RouteNotFoundError("nobody knows")

        config = ClientConfig()
        select = plugin.LeastBacklog(config, ask, 3600.0)
        select(QUEUES, MESSAGE, None)
        await select.refresh()
        chosen = {select(QUEUES, MESSAGE, None) for _ in range(8)}
        plugin.role_stopping("producer", config)
        return chosen

    assert asyncio.run(run()) == set(QUEUES)


def test_it_needs_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = create_plugin_manager(plugins=(plugin,))
    context = ClientContext(ClientConfig(), lambda name: "")
    monkeypatch.delenv(plugin.GROUP_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="LEAST_BACKLOG_GROUP"):
        queue_selector("least-backlog", manager, context)
    monkeypatch.setenv(plugin.GROUP_VARIABLE, "G")
    assert queue_selector("least-backlog", manager, context)
