"""Single brokers: their write permission, figures and backlog. A part of ``AsyncAdmin``."""

from __future__ import annotations

import asyncio

import msgspec

from ...codes import RequestCode
from ...errors import RouteNotFoundError
from ...model import MASTER_ID
from ...protocol.bodies.broker import SCHEDULED_MESSAGES, UNDECIDED_TRANSACTIONS
from ...protocol.bodies.progress import ConsumerOffsetTable, TopicStats
from ...protocol.bodies.registration import TopicConfigTable
from ...protocol.bodies.topics import GroupList, KvTable
from ...protocol.command import request
from ...protocol.headers.admin import TopicRequestHeader
from ...protocol.headers.registration import (
    AddWritePermResponseHeader,
    BrokerNameRequestHeader,
    WipeWritePermResponseHeader,
)
from .calls import AdminCalls


class Backlog(msgspec.Struct, frozen=True):
    """What must still leave a broker before it can be removed.

    Attributes:
        unread: (consumer group, topic) -> messages that the group has not consumed; only what is not 0.
        scheduled: messages that wait for their time.
        undecided: transactional messages that are neither committed nor rolled back.
    """

    unread: dict[tuple[str, str], int]
    scheduled: int
    undecided: int

    @property
    def is_empty(self) -> bool:
        return not (self.unread or self.scheduled or self.undecided)


class BrokerAdmin(AdminCalls):
    """Methods of ``AsyncAdmin`` for single brokers."""

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

    async def master_address(self, broker_name: str) -> str:
        """The master of a broker group. Raises RouteNotFoundError when there is none."""
        brokers = (await self.cluster_info()).brokers
        if broker_name not in brokers:
            raise RouteNotFoundError(f"no broker {broker_name!r}; there are: {', '.join(sorted(brokers)) or 'none'}")
        address = brokers[broker_name].broker_addrs.get(MASTER_ID)
        if address is None:
            raise RouteNotFoundError(f"broker {broker_name!r} has no master now")
        return address

    async def runtime_info(self, broker_addr: str) -> dict[str, str]:
        """A broker's figures, as mqadmin's brokerStatus shows them."""
        answer = await self._call(broker_addr, request(RequestCode.GET_BROKER_RUNTIME_INFO))
        return KvTable.decode(answer.body).table

    async def consumer_offsets(self, broker_addr: str) -> dict[tuple[str, str], dict[int, int]]:
        """All offsets committed at a broker: (consumer group, topic) -> queue id -> offset."""
        answer = await self._call(broker_addr, request(RequestCode.GET_ALL_CONSUMER_OFFSET))
        return ConsumerOffsetTable.decode(answer.body).by_group()

    async def backlog(self, broker_name: str) -> Backlog:
        """What the groups that consume from a broker have not consumed yet, and what waits outside of its queues.

        Raises:
            RouteNotFoundError: no such broker, or it has no master.
        """
        address = await self.master_address(broker_name)
        offsets = await self.consumer_offsets(address)
        answer = await self._call(address, request(RequestCode.GET_ALL_TOPIC_CONFIG))
        topics = sorted(TopicConfigTable.decode(answer.body).topic_config_table)
        behind = await asyncio.gather(*(self._behind(address, topic, offsets) for topic in topics))
        unread = {pair: count for counts in behind for pair, count in counts.items()}
        info = await self.runtime_info(address)
        return Backlog(unread, int(info.get(SCHEDULED_MESSAGES, 0)), int(info.get(UNDECIDED_TRANSACTIONS, 0)))

    async def _behind(
        self, address: str, topic: str, offsets: dict[tuple[str, str], dict[int, int]]
    ) -> dict[tuple[str, str], int]:
        """(group, topic) -> messages that it has not consumed; of a group that never committed, all of them."""
        bounds = await self._bounds(address, topic)
        if all(begin == end for begin, end in bounds.values()):
            return {}
        command = request(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, TopicRequestHeader(topic))
        answer = await self._call(address, command)
        found: dict[tuple[str, str], int] = {}
        for group in GroupList.decode(answer.body).group_list:
            committed = offsets.get((group, topic), {})
            count = sum(max(0, end - max(committed.get(i, begin), begin)) for i, (begin, end) in bounds.items())
            if count:
                found[group, topic] = count
        return found

    async def _bounds(self, address: str, topic: str) -> dict[int, tuple[int, int]]:
        """Queue id -> (min offset, max offset) of a topic at one broker."""
        command = request(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader(topic))
        answer = await self._call(address, command)
        table = TopicStats.decode(answer.body).offset_table
        return {queue.queue_id: (offsets.min_offset, offsets.max_offset) for queue, offsets in table.items()}
