"""Has a message whose handler failed delivered again later: CONSUMER_SEND_MSG_BACK, or else a send to %RETRY%group."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod

from ...codes import MessageSysFlag, RequestCode
from ...errors import ResponseError, RmqError, RouteNotFoundError
from ...model import (
    DEFAULT_QUEUE_NUMS,
    DEFAULT_TOPIC,
    MAX_PROPERTIES_BYTES,
    PROPERTY_CLUSTER,
    PROPERTY_DELAY,
    PROPERTY_MAX_RECONSUME_TIMES,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_RECONSUME_TIME,
    PROPERTY_REGION,
    PROPERTY_RETRY_OFFSET,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_TRACE_ON,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_WAIT,
    RETRY_PREFIX,
    SEND_STATUS_BY_CODE,
    MessageExt,
)
from ...protocol.command import request
from ...protocol.headers.send import SendMessageRequestHeaderV2
from ...protocol.properties import encode_properties, properties_within
from ..core.instance import MQClientInstance
from ..core.route import publish_queues
from ..produce.compression import compress_large

logger = logging.getLogger(__name__)

FIRST_RETRY_LEVEL = 3
"""Delay level of the first retry. Source: RocketMQ 5.3 SendMessageProcessor, consumerSendMsgBack."""
_DROPPABLE = (
    PROPERTY_TRACE_ON,
    PROPERTY_REGION,
    PROPERTY_CLUSTER,
    PROPERTY_WAIT,
    PROPERTY_RETRY_OFFSET,
    PROPERTY_ORIGIN_MESSAGE_ID,
)
"""What a message at the limit of its properties can do without; the broker sets the first three itself."""
_NOT_COPIED = (PROPERTY_TRANSACTION_PREPARED, PROPERTY_RECONSUME_TIME, PROPERTY_MAX_RECONSUME_TIMES)


class Retries(ABC):
    """What becomes of messages whose handler failed."""

    @abstractmethod
    async def give_back(self, message: MessageExt) -> bool:
        """Has a message delivered again later; False if no broker took it. Never raises for a server's failure."""

    @abstractmethod
    async def give_up(self, message: MessageExt) -> bool:
        """Sends a message that was tried here to the retry topic, with its count; False as ``give_back``."""


class NoRetries(Retries):
    """BROADCASTING: nothing is delivered again."""

    async def give_back(self, message: MessageExt) -> bool:
        logger.warning("%s is not delivered again: the consumer is broadcasting", message.msg_id)
        return True

    async def give_up(self, message: MessageExt) -> bool:
        return await self.give_back(message)


class RetrySender(Retries):
    """Gives messages of a group back to their brokers. Source: DefaultMQPushConsumerImpl.sendMessageBack.

    Args:
        max_reconsume_times: None leaves it to the group's configuration (``retryMaxTimes``).
    """

    def __init__(self, instance: MQClientInstance, group: str, max_reconsume_times: int | None) -> None:
        self._instance = instance
        self._group = group
        self._max_reconsume_times = max_reconsume_times

    async def give_back(self, message: MessageExt) -> bool:
        address = self._instance.routes.master_address(message.broker_name) or message.store_host
        try:
            await self._instance.broker.send_message_back(
                address, self._group, message, delay_level=0, max_reconsume_times=self._max_reconsume_times
            )
        except RmqError as error:
            logger.warning(
                "group %s: %s not given back to %s, sending it to the retry topic: %s",
                self._group,
                message.msg_id,
                address,
                error,
            )
        else:
            return True
        return await self.give_up(message)

    async def give_up(self, message: MessageExt) -> bool:
        """As ``Retries.give_up``.

        With a reconsume count that has reached the limit the broker diverts it to the dead letters, as it does with
        messages of Java's orderly consumers. Source: ConsumeMessageOrderlyService.sendMessageBack.
        """
        try:
            await self._send_to_retry_topic(message)
        except RmqError as error:
            logger.warning("group %s: %s stays here, to be retried: %s", self._group, message.msg_id, error)
            return False
        return True

    async def _send_to_retry_topic(self, message: MessageExt) -> None:
        topic = RETRY_PREFIX + self._group
        body, sys_flag = await _as_stored(message)
        routes = self._instance.routes
        queues = publish_queues(topic, await routes.get_for_publish(topic))
        failure: RmqError = RouteNotFoundError(f"no broker to send to topic {topic}")
        header = SendMessageRequestHeaderV2(
            producer_group="CLIENT_INNER_PRODUCER",
            topic=topic,
            default_topic=DEFAULT_TOPIC,
            default_topic_queue_nums=DEFAULT_QUEUE_NUMS,
            queue_id=0,
            sys_flag=sys_flag,
            born_timestamp=int(time.time() * 1000),
            flag=message.flag,
            properties=_retry_properties(message),
            reconsume_times=message.reconsume_times + 1,
            max_reconsume_times=self._max_reconsume_times,
        )
        for queue in queues:
            address = routes.master_address(queue.broker_name)
            if address is None:
                continue
            header.queue_id, header.broker_name = queue.queue_id, queue.broker_name
            try:
                answer = await self._instance.broker.remoting.invoke(
                    address,
                    request(RequestCode.SEND_MESSAGE_V2, header, body),
                    self._instance.config.send_timeout_s,
                )
            except RmqError as error:
                failure = error
                continue
            if answer.code in SEND_STATUS_BY_CODE:
                return
            failure = ResponseError(answer.remark or "", code=answer.code, address=address)
        raise failure


def _retry_properties(message: MessageExt) -> str:
    properties = {key: value for key, value in message.properties.items() if key not in _NOT_COPIED}
    properties.setdefault(PROPERTY_ORIGIN_MESSAGE_ID, message.msg_id)
    properties[PROPERTY_RETRY_TOPIC] = message.topic
    properties[PROPERTY_RETRY_OFFSET] = str(message.commit_log_offset)
    properties[PROPERTY_DELAY] = str(FIRST_RETRY_LEVEL + message.reconsume_times)
    return encode_properties(properties_within(properties, MAX_PROPERTIES_BYTES, _DROPPABLE))


async def _as_stored(message: MessageExt) -> tuple[bytes, int]:
    """(body, sysFlag): what was compressed goes out compressed, or it might be larger than a broker takes."""
    if not message.sys_flag & MessageSysFlag.COMPRESSED:
        return message.body, 0
    if message.body_error:
        return message.body, message.sys_flag & int(MessageSysFlag.COMPRESSED | MessageSysFlag.COMPRESSION_MASK)
    return await compress_large(message.body)
