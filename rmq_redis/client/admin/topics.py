"""Topics: created, changed, deleted and looked up. A part of ``AsyncAdmin``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import tenacity

from ...codes import Perm, RequestCode
from ...errors import RequestCodeNotSupportedError, RouteNotFoundError, TopicNotExistError
from ...model import MASTER_ID, ORDER_TOPIC_CONFIG, MessageQueue, TopicConfig, TopicRouteData
from ...protocol.bodies.base import object_body
from ...protocol.bodies.progress import TopicOffset, TopicStats
from ...protocol.bodies.registration import TopicConfigTable, topic_config
from ...protocol.bodies.topics import TopicList
from ...protocol.command import request
from ...protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from ..core.arguments import seconds_of
from .kv_config import KvConfigAdmin

DEFAULT_QUEUE_NUMS = 8
"""Queues per broker of a topic that is created by hand. Source: mqadmin's updateTopic."""
_ROUTE_POLL_S = 0.05
"""Short beside the time in which a broker registers a new topic."""


class TopicAdmin(KvConfigAdmin):
    """Methods of ``AsyncAdmin`` for topics."""

    async def create_topic(
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
        """Creates a topic, or changes it, on every master of ``cluster`` (default: of all) or on one broker.

        Args:
            queue_nums: queues per broker, for reading and writing if not given apart.
            order: also writes the topic's order configuration (ORDER_TOPIC_CONFIG) to the NameServers, or adds to it:
                every producer spreads sharding keys over exactly these queues, and waits while one cannot be written.

        Returns:
            The brokers' addresses. Clients see the topic as soon as the brokers have told the NameServers:
            ``wait_for_route``.
        """
        header = CreateTopicRequestHeader(
            topic,
            queue_nums if read_queue_nums is None else read_queue_nums,
            queue_nums if write_queue_nums is None else write_queue_nums,
            perm,
            order=order,
            attributes=attributes,
        )
        addresses = [broker_addr] if broker_addr else await self.master_addresses(cluster)
        for address in addresses:
            await self._call(address, request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
        if order:
            known = await self.get_kv_config(ORDER_TOPIC_CONFIG, topic)
            await self._add_to_order_conf(topic, known or "", header.write_queue_nums, addresses)
        return addresses

    async def _add_to_order_conf(self, topic: str, known: str, queue_nums: int, addresses: Sequence[str]) -> None:
        """Sets the queues of some masters in an order configuration that is ``known``; those of others stay."""
        entries = dict(item.partition(":")[::2] for item in known.split(";") if item)
        for name, data in (await self.cluster_info()).brokers.items():
            if data.broker_addrs.get(MASTER_ID) in addresses:
                entries[name] = str(queue_nums)
        conf = ";".join(f"{name}:{nums}" for name, nums in sorted(entries.items()))
        await self.put_kv_config(ORDER_TOPIC_CONFIG, topic, conf)

    async def update_topic(
        self,
        topic: str,
        *,
        queue_nums: int | None = None,
        perm: int | None = None,
        attributes: str | None = None,
        cluster: str | None = None,
    ) -> list[str]:
        """Changes what is given of a topic, on every master of ``cluster`` (default: of all) that has it.

        Args:
            attributes: ``+name=value,-name``.

        Returns:
            The brokers' addresses.

        Raises:
            TopicNotExistError: no broker has the topic.
        """
        changed = [
            address
            for address in await self.master_addresses(cluster)
            if await self._update_at(address, topic, queue_nums, perm, attributes)
        ]
        if not changed:
            raise TopicNotExistError(f"no broker has the topic {topic!r}")
        if queue_nums and (conf := await self.get_kv_config(ORDER_TOPIC_CONFIG, topic)):
            await self._add_to_order_conf(topic, conf, queue_nums, changed)
        return changed

    async def _update_at(
        self, address: str, topic: str, queue_nums: int | None, perm: int | None, attributes: str | None
    ) -> bool:
        """Changes a topic at one broker; False if the broker does not have it."""
        try:
            known = await self.topic_config(topic, broker_addr=address)
        except TopicNotExistError:
            return False
        header = CreateTopicRequestHeader(
            topic,
            known.read_queue_nums if queue_nums is None else queue_nums,
            known.write_queue_nums if queue_nums is None else queue_nums,
            known.perm if perm is None else perm,
            order=known.order,
            attributes=attributes,
        )
        await self._call(address, request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
        return True

    async def delete_topic(self, topic: str, *, cluster: str | None = None) -> None:
        """Deletes a topic with its messages from the brokers of ``cluster`` (default: of all) and the NameServers."""
        for address in await self.master_addresses(cluster):
            await self._call(address, request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader(topic)))
        await self._instance.routes.name_servers.call_all(
            lambda: request(RequestCode.DELETE_TOPIC_IN_NAMESRV, TopicRequestHeader(topic, cluster))
        )
        with contextlib.suppress(RequestCodeNotSupportedError):
            if cluster is None and await self.get_kv_config(ORDER_TOPIC_CONFIG, topic) is not None:
                await self.delete_kv_config(ORDER_TOPIC_CONFIG, topic)
        self._instance.routes.routes.pop(topic, None)

    async def topic_list(self) -> list[str]:
        """All topics, system topics included, sorted."""
        answer = await self._call_name_server(request(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER))
        return sorted(TopicList.decode(answer.body).topic_list)

    async def topic_route(self, topic: str) -> TopicRouteData:
        """Queries the route of a topic now. Raises RouteNotFoundError for an unknown topic."""
        route = await self._instance.routes.name_servers.route(topic)
        if route is None:
            raise RouteNotFoundError(f"no NameServer knows a route of topic {topic!r}")
        return route

    async def wait_for_route(self, topic: str, timeout_s: float | timedelta = 10.0) -> TopicRouteData:
        """Waits until the NameServer knows the topic. Raises RouteNotFoundError after ``timeout_s``."""
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RouteNotFoundError),
            stop=tenacity.stop_after_delay(seconds_of("timeout_s", timeout_s)),
            wait=tenacity.wait_fixed(_ROUTE_POLL_S),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await policy(self.topic_route, topic)

    async def topic_config(self, topic: str, *, broker_addr: str | None = None) -> TopicConfig:
        """A topic's configuration at one broker (default: the first of its route).

        Raises:
            TopicNotExistError: that broker does not know the topic.
        """
        address = broker_addr or next(iter((await self._brokers_of(topic)).values()))
        try:
            answer = await self._call(address, request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(topic)))
            return topic_config(object_body(answer.body), topic)
        except RequestCodeNotSupportedError:  # a 4.x broker
            pass
        answer = await self._call(address, request(RequestCode.GET_ALL_TOPIC_CONFIG))
        config = TopicConfigTable.decode(answer.body).topic_config_table.get(topic)
        if config is None:
            raise TopicNotExistError(f"no topic {topic!r}", address=address)
        return config

    async def topic_stats(self, topic: str) -> dict[MessageQueue, TopicOffset]:
        """What every queue of a topic holds."""
        stats: dict[MessageQueue, TopicOffset] = {}
        for address in (await self._brokers_of(topic)).values():
            command = request(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader(topic))
            stats |= TopicStats.decode((await self._call(address, command)).body).offset_table
        return dict(sorted(stats.items()))
