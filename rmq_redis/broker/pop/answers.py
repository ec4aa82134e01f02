"""The answers to POPs that found messages: records as they are stored, and a header that says where each of them is."""

from __future__ import annotations

from collections.abc import Sequence

from ...codes import ResponseCode
from ...errors import LocalProtocolError
from ...model import PROPERTY_POP_CK, RETRY_PREFIX
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.pop import PopMessageResponseHeader
from ...protocol.pop import NORMAL, ORDER_REVIVE_QID, RETRY, OrderCounts, PopHandle, offset_info, order_count_info
from ...protocol.record import decode_records, encode_message
from ...store.group.queue import deliver
from .take import PopRequest, Taken

REVIVE_QID = 0
"""Clients repeat it in acknowledgements; Apache's broker has several revive queues, here there is none."""


def popped(
    command: RemotingCommand, request: PopRequest, taken: list[Taken], pop_ms: int, rest: int, broker_name: str
) -> RemotingCommand:
    """The answer to a POP without order; ``rest``: how many messages are left to pop."""
    starts: list[tuple[str, int, Sequence[int]]] = []
    found: list[tuple[str, int, Sequence[int]]] = []
    body = bytearray()
    for item in taken:
        queue_id, is_retry = item.queue.queue_id, item.queue.topic != request.topics[0]
        mark = RETRY if is_retry or request.topics[0].startswith(RETRY_PREFIX) else NORMAL
        starts.append((mark, queue_id, item.offsets[:1]))
        found.append((mark, queue_id, item.offsets))
        if is_retry:
            for offset, record in zip(item.offsets, item.records, strict=True):
                body += _renamed(request, item, offset, record, pop_ms, broker_name)
        else:
            body += deliver(item.queue, item.records, item.offsets)
    header = PopMessageResponseHeader(
        pop_ms, request.invisible_ms, REVIVE_QID, rest, offset_info(starts), offset_info(found)
    )
    return response(command, ResponseCode.SUCCESS, header, bytes(body), remark="FOUND")


def _renamed(request: PopRequest, item: Taken, offset: int, record: bytes, pop_ms: int, broker_name: str) -> bytes:
    """A message of the retry topic under the requested topic; its handle says where it is."""
    queue_id = item.queue.queue_id
    handle = PopHandle(
        item.offsets[0],
        pop_ms,
        request.invisible_ms,
        REVIVE_QID,
        RETRY,
        broker_name,
        queue_id,
        offset,
    )
    plain = bytes(deliver(item.queue, [record], [offset]))
    message = decode_records(plain, decompress=False)[0]
    try:
        properties = message.properties | {PROPERTY_POP_CK: handle.text()}
        return encode_message(message.rewritten(topic=request.topics[0], properties=properties, queue_id=queue_id))
    except LocalProtocolError:  # no room for the handle: as it is; the answer's header says the same
        return plain


def popped_in_order(command: RemotingCommand, request: PopRequest, taken: list[Taken], rest: int) -> RemotingCommand:
    """The answer to a POP in order: all messages of one have the same pop time, which handles carry."""
    mark = RETRY if request.topics[0].startswith(RETRY_PREFIX) else NORMAL
    counts: OrderCounts = {}
    body = bytearray()
    pop_ms = until_ms = 0
    for item in taken:
        batch, queue_id = item.batch, item.queue.queue_id
        assert batch
        pop_ms, until_ms = batch.pop_ms, batch.until_ms
        given = set(item.offsets)
        times = {m.queue_offset: m.times - 1 for m in batch.messages if m.queue_offset in given}
        counts.update({(mark, queue_id, offset): count for offset, count in times.items() if count})
        counts[mark, queue_id, None] = min(times.values())
        body += deliver(item.queue, item.records, item.offsets)
    header = PopMessageResponseHeader(
        pop_ms,
        until_ms - pop_ms,
        ORDER_REVIVE_QID,
        rest,
        offset_info([(mark, item.queue.queue_id, item.offsets[:1]) for item in taken]),
        offset_info([(mark, item.queue.queue_id, item.offsets) for item in taken]),
        order_count_info(counts),
    )
    return response(command, header=header, body=bytes(body), remark="FOUND")
