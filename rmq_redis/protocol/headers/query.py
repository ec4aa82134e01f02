"""Headers of the search for single messages and of the look into a consume queue."""

from __future__ import annotations

import msgspec

from .base import Header, Int32, Int64


class ViewMessageRequestHeader(Header):
    offset: Int64
    topic: str | None = None


class QueryMessageRequestHeader(Header):
    """Times in ms, of storing. ``unique_key_query`` says that ``key`` is a UNIQ_KEY and no business key."""

    topic: str
    key: str
    max_num: Int32
    begin_timestamp: Int64
    end_timestamp: Int64
    unique_key_query: str | None = msgspec.field(default=None, name="_UNIQUE_KEY_QUERY")


class QueryMessageResponseHeader(Header):
    index_last_update_timestamp: Int64
    index_last_update_phyoffset: Int64


class QueryConsumeQueueRequestHeader(Header):
    topic: str
    queue_id: Int32
    index: Int64
    count: Int32
    consumer_group: str | None = None
