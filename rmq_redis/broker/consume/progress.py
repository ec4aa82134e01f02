"""Progress of topics and consumer groups: GET_TOPIC_STATS_INFO (202), GET_CONSUME_STATS (208),
GET_BROKER_CONSUME_STATS (317), QUERY_CONSUME_TIME_SPAN (303)."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable

from ...codes import RequestCode
from ...errors import TopicNotExistError
from ...model import MessageQueue
from ...protocol.bodies.progress import (
    BrokerConsumeStats,
    ConsumeOffset,
    ConsumeStats,
    ConsumeTimeSpans,
    QueueTimeSpan,
    TopicOffset,
    TopicStats,
)
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.admin import (
    BrokerConsumeStatsRequestHeader,
    ConsumeStatsRequestHeader,
    TopicGroupRequestHeader,
    TopicRequestHeader,
)
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...remoting.turn import Turn, dumps_in_turns
from ..group.clients import ClientManager
from ..group.retention import RetentionService
from ..group.state import GroupState
from ..group.topics import Topic
from ..statistics import BrokerStatistics


class ProgressProcessor:
    """Answers on masters and slaves; a slave reads the store first."""

    def __init__(
        self, state: GroupState, clients: ClientManager, retention: RetentionService, statistics: BrokerStatistics
    ) -> None:
        self._broker_addr = state.address
        self._office = state.office
        self._topics = state.topics
        self._queue_store = state.queue_store
        self._offsets = state.offsets
        self._clients = clients
        self._retention = retention
        self._statistics = statistics

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.GET_TOPIC_STATS_INFO: self._topic_stats,
            RequestCode.GET_CONSUME_STATS: self._consume_stats,
            RequestCode.GET_BROKER_CONSUME_STATS: self._broker_consume_stats,
            RequestCode.QUERY_CONSUME_TIME_SPAN: self._consume_time_span,
        }

    def _topic(self, name: str) -> Topic:
        topic = self._topics.topics.get(name)
        if topic is None:
            raise TopicNotExistError(f"the topic {name!r} does not exist on this broker")
        return topic

    async def _refresh(self, topic: Topic) -> None:
        if not self._office.is_master:
            await self._queue_store.refresh(topic.queues)

    async def _topic_stats(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        topic = self._topic(command.header(TopicRequestHeader).topic)
        await self._refresh(topic)
        table: dict[MessageQueue, TopicOffset] = {}
        queues = topic.queues[: topic.queue_nums]
        sizes = await self._retention.usage(queues)
        turn = Turn()
        for queue, size in zip(queues, sizes, strict=True):
            await turn.give_way()
            updated_ms = 0
            if queue.max_offset > queue.min_offset:
                updated_ms = max(0, await self._queue_store.store_timestamp_ms(queue, queue.max_offset - 1))
            table[queue.mq] = TopicOffset(
                last_update_timestamp=updated_ms,
                max_offset=queue.max_offset,
                min_offset=queue.min_offset,
                store_bytes=size,
            )
        put_tps = self._statistics.tps("TOPIC_PUT_NUMS", topic.config.topic_name)
        return response(command, body=await dumps_in_turns(TopicStats(offset_table=table, topic_put_tps=put_tps)))

    async def _consume_stats(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumeStatsRequestHeader)
        if not self._office.is_master:
            await self._offsets.load()
        if header.topic:
            names = [header.topic]
        elif header.topic_list:
            names = list(dict.fromkeys(name for name in header.topic_list.split(";") if name))
        else:
            names = self._subscribed(header.consumer_group, self._offsets.topics_of(header.consumer_group))
        names = [name for name in names if name in self._topics.topics]
        table = await self._consume_table(header.consumer_group, names, Turn())
        tps = sum(self._consume_tps(header.consumer_group, name) for name in names)
        return response(command, body=await dumps_in_turns(ConsumeStats(consume_tps=tps, offset_table=table)))

    def _consume_tps(self, group: str, topic: str) -> float:
        return self._statistics.tps("GROUP_GET_NUMS", f"{topic}@{group}")

    def _subscribed(self, group: str, names: list[str]) -> list[str]:
        """The topics that a group subscribes to; all of them if none of its members is online."""
        live = self._clients.consumer_groups.get(group)
        return names if live is None else [name for name in names if name in live.subscriptions]

    async def _consume_table(self, group: str, names: Iterable[str], turn: Turn) -> dict[MessageQueue, ConsumeOffset]:
        table: dict[MessageQueue, ConsumeOffset] = {}
        for name in names:
            topic = self._topics.topics.get(name)
            if topic is None:
                continue
            await self._refresh(topic)
            for queue in topic.queues[: topic.config.read_queue_nums]:
                await turn.give_way()
                offset = self._offsets.get(group, name, queue.queue_id) or 0
                pulled = self._offsets.pulled(group, name, queue.queue_id)
                stored_ms = await self._queue_store.store_timestamp_ms(queue, offset - 1) if offset else 0
                table[queue.mq] = ConsumeOffset(
                    broker_offset=queue.max_offset,
                    consumer_offset=offset,
                    last_timestamp=max(0, stored_ms),
                    pull_offset=max(offset, pulled),
                )
        return table

    async def _broker_consume_stats(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """GET_BROKER_CONSUME_STATS: all groups with offsets on this broker, topic by topic."""
        header = command.header(BrokerConsumeStatsRequestHeader)
        if not self._office.is_master:
            await self._offsets.load()
        stats: list[dict[str, list[ConsumeStats]]] = []
        total = in_flight = 0
        turn = Turn()
        topics_of = await self._topics_by_group(turn)
        for group in list(self._topics.groups):
            await turn.give_way()
            of_group: list[ConsumeStats] = []
            for name in self._subscribed(group, topics_of.get(group, [])):
                topic = self._topics.topics.get(name)
                if topic and (topic.config.order or not header.is_order):
                    table = await self._consume_table(group, [name], turn)
                    total += sum(item.diff for item in table.values())
                    in_flight += sum(item.in_flight for item in table.values())
                    of_group.append(ConsumeStats(consume_tps=self._consume_tps(group, name), offset_table=table))
            stats.append({group: of_group})
        body = BrokerConsumeStats(
            broker_addr=self._broker_addr, consume_stats_list=stats, total_diff=total, total_inflight_diff=in_flight
        )
        return response(command, body=await dumps_in_turns(body))

    async def _topics_by_group(self, turn: Turn) -> dict[str, list[str]]:
        """Topics in which each group has offsets, from one pass over the table."""
        topics: dict[str, list[str]] = {}
        for group, topic in list(self._offsets.table()):
            await turn.give_way()
            topics.setdefault(group, []).append(topic)
        return topics

    async def _consume_time_span(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """QUERY_CONSUME_TIME_SPAN: store times of each queue's first, last and last consumed message."""
        header = command.header(TopicGroupRequestHeader)
        topic = self._topic(header.topic)
        await self._refresh(topic)
        now_ms = int(time.time() * 1000)
        spans = []
        turn = Turn()
        for queue in topic.queues[: topic.config.write_queue_nums]:
            await turn.give_way()
            stored_ms = functools.partial(self._queue_store.store_timestamp_ms, queue)
            offset = self._offsets.get(header.group, header.topic, queue.queue_id) or 0
            first_ms = await stored_ms(queue.min_offset)
            spans.append(
                QueueTimeSpan(
                    message_queue=queue.mq,
                    min_time_stamp=first_ms,
                    max_time_stamp=await stored_ms(queue.max_offset - 1) if queue.max_offset else -1,
                    consume_time_stamp=await stored_ms(offset - 1) if offset else first_ms,
                    delay_time=now_ms - await stored_ms(offset) if offset < queue.max_offset else 0,
                )
            )
        return response(command, body=await dumps_in_turns(ConsumeTimeSpans(spans)))
