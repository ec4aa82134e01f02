"""Copies of a failed message under another topic: for a retry, or for the dead letters.

Source: RocketMQ 5.3 ``AbstractSendMessageProcessor.consumerSendMsgBack``, ``PopReviveService.reviveRetry``.
"""

from __future__ import annotations

import logging
import time

from ...errors import LocalProtocolError, ResponseError, StoreError
from ...hosts import offset_msg_id
from ...model import (
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
    PROPERTY_REGION,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_TRACE_ON,
    PROPERTY_UNIQ_KEY,
    PROPERTY_WAIT,
    RETRY_PREFIX,
    MessageExt,
)
from ...protocol.group_config import SubscriptionGroupConfig
from ...protocol.properties import find_property, properties_within, remove_property, tags_code
from ...protocol.record import decode_records, encode_message
from ...store.group.give_backs import Failed, GiveBackStore
from ...store.group.queue import Queue
from ...store.group.schedule import Held, Scheduled
from .schedule import ScheduleService

logger = logging.getLogger(__name__)

_DROPPABLE = (
    PROPERTY_TRACE_ON,
    PROPERTY_REGION,
    PROPERTY_CLUSTER,
    PROPERTY_WAIT,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    *LATER_PROPERTIES,
    PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_DLQ_ORIGIN_TOPIC,
)
"""Properties that a retry can do without, in the order in which they are dropped at the size limit."""
RETRY_ROOM_BYTES = 60
"""Minimum that is freed by dropping the properties that every message has (TRACE_ON, MSG_REGION, CLUSTER)."""
_VERSION_3_4_9 = 121
"""Clients from this version on send a limit of their own. Source: ``MQVersion.Version.V3_4_9``."""


def max_reconsume_times(group: SubscriptionGroupConfig, client_version: int, wanted: int | None) -> int:
    """Maximum number of retries: the client's limit if it sends one, else the group's."""
    return group.retry_max_times if wanted is None or client_version < _VERSION_3_4_9 else wanted


def again(
    message: MessageExt, topic: str, queue_id: int, store_host: str, *, dead: bool = False, bare: bool = False
) -> bytes:
    """The record of a message that failed once more; its properties say where it came from.

    Args:
        dead: it goes to the dead letters.
        bare: its properties are not changed, as they would become too long.

    Raises:
        ResponseError: the properties become too long.
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
        return encode_message(
            message.rewritten(
                topic=topic,
                properties=properties_within(properties, MAX_PROPERTIES_BYTES, _DROPPABLE),
                queue_id=queue_id,
                queue_offset=tags_code(message.tags),
                commit_log_offset=0,
                store_timestamp_ms=int(time.time() * 1000),
                store_host=store_host,
                reconsume_times=message.reconsume_times + 1,
                prepared_transaction_offset=0,
            )
        )
    except LocalProtocolError as error:
        raise ResponseError(f"the message cannot be delivered again: {error}") from None


def failed_of(group: str, message: MessageExt) -> Failed:
    """Identifies a message that a group could not handle, from the message as it was pulled."""
    return Failed(
        group,
        message.properties.get(PROPERTY_RETRY_TOPIC) or message.topic,
        message.reconsume_times + 1,
        message.properties.get(PROPERTY_UNIQ_KEY, ""),
        message.commit_log_offset,
    )


def failed_of_copy(group: str, record: bytes, physical_offset: int | None = None) -> Failed:
    """The same, from the record of its copy."""
    copy = decode_records(record, decompress=False)[0]
    topic = copy.properties.get(PROPERTY_RETRY_TOPIC) or f"{RETRY_PREFIX}{group}"
    unique_key = copy.properties.get(PROPERTY_UNIQ_KEY, "")
    return Failed(group, topic, copy.reconsume_times, unique_key, physical_offset)


def dead_letter_properties(text: str) -> str:
    """Properties of a message from the retry topic as those of a dead letter: they say where it came from."""
    text = remove_property(text, PROPERTY_DELAY)
    for name, origin in (
        (PROPERTY_DLQ_ORIGIN_TOPIC, find_property(text, PROPERTY_RETRY_TOPIC)),
        (PROPERTY_DLQ_ORIGIN_MESSAGE_ID, find_property(text, PROPERTY_UNIQ_KEY)),
    ):
        if origin and find_property(text, name) is None:
            text += f"{'' if text.endswith(chr(2)) else chr(2)}{name}\x01{origin}\x02"
    return text


def log_dead_letter(failed: Failed) -> None:
    """Logs a dead letter for operators. Called once the store has it."""
    logger.warning(
        "group %s: message %s of topic %s failed %d times and becomes a dead letter (%s%s)",
        failed.group,
        failed.unique_key or failed.physical_offset,
        failed.topic,
        failed.reconsume_times,
        DLQ_PREFIX,
        failed.group,
    )


class GiveBacks:
    """Retries and dead letters on their way to the store. ``done`` is called as by ``ScheduleStore.add``."""

    def __init__(self, store: GiveBackStore, schedule: ScheduleService) -> None:
        self._store = store
        self._schedule = schedule

    def retry(self, failed: Failed, record: bytes, due_ms: int, done: Scheduled, arg: object) -> None:
        """Keeps the finished record of a retry until it is due, unless the message was sent back before."""

        def kept(held: Held | None, error: StoreError | None, argument: object) -> None:
            self._schedule.look_at(due_ms)
            done(held, error, argument)

        self._store.retry(failed, record, due_ms, kept, arg)

    def dead(self, failed: Failed, record: bytes, queue: Queue, done: Scheduled, arg: object) -> None:
        """Adds the finished record of a dead letter to its queue, unless the message was sent back before."""

        def kept(held: Held | None, error: StoreError | None, argument: object) -> None:
            if held and not held.is_repeat:
                log_dead_letter(failed)
            done(held, error, argument)

        self._store.dead(failed, record, queue, kept, arg)
