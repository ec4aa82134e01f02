"""What brokers ask a consumer: reset offsets (220), status (221), running info (307), consume a message now (309)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ...codes import CURRENT_VERSION, RequestCode, ResponseCode
from ...errors import RemoteProtocolError
from ...model import ConsumeResult, ConsumeType, MessageQueue
from ...protocol.bodies.base import dumps
from ...protocol.bodies.clients import ConsumeDirectlyResult, ConsumerRunningInfo, ProcessQueueInfo
from ...protocol.bodies.progress import ConsumerStatus, ResetOffsets
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.clients import ConsumerRequestHeader
from .handler import is_success
from .subscriptions import restore_topics

if TYPE_CHECKING:
    from .push import AsyncPushConsumer


async def answer_broker(consumer: AsyncPushConsumer, command: RemotingCommand) -> RemotingCommand:
    """The response to one of these requests.

    Raises:
        RemoteProtocolError: its body cannot be read.
    """
    if command.code == RequestCode.RESET_CONSUMER_CLIENT_OFFSET:
        await _reset_offsets(consumer, command)
        return response(command)
    if command.code == RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT:
        topic = command.header(ConsumerRequestHeader).topic
        table = {pq.queue: pq.commit_offset() for pq in consumer.process_queues if topic in ("", pq.queue.topic)}
        return response(command, body=dumps(ConsumerStatus(table)))
    if command.code == RequestCode.GET_CONSUMER_RUNNING_INFO:
        return response(command, body=dumps(running_info(consumer)))
    if command.code == RequestCode.CONSUME_MESSAGE_DIRECTLY:
        return response(command, body=dumps(await _consume_directly(consumer, command)))
    return response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED)


async def _reset_offsets(consumer: AsyncPushConsumer, command: RemotingCommand) -> None:
    offsets = ResetOffsets.decode(command.body).offset_table
    held = set(consumer.assignment)
    await asyncio.gather(*(consumer.set_offset(queue, offset) for queue, offset in offsets.items() if queue in held))
    consumer.rebalance_now()


async def _consume_directly(consumer: AsyncPushConsumer, command: RemotingCommand) -> ConsumeDirectlyResult:
    broker_name = command.header(ConsumerRequestHeader).broker_name
    messages = restore_topics(consumer.decode(command.body, broker_name))
    if not messages:
        raise RemoteProtocolError("CONSUME_MESSAGE_DIRECTLY without a message")
    began = time.monotonic()
    outcome = await consumer.service.handle_one(messages[0])
    result, remark = "CR_LATER", None
    if isinstance(outcome, BaseException):
        result, remark = "CR_THROW_EXCEPTION", repr(outcome)
    elif is_success(outcome):
        result = "CR_SUCCESS"
    elif outcome not in (False, ConsumeResult.LATER):
        remark = f"handler returned {outcome!r}"
    return ConsumeDirectlyResult(
        consume_result=result,
        order=consumer.orderly,
        remark=remark,
        spent_time_mills=int((time.monotonic() - began) * 1000),
    )


def running_info(consumer: AsyncPushConsumer) -> ConsumerRunningInfo:
    """Settings, subscriptions, and how far each queue is."""
    now = asyncio.get_running_loop().time()
    queues: dict[MessageQueue, ProcessQueueInfo] = {}
    for pq in consumer.process_queues:
        offsets = list(pq.pending)
        queues[pq.queue] = ProcessQueueInfo(
            cached_msg_count=len(offsets),
            cached_msg_max_offset=offsets[-1] if offsets else 0,
            cached_msg_min_offset=offsets[0] if offsets else 0,
            cached_msg_size_in_mib=pq.bytes // (1024 * 1024),
            commit_offset=pq.commit_offset(),
            dropped=pq.dropped,
            last_pull_timestamp=int(pq.last_pull_s * 1000),
            locked=pq.locked_until > now,
        )
    return ConsumerRunningInfo(
        mq_table=queues,
        properties={
            "PROP_CLIENT_VERSION": f"V{CURRENT_VERSION}_PYTHON",
            "PROP_CONSUMEORDERLY": "true" if consumer.orderly else "false",
            "PROP_CONSUMER_START_TIMESTAMP": str(consumer.started_at_ms),
            "PROP_CONSUME_TYPE": str(ConsumeType.CONSUME_PASSIVELY),
            "PROP_NAMESERVER_ADDR": consumer.config.namesrv_addr,
            "PROP_THREADPOOL_CORE_SIZE": str(consumer.concurrency),
        },
        subscription_set=consumer.subscriptions,
    )
