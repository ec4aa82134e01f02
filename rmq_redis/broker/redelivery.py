"""A message once more, under another topic: for another try, or for the dead letters.

Source: RocketMQ 5.3 ``AbstractSendMessageProcessor.consumerSendMsgBack``, ``PopReviveService.reviveRetry``.
"""

from __future__ import annotations

import logging
import time

from ..errors import LocalProtocolError, ResponseError
from ..hosts import offset_msg_id, pack_host
from ..model import (
    DLQ_PREFIX,
    LATER_PROPERTIES,
    MAX_PROPERTIES_BYTES,
    PROPERTY_CLUSTER,
    PROPERTY_DELAY,
    PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    PROPERTY_DLQ_ORIGIN_TOPIC,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_WAIT,
    MessageExt,
)
from ..protocol.message import encode_properties_within, encode_record, tags_code

logger = logging.getLogger(__name__)

_DROPPABLE = (
    "TRACE_ON",
    "MSG_REGION",
    PROPERTY_CLUSTER,
    PROPERTY_WAIT,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    *LATER_PROPERTIES,
    PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_DLQ_ORIGIN_TOPIC,
)
"""What a message at the limit of its properties can do without on its way to another try; in this order."""
RETRY_ROOM_BYTES = 60
"""What leaving out what every message has of these (TRACE_ON, MSG_REGION, CLUSTER) gives at least."""


def again(
    message: MessageExt, topic: str, queue_id: int, store_host: bytes, *, dead: bool = False, bare: bool = False
) -> bytes:
    """The record of a message that was consumed once more in vain; where it came from is kept in its properties.

    Args:
        dead: it goes to the dead letters.
        bare: its properties stay as they are; for when they would be too long.

    Raises:
        ResponseError: the longer properties do not fit any more.
    """
    properties = dict(message.properties)
    if dead and not bare:
        properties.setdefault(PROPERTY_DLQ_ORIGIN_TOPIC, properties.get(PROPERTY_RETRY_TOPIC) or message.topic)
        properties.setdefault(PROPERTY_DLQ_ORIGIN_MESSAGE_ID, message.msg_id)
    if not bare:
        properties.setdefault(PROPERTY_RETRY_TOPIC, message.topic)
        properties.setdefault(PROPERTY_ORIGIN_MESSAGE_ID, offset_msg_id(message.store_host, message.commit_log_offset))
    properties.pop(PROPERTY_DELAY, None)
    try:
        return encode_record(
            topic=topic.encode(),
            body=message.body,
            properties=encode_properties_within(properties, MAX_PROPERTIES_BYTES, _DROPPABLE).encode(),
            queue_id=queue_id,
            flag=message.flag,
            sys_flag=message.sys_flag,
            born_timestamp_ms=message.born_timestamp_ms,
            born_host=pack_host(message.born_host),
            store_timestamp_ms=int(time.time() * 1000),
            store_host=store_host,
            reconsume_times=message.reconsume_times + 1,
            queue_offset=tags_code(message.tags),
        )
    except LocalProtocolError as error:
        raise ResponseError(f"the message cannot be delivered again: {error}") from None


def log_dead_letter(group: str, message: MessageExt) -> None:
    """A message that becomes a dead letter needs somebody to look at it."""
    logger.warning(
        "group %s: message %s of topic %s failed %d times and becomes a dead letter (%s%s)",
        group,
        message.msg_id,
        message.properties.get(PROPERTY_RETRY_TOPIC) or message.topic,
        message.reconsume_times + 1,
        DLQ_PREFIX,
        group,
    )
