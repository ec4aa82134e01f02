"""Bodies about a broker as a whole: its figures (GET_BROKER_RUNTIME_INFO) and its replication (GET_BROKER_HA_STATUS).

Source: RocketMQ 5.3 ``AdminBrokerProcessor.prepareRuntimeInfo``, ``getRuntimeInfo`` of ``StoreStatsService`` and
``DefaultMessageStore``; ``HARuntimeInfo``.
"""

from __future__ import annotations

from ...model import MAX_DELAY_LEVEL
from .base import Body
from .topics import KvTable

# --- figures ---------------------------------------------------------------------------------------------------------

_NO_LIMIT = (1 << 31) - 1  # Integer.MAX_VALUE
_ZERO = (
    "sendThreadPoolQueueSize pullThreadPoolQueueSize litePullThreadPoolQueueSize queryThreadPoolQueueSize "
    "ackThreadPoolQueueSize EndTransactionQueueSize sendThreadPoolQueueHeadWaitTimeMills "
    "pullThreadPoolQueueHeadWaitTimeMills litePullThreadPoolQueueHeadWaitTimeMills "
    "queryThreadPoolQueueHeadWaitTimeMills ackThreadPoolQueueHeadWaitTimeMills pageCacheLockTimeMills "
    "dispatchBehindBytes dispatchMaxBuffer commitLogMinOffset "
    "timerReadBehind timerOffsetBehind"
)
_CAPACITIES = (
    "sendThreadPoolQueueCapacity litePullThreadPoolQueueCapacity queryThreadPoolQueueCapacity "
    "ackThreadPoolQueueCapacity EndTransactionThreadPoolQueueCapacity remainTransientStoreBufferNumbs"
)
_NEUTRAL = {
    **dict.fromkeys(_ZERO.split(), "0"),
    **dict.fromkeys(_CAPACITIES.split(), str(_NO_LIMIT)),
    **{f"scheduleMessageOffset_{level}": "0,0" for level in range(1, MAX_DELAY_LEVEL + 1)},
    **dict.fromkeys(("timerEnqueueTps", "timerDequeueTps", "consumeQueueDiskRatio"), "0.0"),
}
"""Figures without a counterpart here (a commit log, page cache, thread pools)."""

REGISTERED_NAMESRVS = "registeredNamesrvs"
SCHEDULED_MESSAGES = "scheduledMessages"
UNDECIDED_TRANSACTIONS = "undecidedTransactions"


class ProcessFigures(Body, frozen=True, kw_only=True):
    """The broker's process and its connections. Times in ms since 1970."""

    broker_version_desc: str
    broker_version: int
    broker_active: bool
    boot_timestamp: int
    start_accept_send_request_time_stamp: int
    runtime: str
    registered_namesrvs: str
    held_pulls: int
    oneway_drop_total: int
    connections: int
    connections_refused_total: int
    connections_cut_total: int
    inbound_bytes: int
    pull_thread_pool_queue_capacity: int
    epoch: int
    store_full: bool


class PutFigures(Body, frozen=True, kw_only=True):
    """Messages stored. Times in ms."""

    put_tps: str
    msg_put_total_yesterday_morning: int
    msg_put_total_today_morning: int
    msg_put_total_today_now: int
    put_message_times_total: int
    put_message_failed_times: int
    put_message_size_total: int
    put_message_average_size: float
    commit_log_max_offset: int
    put_message_entire_time_max: int
    put_message_distribute_time: str
    put_latency99: str
    put_latency999: str
    pending_append_bytes: int
    remain_how_many_data_to_flush: str
    send_thread_pool_queue_size: int
    send_thread_pool_queue_head_wait_time_mills: int


class GetFigures(Body, frozen=True, kw_only=True):
    """Messages delivered. ``get_transfered_tps`` is how tools up to 4.9 spell it."""

    get_found_tps: str
    get_miss_tps: str
    get_total_tps: str
    get_transferred_tps: str
    get_transfered_tps: str
    get_message_entire_time_max: int
    msg_get_total_yesterday_morning: int
    msg_get_total_today_morning: int
    msg_get_total_today_now: int


class WaitingFigures(Body, frozen=True, kw_only=True):
    """What waits outside of the queues: delayed messages and undecided transactions; -1: not known."""

    scheduled_messages: int
    timer_congest_num: int
    undecided_transactions: int


class MemoryFigures(Body, frozen=True, kw_only=True):
    """The store's memory. The default values say that it is not known."""

    commit_log_disk_ratio: str = "-1.0"
    commit_log_dir_capacity: str = "Total : -1 B, Free : -1 B."
    store_used_bytes: int | None = None
    store_max_bytes: int | None = None


class OldestMessage(Body, frozen=True):
    """Store time (ms) of the oldest message; -1: not known."""

    earliest_message_time_stamp: int


def runtime_info(*figures: Body) -> KvTable:
    """Every key of RocketMQ 5.3 as text: these figures, and the neutral value of all others."""
    table = dict(_NEUTRAL)
    for part in figures:
        table |= {name: _text(value) for name, value in part.items() if value is not None}
    return KvTable(table)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- replication -----------------------------------------------------------------------------------------------------


class ReplicaState(Body, frozen=True, kw_only=True):
    """One replica as its primary sees it; ``diff`` is the lag in bytes."""

    addr: str
    diff: int
    in_sync: bool
    slave_ack_offset: int
    transfer_from_where: int
    transferred_byte_in_second: int


class ReplicaRuntimeInfo(Body, frozen=True, kw_only=True):
    """A replica as it sees itself. Times in ms since 1970; 0: never."""

    activated: bool
    last_read_timestamp: int
    last_write_timestamp: int
    master_addr: str
    master_flush_offset: int
    max_offset: int
    transferred_byte_in_second: int


class HaStatus(Body, frozen=True, kw_only=True):
    """Answer to GET_BROKER_HA_STATUS. A slave has ``ha_client_runtime_info``."""

    ha_client_runtime_info: ReplicaRuntimeInfo | None = None
    ha_connection_info: list[ReplicaState] = []
    in_sync_slave_nums: int = 0
    master: bool
    master_commit_log_max_offset: int = 0
