"""The dead letters of a consumer group: reading them, and sending them to their topics again.

Plain pulls and sends, so it works with every RocketMQ. What was sent again is remembered as the offset of a group of
its own in the dead-letter topic: it is committed after every message, so an interrupted run repeats one message at
most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from ...errors import MessageIllegalLocallyError, RouteNotFoundError
from ...model import (
    DLQ_PREFIX,
    LATER_PROPERTIES,
    PROPERTY_CLUSTER,
    PROPERTY_CONSUME_START_TIME,
    PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    PROPERTY_DLQ_ORIGIN_TOPIC,
    PROPERTY_FIRST_POP_TIME,
    PROPERTY_MAX_OFFSET,
    PROPERTY_MAX_RECONSUME_TIMES,
    PROPERTY_MIN_OFFSET,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_POP_CK,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    PROPERTY_RECONSUME_TIME,
    PROPERTY_REGION,
    PROPERTY_RETRY_OFFSET,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_SHARDING_KEY,
    PROPERTY_TRACE_ON,
    PROPERTY_TRANSACTION_ID,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_WAIT,
    Message,
    MessageExt,
    MessageQueue,
    SendResult,
)
from ..consume.pull import AsyncPullConsumer
from ..produce.producer import AsyncProducer

RESEND_GROUP = "rmq-redis-dlq"
"""The consumer group whose offset in ``%DLQ%<group>`` says what was sent again."""
_PULL_NUMS = 32
"""Brokers of Apache RocketMQ return no more per pull. Source: maxTransferCountOnMessageInMemory."""
_NOT_COPIED = frozenset(
    {
        *LATER_PROPERTIES,
        PROPERTY_REAL_TOPIC,
        PROPERTY_REAL_QUEUE_ID,
        PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
        PROPERTY_DLQ_ORIGIN_TOPIC,
        PROPERTY_MAX_RECONSUME_TIMES,
        PROPERTY_RECONSUME_TIME,
        PROPERTY_RETRY_OFFSET,
        PROPERTY_RETRY_TOPIC,
        PROPERTY_WAIT,
        PROPERTY_FIRST_POP_TIME,
        PROPERTY_CLUSTER,
        PROPERTY_CONSUME_START_TIME,
        PROPERTY_MAX_OFFSET,
        PROPERTY_MIN_OFFSET,
        PROPERTY_REGION,
        PROPERTY_POP_CK,
        PROPERTY_TRACE_ON,
        PROPERTY_TRANSACTION_PREPARED,
        PROPERTY_TRANSACTION_ID,
    }
)
"""What brokers and consumers noted for the way that ended here."""


def origin_topic(message: MessageExt) -> str:
    """The topic that a dead letter was sent to; "" when it does not say."""
    return message.properties.get(PROPERTY_DLQ_ORIGIN_TOPIC) or message.properties.get(PROPERTY_RETRY_TOPIC) or ""


def ids_of(message: MessageExt) -> set[str]:
    """All ids that a dead letter is known by: the client's, the broker's, and the broker's of the first delivery."""
    origin = (message.properties.get(name, "") for name in (PROPERTY_ORIGIN_MESSAGE_ID, PROPERTY_DLQ_ORIGIN_MESSAGE_ID))
    return {message.msg_id, message.offset_msg_id, *filter(None, origin)}


class DeadLetters:
    """The dead letters of one group.

    Args:
        consumer: started, of the group ``RESEND_GROUP``.
        group: the consumer group that could not handle them.
    """

    def __init__(self, consumer: AsyncPullConsumer, group: str) -> None:
        self._consumer = consumer
        self._topic = DLQ_PREFIX + group

    async def queues(self) -> dict[MessageQueue, int]:
        """The queues that hold dead letters, each with the offset before which all were sent again.

        Empty when the group never had a dead letter.
        """
        try:
            queues = await self._consumer.fetch_subscribe_message_queues(self._topic)
        except RouteNotFoundError:
            return {}
        return {queue: await self._consumer.committed(queue) or 0 for queue in queues}

    async def read(self, queue: MessageQueue, offset: int = 0) -> AsyncIterator[MessageExt]:
        """The messages of a queue from ``offset`` on that are there now, oldest first."""
        end = await self._consumer.max_offset(queue)
        offset = max(offset, await self._consumer.min_offset(queue))
        while offset < end:
            result = await self._consumer.pull(queue, "*", offset, _PULL_NUMS)
            for message in result.messages:
                if message.queue_offset < end:
                    yield message
            if result.next_begin_offset <= offset:  # nothing there after all: it was trimmed meanwhile
                return
            offset = result.next_begin_offset

    async def _chosen(
        self, queue: MessageQueue, position: int, ids: Collection[str] | None, again: bool
    ) -> AsyncIterator[MessageExt]:
        async for message in self.read(queue, 0 if again or ids is not None else position):
            if ids is None or not ids_of(message).isdisjoint(ids):
                yield message

    async def to_resend(self, *, ids: Collection[str] | None = None, again: bool = False) -> AsyncIterator[MessageExt]:
        """What ``resend`` would send, with the same arguments."""
        for queue, resent in (await self.queues()).items():
            async for message in self._chosen(queue, resent, ids, again):
                yield message

    async def resend(
        self, producer: AsyncProducer, *, ids: Collection[str] | None = None, again: bool = False
    ) -> AsyncIterator[tuple[MessageExt, SendResult]]:
        """Sends dead letters to their topics; each with where it went, once a broker has it and that is remembered.

        A message keeps its body, tags, keys, flag, properties and ids, its ORIGIN_MESSAGE_ID among them; its reconsume
        count starts at 0. One with a sharding key goes to the queue of that key.

        Args:
            ids: only those with one of these ids, whether they were sent again before or not; None: all that were not.
            again: with ``ids`` None: also those that were.

        Raises:
            MessageIllegalLocallyError: a dead letter that does not say which topic it comes from.
            RmqError: as ``AsyncProducer.send`` and ``AsyncPullConsumer.pull``.
        """
        for queue, resent in (await self.queues()).items():
            position = max(resent, await self._consumer.min_offset(queue))
            async for message in self._chosen(queue, position, ids, again):
                key = message.properties.get(PROPERTY_SHARDING_KEY)
                result = await producer.send(as_sent(message), key=key)
                if message.queue_offset == position:  # later ones that were picked by id do not move it
                    position += 1
                    await self._consumer.update_consume_offset(queue, position)
                yield message, result


def as_sent(message: MessageExt) -> Message:
    """A dead letter as it was sent.

    Raises:
        MessageIllegalLocallyError: it has no origin topic, or a body that cannot be decompressed.
    """
    if message.body_error is not None:
        raise MessageIllegalLocallyError(
            f"the dead letter {message.msg_id} (offset {message.queue_offset} of {message.queue}) "
            f"cannot be sent again: {message.body_error}"
        )
    topic = origin_topic(message)
    if not topic:
        raise MessageIllegalLocallyError(
            f"the dead letter {message.msg_id} (offset {message.queue_offset} of {message.queue}) has no origin topic: "
            f"neither {PROPERTY_DLQ_ORIGIN_TOPIC} nor {PROPERTY_RETRY_TOPIC}"
        )
    properties = {name: value for name, value in message.properties.items() if name not in _NOT_COPIED}
    return Message(topic, message.body, properties=properties, flag=message.flag)
