"""QUERY_MESSAGE (12): messages by the client's unique key or by a business key, within a time range.

There is no index. A unique key contains the time at which it was made, so the search begins at the messages stored then
and goes outward, as the producer's clock may differ. A business key is searched in the topic's messages of the time
range, newest first, up to a limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

from ...codes import RequestCode
from ...errors import QueryNotFoundError
from ...model import DLQ_PREFIX, PROPERTY_KEYS, PROPERTY_UNIQ_KEY, RETRY_PREFIX, split_keys
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.query import QueryMessageRequestHeader, QueryMessageResponseHeader
from ...protocol.ids import unique_key_time_ms
from ...protocol.properties import find_property
from ...protocol.record import record_properties_start, store_timestamp_position
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.queue import Queue, deliver
from ..group.state import GroupState
from .message_scan import OutwardScan, Window

MAX_NUMS_BY_UNIQUE_KEY = 32
"""Source: ``defaultQueryMaxNum``."""
MAX_NUMS_BY_KEY = 64
"""Source: ``maxMsgsNumBatch``."""
MAX_SCANNED_NUMS = 200_000
"""Messages of one queue that a query by business key searches. A query by unique key has only ``SEARCH_S``."""
SEARCH_S = 2.5
"""Seconds that a query looks for messages: shorter than the timeouts of clients, of which 3 s is the shortest."""
_NO_LIMIT = 1 << 62
"""More messages than any queue has."""
_CLIENT_SLACK_MS = 1000
"""4.x clients and mqadmin begin a query at the time in the key less this. Source: ``MQAdminImpl``."""
_CLOCK_SLACK_MS = 60_000
"""How far ahead of the broker's clock a producer's may be for all copies of its message to be found."""
_LATEST_STORE_MS = 10 * 60_000
"""How long after its key was made a message may be stored: the send was retried, or the producer's clock is behind."""
_READ_NUMS = 256
"""Records of one read, so that Redis serves others between two reads and the deadline is checked."""
_READ_BYTES = 1024 * 1024
"""The same for large records."""

Found = tuple[int, Queue, int, bytes]
"""(store time in ms, queue, offset, record)"""


class _Span(NamedTuple):
    """The store times to search.

    Attributes:
        begin_ms, end_ms: both included.
        made_ms: the time in a unique key, by the producer's clock. None: unknown.
        may_stop: whether a message that was found ends the search far from ``made_ms``.
    """

    begin_ms: int
    end_ms: int
    made_ms: int | None
    may_stop: bool


class _Search:
    """A key, the messages found so far, and the end of the search (``time.monotonic``)."""

    def __init__(self, key: str, is_unique: bool, deadline_s: float) -> None:
        self._key = key
        self._is_unique = is_unique
        self._deadline_s = deadline_s
        self.wanted = key.encode()
        self.found: list[Found] = []

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._deadline_s

    def matches(self, record: bytes) -> bool:
        text = record[record_properties_start(record) :].decode()
        if self._is_unique:
            return find_property(text, PROPERTY_UNIQ_KEY) == self._key
        return self._key in split_keys(find_property(text, PROPERTY_KEYS) or "")


