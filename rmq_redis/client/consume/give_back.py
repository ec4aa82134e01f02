"""Has a message whose handler failed delivered again later: CONSUMER_SEND_MSG_BACK, or else a send to %RETRY%group."""

from __future__ import annotations

import logging
import time

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
from ...protocol.properties import encode_properties_within
from ..core.instance import MQClientInstance
from ..core.route import publish_queues
from ..produce.compression import compress_large

logger = logging.getLogger(__name__)

_FIRST_RETRY_LEVEL = 3
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


class RetrySender:
    """Gives messages of a group back to their brokers. Source: DefaultMQPushConsumerImpl.sendMessageBack.

    Args:
        max_reconsume_times: None leaves it to the group's configuration (``retryMaxTimes``).
    """

    def __init__(self, instance: MQClientInstance, group: str, max_reconsume_times: int | None) -> None:
        self._instance = instance
        self._group = group
        self._max_reconsume_times = max_reconsume_times

    async def give_back(self, message: MessageExt) -> bool:
        """Whether a broker took it; never raises for a server's failure."""
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
        """Sends a message to the retry topic; whether a broker took it. Never raises for a server's failure.

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
        properties = {key: value for key, value in message.properties.items() if key not in _NOT_COPIED}
        properties.setdefault(PROPERTY_ORIGIN_MESSAGE_ID, message.msg_id)
        properties[PROPERTY_RETRY_TOPIC] = message.topic
        properties[PROPERTY_RETRY_OFFSET] = str(message.commit_log_offset)
        properties[PROPERTY_DELAY] = str(_FIRST_RETRY_LEVEL + message.reconsume_times)
        body, sys_flag = await _as_stored(message)
        routes = self._instance.routes
        queues = publish_queues(topic, await routes.get_for_publish(topic))
        failure: RmqError = RouteNotFoundError(f"no broker to send to topic {topic}")
        for queue in queues:
            address = routes.master_address(queue.broker_name)
            if address is None:
                continue
            header = SendMessageRequestHeaderV2(
                producer_group="CLIENT_INNER_PRODUCER",
                topic=topic,
                default_topic=DEFAULT_TOPIC,
                default_topic_queue_nums=DEFAULT_QUEUE_NUMS,
                queue_id=queue.queue_id,
                sys_flag=sys_flag,
                born_timestamp=int(time.time() * 1000),
                flag=message.flag,
                properties=encode_properties_within(properties, MAX_PROPERTIES_BYTES, _DROPPABLE),
                reconsume_times=message.reconsume_times + 1,
                max_reconsume_times=self._max_reconsume_times,
                broker_name=queue.broker_name,
            )
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


async def _as_stored(message: MessageExt) -> tuple[bytes, int]:
    """(body, sysFlag): what was compressed goes out compressed, or it might be larger than a broker takes."""
    if not message.sys_flag & MessageSysFlag.COMPRESSED:
        return message.body, 0
    if message.body_error is not None:
        return message.body, message.sys_flag & int(MessageSysFlag.COMPRESSED | MessageSysFlag.COMPRESSION_MASK)
    return await compress_large(message.body)
