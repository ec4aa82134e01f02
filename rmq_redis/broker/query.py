"""QUERY_MESSAGE (12): messages by the client's unique key or by a business key, within a time range.

There is no index. A unique key carries the time of its making, so a search by store time leads to the message. For a
business key the topic's messages in the time range are looked at, newest first, up to a limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from ..codes import RequestCode
from ..errors import QueryNotFoundError, StoreError
from ..model import DLQ_PREFIX, RETRY_PREFIX, split_keys
from ..protocol.command import RemotingCommand, response
from ..protocol.header import QueryMessageRequestHeader, QueryMessageResponseHeader
from ..protocol.message import find_property, record_properties_start, store_timestamp_position, unique_key_time_ms
from ..remoting.connection import Connection
from ..remoting.server import Processor
from ..store.queue import Queue, deliver
from ..store.queue_store import QueueStore
from .topics import TopicTable

MAX_NUMS_BY_UNIQUE_KEY = 32
"""Source: ``defaultQueryMaxNum``."""
MAX_NUMS_BY_KEY = 64
"""Source: ``maxMsgsNumBatch``."""
MAX_SCANNED_NUMS = 200_000
"""Messages of one queue that a query looks at."""
_CLIENT_SLACK_MS = 1000
"""4.x clients and mqadmin begin a query at the time in the key less this. Source: ``MQAdminImpl``."""
_CLOCK_SLACK_MS = 60_000
_LATEST_STORE_MS = 10 * 60_000
_READ_NUMS = 256
_READ_BYTES = 1024 * 1024

Found = tuple[int, Queue, int, bytes]
"""(store time in ms, queue, offset, record)"""


class QueryProcessor:
    """Answers from the queues themselves."""

    def __init__(self, topics: TopicTable, queue_store: QueueStore) -> None:
        self._topics = topics
        self._queue_store = queue_store

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.QUERY_MESSAGE: self._query}

    async def _query(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueryMessageRequestHeader)
        topic = self._topics.topics.get(header.topic)
        is_unique = (header.unique_key_query or "").lower() == "true"
        limit = MAX_NUMS_BY_UNIQUE_KEY if is_unique else max(1, min(header.max_num, MAX_NUMS_BY_KEY))
        spans = _spans(header, is_unique)
        queues = topic.queues if topic is not None else []
        found: list[Found] = []
        for span in spans:
            for some in await asyncio.gather(*(self._search(q, header.key, is_unique, *span) for q in queues)):
                found += some
            if found:
                break
        if not found:
            raise QueryNotFoundError(f"no message of {header.topic!r} with the key {header.key[:80]!r} in that time")
        newest = sorted(found, key=lambda item: (item[0], item[1].queue.queue_id, item[2]))[-limit:]
        body = b"".join(bytes(deliver(queue, [record], [offset])) for _, queue, offset, record in newest)
        last_ms, last_queue, last_offset, _ = newest[-1]
        answer = QueryMessageResponseHeader(last_ms, last_queue.physical_offset(last_offset))
        return response(command, header=answer, body=body)

    async def _search(self, queue: Queue, key: str, is_unique: bool, begin_ms: int, end_ms: int) -> list[Found]:
        if self._queue_store.reads_only:
            await self._queue_store.refresh([queue])
        if queue.max_offset == queue.min_offset or begin_ms > end_ms:
            return []
        first = await self._queue_store.search_by_timestamp(queue, begin_ms)
        end = await self._queue_store.search_by_timestamp(queue, end_ms + 1)
        first = max(first, end - MAX_SCANNED_NUMS)
        wanted = key.encode()
        matches: list[Found] = []
        async for offset, record in self._records(queue, first, end):
            if wanted not in record:  # most are not it, and this is quick
                continue
            text = record[record_properties_start(record) :].decode()
            value = find_property(text, "UNIQ_KEY" if is_unique else "KEYS")
            if value is not None and (value == key if is_unique else key in split_keys(value)):
                position = store_timestamp_position(record)
                matches.append((int.from_bytes(record[position : position + 8], "big"), queue, offset, record))
        return matches

    async def _records(self, queue: Queue, offset: int, end: int) -> AsyncIterator[tuple[int, bytes]]:
        loop = asyncio.get_running_loop()
        while offset < end:
            future: asyncio.Future[tuple[list[int], list[bytes]]] = loop.create_future()

            def done(
                offsets: list[int],
                records: list[bytes],
                error: StoreError | None,
                future: asyncio.Future[tuple[list[int], list[bytes]]] = future,
            ) -> None:
                if future.done():
                    return
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result((offsets, records))

            count = queue.read_nums(min(_READ_NUMS, end - offset), _READ_BYTES)
            self._queue_store.read(queue, offset, count, done)
            offsets, records = await future
            if not records:
                return
            for found_offset, record in zip(offsets, records, strict=True):
                yield found_offset, record
            offset = offsets[-1] + 1


def _spans(header: QueryMessageRequestHeader, is_unique: bool) -> list[tuple[int, int]]:
    """Ranges of store times (ms) to search, in turn, until one has what is wanted."""
    begin_ms, end_ms = header.begin_timestamp, header.end_timestamp
    made_ms = unique_key_time_ms(header.key, int(time.time() * 1000)) if is_unique else None
    if made_ms is None:
        return [(begin_ms, end_ms)]
    if made_ms - _CLIENT_SLACK_MS <= begin_ms <= made_ms:
        begin_ms = 0  # computed from the key by the client, so no wish of its user
    if header.topic.startswith((RETRY_PREFIX, DLQ_PREFIX)):
        return [(begin_ms, end_ms)]  # copies of a message are stored hours apart
    # Around the time in the key first. It is stored at another time if its producer's clock differs from ours.
    return [(max(begin_ms, made_ms - _CLOCK_SLACK_MS), min(end_ms, made_ms + _LATEST_STORE_MS)), (begin_ms, end_ms)]