class QueryProcessor:
    """Answers from the queues themselves."""

    def __init__(self, state: GroupState) -> None:
        self._office = state.office
        self._topics = state.topics
        self._queue_store = state.queue_store

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.QUERY_MESSAGE: self._query}

    async def _query(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueryMessageRequestHeader)
        topic = self._topics.topics.get(header.topic)
        is_unique = (header.unique_key_query or "").lower() == "true"
        limit = MAX_NUMS_BY_UNIQUE_KEY if is_unique else max(1, min(header.max_num, MAX_NUMS_BY_KEY))
        span = _span_of(header, is_unique)
        search = _Search(header.key, is_unique, time.monotonic() + SEARCH_S)
        scans = await asyncio.gather(*(self._scan(queue, span) for queue in (topic.queues if topic else [])))
        is_whole = await self._search([scan for scan in scans if scan], search, span)
        found = search.found
        if not found:
            rest = "" if is_whole else "; it was not searched whole, as it has too many messages: narrow the time range"
            raise QueryNotFoundError(
                f"no message of {header.topic!r} with the key {header.key[:80]!r} in that time{rest}"
            )
        newest = sorted(found, key=lambda item: (item[0], item[1].queue_id, item[2]))[-limit:]
        body = b"".join(bytes(deliver(queue, [record], [offset])) for _, queue, offset, record in newest)
        last_ms, last_queue, last_offset, _ = newest[-1]
        answer = QueryMessageResponseHeader(last_ms, last_queue.physical_offset(last_offset))
        return response(command, header=answer, body=body)

    async def _scan(self, queue: Queue, span: _Span) -> tuple[Queue, OutwardScan] | None:
        """The order in which a queue is searched; None if it has no message of that time."""
        if not self._office.is_master:
            await self._queue_store.refresh([queue])
        if queue.max_offset == queue.min_offset or span.begin_ms > span.end_ms:
            return None
        offset_at = partial(self._queue_store.search_by_timestamp, queue)
        reach = Window(await offset_at(span.begin_ms), await offset_at(span.end_ms + 1))
        if span.made_ms is None:
            return queue, OutwardScan(reach, reach.end, reach)
        window = Window(
            await offset_at(span.made_ms - _CLOCK_SLACK_MS), await offset_at(span.made_ms + _LATEST_STORE_MS + 1)
        )
        return queue, OutwardScan(reach, await offset_at(span.made_ms), window)

    async def _search(self, scans: list[tuple[Queue, OutwardScan]], search: _Search, span: _Span) -> bool:
        """Searches all queues step by step; False if it ended before all messages were searched."""
        while True:
            parts: list[tuple[Queue, Window]] = []
            is_whole = True
            for queue, scan in scans:
                limit = _NO_LIMIT
                if span.made_ms is None:
                    limit = MAX_SCANNED_NUMS - scan.looked_at
                elif search.found and span.may_stop:
                    limit = 0 if scan.is_window_done else MAX_SCANNED_NUMS - scan.looked_at
                parts += ((queue, part) for part in scan.next(limit))
                is_whole &= limit > 0
            if not parts or search.is_over:
                return is_whole and not parts
            await asyncio.gather(*(self._look(queue, part, search) for queue, part in parts))

    async def _look(self, queue: Queue, part: Window, search: _Search) -> None:
        async for offset, record in self._records(queue, part.first, part.end, search):
            if search.wanted in record and search.matches(record):  # the first test is quick and rejects most records
                position = store_timestamp_position(record)
                search.found.append((int.from_bytes(record[position : position + 8], "big"), queue, offset, record))

    async def _records(self, queue: Queue, offset: int, end: int, search: _Search) -> AsyncIterator[tuple[int, bytes]]:
        while offset < end and not search.is_over:
            count = queue.read_nums(min(_READ_NUMS, end - offset), _READ_BYTES)
            offsets, records = await self._queue_store.read_records(queue, offset, count)
            if not records:
                return
            for found_offset, record in zip(offsets, records, strict=True):
                if found_offset < end:  # after a gap, a read returns messages of the next part
                    yield found_offset, record
            offset = offsets[-1] + 1


def _span_of(header: QueryMessageRequestHeader, is_unique: bool) -> _Span:
    begin_ms, end_ms = header.begin_timestamp, header.end_timestamp
    made_ms = unique_key_time_ms(header.key, int(time.time() * 1000)) if is_unique else None
    if made_ms and made_ms - _CLIENT_SLACK_MS <= begin_ms <= made_ms:
        begin_ms = 0  # the client computed it from the key; the user did not choose it
    # Copies in a retry topic or the dead letters are stored hours apart: after the first, there may be others.
    return _Span(begin_ms, end_ms, made_ms, not header.topic.startswith((RETRY_PREFIX, DLQ_PREFIX)))
