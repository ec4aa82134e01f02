"""Headers of transactions: their end, the check of an undecided one, its resumption."""

from __future__ import annotations

import msgspec

from .base import Header, Int32, Int64


class EndTransactionRequestHeader(Header):
    """``commit_or_rollback``: 8 commit, 12 rollback, 0 not known yet."""

    producer_group: str
    tran_state_table_offset: Int64
    commit_log_offset: Int64
    commit_or_rollback: Int32
    from_transaction_check: bool = False
    msg_id: str | None = None
    transaction_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class CheckTransactionStateRequestHeader(Header):
    tran_state_table_offset: Int64
    commit_log_offset: Int64
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class ResumeCheckHalfMessageRequestHeader(Header):
    """``msg_id``: the broker's id of a half message that was given up; ``topic`` is for a proxy's permissions."""

    msg_id: str | None = None
    topic: str | None = None
