"""What brokers ask a consumer: reset offsets (220), status (221), running info (307), consume a message now (309)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ...codes import CURRENT_VERSION, RequestCode, ResponseCode
from ...errors import RemoteProtocolError
from ...model import ConsumeResult, ConsumeType, MessageQueue
from ...protocol.body import convert, dumps, object_body
from ...protocol.command import RemotingCommand, response
from .pulling import restore_topics
from .service import is_success

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
        topic = command.ext_fields.get("topic")
        table = {pq.queue: pq.commit_offset() for pq in consumer.process_queues if topic in (None, "", pq.queue.topic)}
        return response(command, body=dumps({"messageQueueTable": table}))
    if command.code == RequestCode.GET_CONSUMER_RUNNING_INFO:
        return response(command, body=dumps(running_info(consumer)))
    if command.code == RequestCode.CONSUME_MESSAGE_DIRECTLY:
        return response(command, body=dumps(await _consume_directly(consumer, command)))
    return response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED)


async def _reset_offsets(consumer: AsyncPushConsumer, command: RemotingCommand) -> None:
    table: Any = object_body(command.body).get("offsetTable") or {}
    offsets: dict[MessageQueue, int] = {}
    if isinstance(table, list):  # the form for clients in C++
        for item in table:
            offsets[convert(item, MessageQueue)] = int(item.get("offset", 0))
    else:
        for queue, offset in table.items():
            if not isinstance(queue, MessageQueue):
                raise RemoteProtocolError(f"offsetTable has the key {queue!r}, which is no queue")
            offsets[queue] = int(offset)
    held = set(consumer.assignment)
    await asyncio.gather(*(consumer.set_offset(queue, offset) for queue, offset in offsets.items() if queue in held))
    consumer.rebalance_now()


async def _consume_directly(consumer: AsyncPushConsumer, command: RemotingCommand) -> dict[str, Any]:
    broker_name = command.ext_fields.get("brokerName", "")
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
    return {
        "autoCommit": True,
        "consumeResult": result,
        "order": consumer.orderly,
        "remark": remark,
        "spentTimeMills": int((time.monotonic() - began) * 1000),
    }


def running_info(consumer: AsyncPushConsumer) -> dict[str, Any]:
    """ConsumerRunningInfo: settings, subscriptions, and how far each queue is."""
    now = asyncio.get_running_loop().time()
    queues: dict[MessageQueue, dict[str, Any]] = {}
    for pq in consumer.process_queues:
        offsets = list(pq.pending)
        queues[pq.queue] = {
            "cachedMsgCount": len(offsets),
            "cachedMsgMaxOffset": offsets[-1] if offsets else 0,
            "cachedMsgMinOffset": offsets[0] if offsets else 0,
            "cachedMsgSizeInMiB": pq.bytes // (1024 * 1024),
            "commitOffset": pq.commit_offset(),
            "droped": pq.dropped,
            "lastConsumeTimestamp": 0,
            "lastLockTimestamp": 0,
            "lastPullTimestamp": int(pq.last_pull_s * 1000),
            "locked": pq.locked_until > now,
            "transactionMsgCount": 0,
            "transactionMsgMaxOffset": 0,
            "transactionMsgMinOffset": 0,
            "tryUnlockTimes": 0,
        }
    return {
        "mqPopTable": {},
        "mqTable": queues,
        "properties": {
            "PROP_CLIENT_VERSION": f"V{CURRENT_VERSION}_PYTHON",
            "PROP_CONSUMEORDERLY": "true" if consumer.orderly else "false",
            "PROP_CONSUMER_START_TIMESTAMP": str(consumer.started_at_ms),
            "PROP_CONSUME_TYPE": str(ConsumeType.CONSUME_PASSIVELY),
            "PROP_NAMESERVER_ADDR": consumer.config.namesrv_addr,
            "PROP_THREADPOOL_CORE_SIZE": str(consumer.concurrency),
        },
        "statusTable": {},
        "subscriptionSet": consumer.subscriptions,
        "userConsumerInfo": {},
    }
