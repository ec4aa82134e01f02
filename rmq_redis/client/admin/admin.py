"""AsyncAdmin: topics, groups, offsets and messages; for the command line, the console and tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Unpack

import msgspec
import tenacity

from ...codes import Perm, RequestCode
from ...config import ClientConfig
from ...errors import (
    ConsumerNotOnlineError,
    QueryNotFoundError,
    RequestCodeNotSupportedError,
    ResponseError,
    RouteNotFoundError,
    TopicNotExistError,
)
from ...model import (
    MASTER_ID,
    ORDER_TOPIC_CONFIG,
    RETRY_PREFIX,
    MessageQueue,
    TopicConfig,
    TopicRouteData,
    subscribe_queues,
)
from ...protocol.bodies.base import object_body
from ...protocol.bodies.clients import ClientConnection, ConsumerConnection
from ...protocol.bodies.heartbeat import SubscriptionData
from ...protocol.bodies.progress import ConsumeOffset, ConsumeStats, ResetOffsets, TopicOffset, TopicStats
from ...protocol.bodies.registration import TopicConfigTable, topic_config
from ...protocol.bodies.route import ClusterInfo, decode_cluster_info
from ...protocol.bodies.topics import KvTable, SubscriptionGroupTable, TopicList
from ...protocol.command import RemotingCommand, request
from ...protocol.group_config import GroupRetryPolicy, SubscriptionGroupConfig
from ...protocol.headers.admin import (
    ConsumeStatsRequestHeader,
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    TopicRequestHeader,
)
from ...protocol.headers.clients import ConsumerGroupRequestHeader
from ...protocol.headers.kv_config import KvConfigRequestHeader, KvConfigResponseHeader, KvListRequestHeader
from ...protocol.headers.offsets import ResetOffsetRequestHeader
from ...protocol.headers.registration import (
    AddWritePermResponseHeader,
    BrokerNameRequestHeader,
    WipeWritePermResponseHeader,
)
from ..core.instance import MQClientInstance, client_config
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings
from .brokers import BrokerQueries
from .messages import MessageQueries

DEFAULT_QUEUE_NUMS = 8
_ROUTE_POLL_S = 0.05  # short beside the time in which a broker registers a new topic
"""Queues per broker of a topic that is created by hand."""


class ConsumerConnections(msgspec.Struct, frozen=True):
    """The members of a group that are online, and what they subscribed to.

    Attributes:
        warnings: what keeps the members from working together, in sentences; empty from Apache's brokers.
    """

    connections: list[ClientConnection]
    subscriptions: dict[str, SubscriptionData]
    consume_type: str
    message_model: str
    consume_from_where: str
    warnings: list[str] = []


class AsyncAdmin(BrokerQueries, MessageQueries, AsyncClient):
    """Administration. Use it as an async context manager, or call ``start`` and ``close``.

    Every method raises RemotingError when a server does not answer and the ResponseError of a code that is no success.

    Args:
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` come on top of it.
        settings: single fields of ``ClientConfig``.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **settings: Unpack[ClientSettings]
    ) -> None:
        self.config = client_config(namesrv_addr, config, settings, type(self))
        self._instance = MQClientInstance(self.config)

    async def start(self) -> None:
        """Makes the client ready. Raises ClientError when it was started before."""
        await self._instance.start()

    async def close(self) -> None:
        """Closes the connections. A second call does nothing."""
        await self._instance.close()

    async def _call_name_server(self, command: RemotingCommand) -> RemotingCommand:
        return await self._instance.routes.name_servers.call(command)

    async def _call(self, address: str, command: RemotingCommand) -> RemotingCommand:
        return await self._instance.broker.call(address, command)

    # --- cluster -------------------------------------------------------------------------------------------------

    async def cluster_info(self) -> ClusterInfo:
        """All brokers and clusters."""
        answer = await self._call_name_server(request(RequestCode.GET_BROKER_CLUSTER_INFO))
        return decode_cluster_info(answer.body)

    async def master_addresses(self, cluster: str | None = None) -> list[str]:
        """The masters of a cluster, or of all clusters. Raises RouteNotFoundError when there is none."""
        info = await self.cluster_info()
        if cluster is None:
            names = set(info.brokers)
        elif cluster in info.clusters:
            names = set(info.clusters[cluster])
        else:
            raise RouteNotFoundError(f"no cluster {cluster!r}; there are: {', '.join(sorted(info.clusters)) or 'none'}")
        masters = [
            info.brokers[name].broker_addrs[MASTER_ID]
            for name in sorted(names)
            if name in info.brokers and MASTER_ID in info.brokers[name].broker_addrs
        ]
        if not masters:
            raise RouteNotFoundError("no master broker is registered" + (f" in cluster {cluster!r}" if cluster else ""))
        return masters

    async def wipe_write_perm(self, broker_name: str) -> int:
        """Takes the write permission of all topics of a broker away; the number of topics."""
        answer = await self._instance.routes.name_servers.call_all(
            lambda: request(RequestCode.WIPE_WRITE_PERM_OF_BROKER, BrokerNameRequestHeader(broker_name))
        )
        return answer.header(WipeWritePermResponseHeader).wipe_topic_count

    async def add_write_perm(self, broker_name: str) -> int:
        """Gives the write permission back; the number of topics."""
        answer = await self._instance.routes.name_servers.call_all(
            lambda: request(RequestCode.ADD_WRITE_PERM_OF_BROKER, BrokerNameRequestHeader(broker_name))
        )
        return answer.header(AddWritePermResponseHeader).add_topic_count

    # --- topics --------------------------------------------------------------------------------------------------

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
            read_queue_nums if read_queue_nums is not None else queue_nums,
            write_queue_nums if write_queue_nums is not None else queue_nums,
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
        changed: list[str] = []
        for address in await self.master_addresses(cluster):
            try:
                known = await self.topic_config(topic, broker_addr=address)
            except TopicNotExistError:
                continue
            header = CreateTopicRequestHeader(
                topic,
                known.read_queue_nums if queue_nums is None else queue_nums,
                known.write_queue_nums if queue_nums is None else queue_nums,
                known.perm if perm is None else perm,
                order=known.order,
                attributes=attributes,
            )
            await self._call(address, request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
            changed.append(address)
        if not changed:
            raise TopicNotExistError(f"no broker has the topic {topic!r}")
        if queue_nums is not None and (conf := await self.get_kv_config(ORDER_TOPIC_CONFIG, topic)):
            await self._add_to_order_conf(topic, conf, queue_nums, changed)
        return changed

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
        """Where a topic's queues are, asked now. Raises RouteNotFoundError for a topic nobody knows."""
        route = await self._instance.routes.name_servers.route(topic)
        if route is None:
            raise RouteNotFoundError(f"no NameServer knows a route of topic {topic!r}")
        return route

    async def wait_for_route(self, topic: str, timeout_s: float = 10.0) -> TopicRouteData:
        """Waits until the NameServer knows the topic. Raises RouteNotFoundError after ``timeout_s``."""
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RouteNotFoundError),
            stop=tenacity.stop_after_delay(timeout_s),
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

    async def _brokers_of(self, topic: str) -> dict[str, str]:
        """Broker name -> address (the master's if there is one) of the groups that have a topic."""
        route = await self._instance.routes.refresh(topic)  # not a kept one: what was just changed must show
        if route is None:
            raise RouteNotFoundError(f"no NameServer knows a route of topic {topic!r}")
        found: dict[str, str] = {}
        for broker in route.broker_datas:
            address = self._instance.routes.any_address(broker.broker_name)
            if address is not None:
                found[broker.broker_name] = address
        if not found:
            raise RouteNotFoundError(f"the route of topic {topic!r} has no broker")
        return found

    # --- groups --------------------------------------------------------------------------------------------------

    async def create_group(
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
        """Creates a consumer group, or changes it, on every master of ``cluster`` (default: of all) or one broker.

        Args:
            retry_delays_s: seconds until each try, the last for all that follow; empty: RocketMQ's delay levels.

        Returns:
            The brokers' addresses.
        """
        config = SubscriptionGroupConfig(
            group_name=group,
            retry_max_times=retry_max_times,
            retry_queue_nums=retry_queue_nums,
            group_retry_policy=GroupRetryPolicy.of_delays_ms([round(delay_s * 1000) for delay_s in retry_delays_s])
            if retry_delays_s
            else GroupRetryPolicy(),
            consume_enable=consume_enable,
            consume_broadcast_enable=consume_broadcast_enable,
        )
        addresses = [broker_addr] if broker_addr else await self.master_addresses(cluster)
        for address in addresses:
            await self.put_group_config(config, address)
        return addresses

    async def group_configs(self, broker_addr: str) -> dict[str, SubscriptionGroupConfig]:
        """All consumer groups that a broker knows, by name."""
        answer = await self._call(broker_addr, request(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG))
        return SubscriptionGroupTable.decode(answer.body).subscription_group_table

    async def put_group_config(self, config: SubscriptionGroupConfig, broker_addr: str) -> None:
        """Stores the whole configuration of a consumer group at one broker."""
        body = msgspec.json.encode(config)
        await self._call(broker_addr, request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body))

    async def delete_group(self, group: str, *, clean_offset: bool = True, cluster: str | None = None) -> None:
        """Deletes a consumer group, by default with its offsets, from every master of ``cluster`` (default: of all)."""
        header = DeleteSubscriptionGroupRequestHeader(group, clean_offset)
        for address in await self.master_addresses(cluster):
            await self._call(address, request(RequestCode.DELETE_SUBSCRIPTIONGROUP, header))

    async def consumer_connections(self, group: str) -> ConsumerConnections:
        """The members of a group that are online, as all its brokers know them.

        Raises:
            ConsumerNotOnlineError: there are none.
        """
        found: dict[str, ClientConnection] = {}
        warnings: dict[str, None] = {}
        last = ConsumerConnection()
        offline: ResponseError | None = None
        for address in (await self._brokers_of(RETRY_PREFIX + group)).values():
            command = request(RequestCode.GET_CONSUMER_CONNECTION_LIST, ConsumerGroupRequestHeader(group))
            try:
                last = ConsumerConnection.decode((await self._call(address, command)).body)
            except ConsumerNotOnlineError as error:
                offline = error
                continue
            warnings.update(dict.fromkeys(last.warnings))
            found.update((connection.client_id, connection) for connection in last.connection_set)
        if not found:
            raise offline or ConsumerNotOnlineError(f"no member of group {group!r} is online")
        return ConsumerConnections(
            sorted(found.values(), key=lambda connection: connection.client_id),
            last.subscription_table,
            last.consume_type,
            last.message_model,
            last.consume_from_where,
            list(warnings),
        )

    async def consume_stats(self, group: str, topic: str | None = None) -> dict[MessageQueue, ConsumeOffset]:
        """How far a group is in every queue of its topics, or of one topic."""
        stats: dict[MessageQueue, ConsumeOffset] = {}
        for address in (await self._brokers_of(topic or RETRY_PREFIX + group)).values():
            command = request(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader(group, topic))
            stats |= ConsumeStats.decode((await self._call(address, command)).body).offset_table
        return dict(sorted(stats.items()))

    async def reset_offset(
        self, group: str, topic: str, timestamp_ms: int, *, force: bool = True
    ) -> dict[MessageQueue, int]:
        """Has a group go on at the first message stored at or after a time, whether its members are online or not.

        Args:
            timestamp_ms: ms since 1970; 0: the first message, -1: what comes next.
            force: also where that skips messages; else no queue moves forwards.

        Returns:
            The new offsets.
        """
        header = ResetOffsetRequestHeader(topic, group, timestamp_ms, force)
        offsets: dict[MessageQueue, int] = {}
        for name, address in (await self._brokers_of(topic)).items():
            try:
                answer = await self._call(address, request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))
                offsets |= ResetOffsets.decode(answer.body).offset_table
            except ConsumerNotOnlineError:  # brokers before 5.2 tell the members, and there are none
                offsets |= await self._set_offsets(group, topic, name, address, header)
        return dict(sorted(offsets.items()))

    async def _set_offsets(
        self, group: str, topic: str, broker_name: str, address: str, header: ResetOffsetRequestHeader
    ) -> dict[MessageQueue, int]:
        broker = self._instance.broker
        offsets: dict[MessageQueue, int] = {}
        for queue in subscribe_queues(topic, await self.topic_route(topic)):
            if queue.broker_name != broker_name:
                continue
            if header.timestamp < 0:
                offset = await broker.max_offset(address, queue)
            else:
                offset = await broker.search_offset(address, queue, header.timestamp)
            committed = await broker.consumer_offset(address, group, queue, zero_if_young=False)
            if not header.is_force and committed is not None:
                offset = min(offset, committed)
            await broker.update_consumer_offset(address, group, queue, offset)
            offsets[queue] = offset
        return offsets

    async def reset_queue_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """Has a group go on at an offset of one queue (brokers from 5.2 on)."""
        header = ResetOffsetRequestHeader(queue.topic, group, 0, True, queue.queue_id, offset)
        address = await self._address_of(queue)
        await self._call(address, request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))

    # --- messages and offsets ------------------------------------------------------------------------------------

    async def min_offset(self, queue: MessageQueue) -> int:
        """The offset of the oldest message that is there."""
        return await self._instance.broker.min_offset(await self._address_of(queue), queue)

    async def max_offset(self, queue: MessageQueue) -> int:
        """The offset that the next message will get."""
        return await self._instance.broker.max_offset(await self._address_of(queue), queue)

    async def search_offset(self, queue: MessageQueue, timestamp_ms: int) -> int:
        """The offset of the first message stored at or after ``timestamp_ms`` (ms since 1970)."""
        return await self._instance.broker.search_offset(await self._address_of(queue), queue, timestamp_ms)

    async def _address_of(self, queue: MessageQueue) -> str:
        brokers = await self._brokers_of(queue.topic)
        if queue.broker_name not in brokers:
            raise RouteNotFoundError(f"the route of topic {queue.topic!r} has no broker {queue.broker_name!r}")
        return brokers[queue.broker_name]

    # --- KV config -----------------------------------------------------------------------------------------------

    async def put_kv_config(self, namespace: str, key: str, value: str) -> None:
        """Writes a NameServer setting, at every NameServer."""
        header = KvConfigRequestHeader(namespace, key, value)
        await self._instance.routes.name_servers.call_all(lambda: request(RequestCode.PUT_KV_CONFIG, header))

    async def get_kv_config(self, namespace: str, key: str) -> str | None:
        """A NameServer setting; None when it is not set."""
        try:
            answer = await self._call_name_server(
                request(RequestCode.GET_KV_CONFIG, KvConfigRequestHeader(namespace, key))
            )
        except QueryNotFoundError:
            return None
        return answer.header(KvConfigResponseHeader).value

    async def delete_kv_config(self, namespace: str, key: str) -> None:
        """Removes a NameServer setting, at every NameServer."""
        header = KvConfigRequestHeader(namespace, key)
        await self._instance.routes.name_servers.call_all(lambda: request(RequestCode.DELETE_KV_CONFIG, header))

    async def kv_config(self, namespace: str) -> dict[str, str]:
        """All settings of a namespace; empty when there are none."""
        try:
            answer = await self._call_name_server(
                request(RequestCode.GET_KVLIST_BY_NAMESPACE, KvListRequestHeader(namespace))
            )
        except QueryNotFoundError:
            return {}
        return KvTable.decode(answer.body).table
