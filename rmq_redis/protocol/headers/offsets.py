"""Headers about the offsets of a queue and of a consumer group."""

from __future__ import annotations

from .base import Header, Int32, Int64


class QueueOffsetRequestHeader(Header):
    """GET_MAX_OFFSET, GET_MIN_OFFSET, GET_EARLIEST_MSG_STORETIME."""

    topic: str
    queue_id: Int32


class OffsetResponseHeader(Header):
    offset: Int64


class SearchOffsetRequestHeader(Header):
    """``timestamp`` in ms; ``boundary_type`` ``lower`` (default) or ``upper``."""

    topic: str
    queue_id: Int32
    timestamp: Int64
    boundary_type: str | None = None


class EarliestMsgStoretimeResponseHeader(Header):
    timestamp: Int64


class QueryConsumerOffsetRequestHeader(Header):
    consumer_group: str
    topic: str
    queue_id: Int32
    set_zero_if_not_found: bool | None = None


class UpdateConsumerOffsetRequestHeader(Header):
    consumer_group: str
    topic: str
    queue_id: Int32
    commit_offset: Int64


class ResetOffsetRequestHeader(Header):
    """INVOKE_BROKER_TO_RESET_OFFSET: to ``timestamp`` (ms; -1: the end), or one queue to ``offset``."""

    topic: str
    group: str
    timestamp: Int64
    is_force: bool = True
    queue_id: Int32 = -1
    offset: Int64 | None = None
