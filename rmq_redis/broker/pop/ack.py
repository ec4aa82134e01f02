"""ACK_MESSAGE (200051), BATCH_ACK_MESSAGE (200151), CHANGE_MESSAGE_INVISIBLETIME (200053).

Source: RocketMQ 5.3 ``AckMessageProcessor``, ``ChangeInvisibleTimeProcessor``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from ...codes import RequestCode
from ...errors import MessageIllegalError, NoMessageError, TopicNotExistError
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.pop import (
    AckMessageRequestHeader,
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
)
from ...protocol.pop import ORDER_REVIVE_QID, decode_batch_acks, parse_handle, real_topic
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.pop import Hidden, PopStore
from ...store.group.queue import Queue
from ..group.state import GroupState
from ..statistics import BrokerStatistics
from .order import PopOrder
from .processor import MAX_INVISIBLE_MS
from .revive import PopReviveService


class PopAckProcessor:
    """Acknowledges popped messages, and changes until when they are hidden.

    A repeated or late acknowledgement is answered with success, as by Apache's broker: a client that lost the response
    may repeat its request. A late one changes nothing: the message is redelivered.
    """

    def __init__(
        self,
        state: GroupState,
        store: PopStore,
        revive: PopReviveService,
        order: PopOrder,
        statistics: BrokerStatistics,
    ) -> None:
        self._office = state.office
        self._topics = state.topics
        self._store = store
        self._revive = revive
        self._order = order
        self._statistics = statistics

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.ACK_MESSAGE: self._ack,
            RequestCode.BATCH_ACK_MESSAGE: self._ack_batch,
            RequestCode.CHANGE_MESSAGE_INVISIBLETIME: self._change,
        }

    def _queue(self, topic: str, queue_id: int, offset: int) -> Queue:
        """The queue of a handle.

        Raises:
            TopicNotExistError, MessageIllegalError (no such queue), NoMessageError (no such offset).
        """
        known = self._topics.topics.get(topic)
        if known is None:
            raise TopicNotExistError(f"the topic {topic!r} does not exist on this broker")
        if not 0 <= queue_id < len(known.queues):
            raise MessageIllegalError(f"queueId {queue_id} of topic {topic!r}, which has {len(known.queues)} queues")
        queue = known.queues[queue_id]
        if not queue.min_offset <= offset < queue.max_offset:
            raise NoMessageError(f"{queue.mq} has offsets {queue.min_offset} to {queue.max_offset - 1}, not {offset}")
        return queue

    async def _ack(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._office.require_master()
        header = command.header(AckMessageRequestHeader)
        handle = parse_handle(header.extra_info)
        queue = self._queue(header.topic, header.queue_id, header.offset)
        if handle.order:
            await self._order.ack(header.consumer_group, queue, handle.pop_time_ms, [header.offset])
        else:
            await self._store.ack(
                Hidden(header.consumer_group, header.topic, header.queue_id, header.offset, handle.visible_ms), queue
            )
        self._statistics.acknowledged(header.consumer_group, header.topic, 1)
        return response(command)

    async def _ack_batch(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Acknowledges the messages that still exist; the others of the batch were removed before."""
        self._office.require_master()
        answers: list[Awaitable[object]] = []
        counts: list[tuple[str, str, int]] = []
        for ack in decode_batch_acks(command.body):
            topic = real_topic(ack.group, ack.topic, ack.mark)
            in_order: list[int] = []
            there = 0
            for offset in ack.offsets:
                try:
                    queue = self._queue(topic, ack.queue_id, offset)
                except NoMessageError:
                    continue
                there += 1
                if ack.revive_qid == ORDER_REVIVE_QID:
                    in_order.append(offset)
                    continue
                hidden = Hidden(ack.group, topic, ack.queue_id, offset, ack.pop_time_ms + ack.invisible_time_ms)
                answers.append(self._store.ack(hidden, queue))
            if in_order:
                answers.append(self._order.ack(ack.group, queue, ack.pop_time_ms, in_order))
            counts.append((ack.group, topic, there))
        await asyncio.gather(*answers)
        for group, topic, nums in counts:
            self._statistics.acknowledged(group, topic, nums)
        return response(command)

    async def _change(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._office.require_master()
        header = command.header(ChangeInvisibleTimeRequestHeader)
        if not 0 <= header.invisible_time <= MAX_INVISIBLE_MS:
            raise MessageIllegalError(f"invisibleTime is {header.invisible_time} ms, expected 0 to {MAX_INVISIBLE_MS}")
        handle = parse_handle(header.extra_info)
        queue = self._queue(header.topic, header.queue_id, header.offset)
        pop_ms = int(time.time() * 1000)
        visible_ms = pop_ms + header.invisible_time
        if handle.order:
            changed = await self._order.change(
                header.consumer_group, queue, handle.pop_time_ms, header.offset, visible_ms
            )
            pop_ms = handle.pop_time_ms  # it identifies the batch, so the invisible time grows instead
        else:
            hidden = Hidden(header.consumer_group, header.topic, header.queue_id, header.offset, handle.visible_ms)
            changed = await self._store.change(hidden, visible_ms)
            if changed:
                self._revive.hidden_until(visible_ms)
        if not changed:
            raise NoMessageError(
                f"offset {header.offset} of {header.topic!r} queue {header.queue_id} is not hidden from group "
                f"{header.consumer_group!r} until {handle.visible_ms}: it was acknowledged, or it expired"
            )
        answer = ChangeInvisibleTimeResponseHeader(pop_ms, visible_ms - pop_ms, handle.revive_qid)
        return response(command, header=answer)
