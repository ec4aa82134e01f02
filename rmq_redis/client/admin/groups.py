"""Consumer groups: created, changed, deleted and looked up. A part of ``AsyncAdmin``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...codes import RequestCode
from ...errors import ConsumerNotOnlineError, ResponseError
from ...model import RETRY_PREFIX, MessageQueue
from ...protocol.bodies.clients import ClientConnection, ConsumerConnection
from ...protocol.bodies.heartbeat import SubscriptionData
from ...protocol.bodies.progress import ConsumeOffset, ConsumeStats
from ...protocol.bodies.topics import SubscriptionGroupTable
from ...protocol.command import request
from ...protocol.group_config import GroupRetryPolicy, SubscriptionGroupConfig
from ...protocol.headers.admin import ConsumeStatsRequestHeader, DeleteSubscriptionGroupRequestHeader
from ...protocol.headers.clients import ConsumerGroupRequestHeader
from .calls import AdminCalls


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


class GroupAdmin(AdminCalls):
    """Methods of ``AsyncAdmin`` for consumer groups."""

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
