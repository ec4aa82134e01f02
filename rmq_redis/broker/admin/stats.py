"""VIEW_BROKER_STATS_DATA (315), GET_BROKER_HA_STATUS (907), CLEAN_UNUSED_TOPIC (316), and unsupported requests."""

from __future__ import annotations

import asyncio
import time

from ...codes import RequestCode, ResponseCode
from ...errors import ResponseError, ServiceNotAvailableError, StoreError
from ...protocol.bodies.base import dumps
from ...protocol.bodies.broker import HaStatus, ReplicaRuntimeInfo, ReplicaState
from ...protocol.bodies.progress import BrokerStatsData, StatsItem
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.admin import ViewBrokerStatsDataRequestHeader
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.counters import Window
from ...store.redis.server_info import Replication, replication
from ..group.state import GroupState
from ..statistics import BrokerStatistics

_STORE_ANSWER_S = 2.0
"""Shorter than the timeouts of clients, of which 3 s is the shortest."""
_IN_SYNC_LAG_S = 10
"""A replica whose last confirmation is older is behind; Redis' own ``repl-timeout`` is 60 s. Replicas confirm once a
second."""

_NOT_SUPPORTED = {
    RequestCode.UPDATE_AND_CREATE_STATIC_TOPIC: "static topics are not supported; every queue belongs to one broker",
    RequestCode.RESET_MASTER_FLUSH_OFFSET: "there is no flush offset to reset; Redis replicates by itself",
    RequestCode.UPDATE_COLD_DATA_FLOW_CTR_CONFIG: "there is no cold data; all messages are in the store's memory",
    RequestCode.REMOVE_COLD_DATA_FLOW_CTR_CONFIG: "there is no cold data; all messages are in the store's memory",
    RequestCode.GET_COLD_DATA_FLOW_CTR_INFO: "there is no cold data; all messages are in the store's memory",
    RequestCode.SET_COMMITLOG_READ_MODE: "there is no commit log; messages are read from the store's memory",
}


class StatisticsProcessor:
    """Answers from the broker's counters and from Redis' own replication, at masters and slaves."""

    def __init__(self, state: GroupState, statistics: BrokerStatistics) -> None:
        self._office = state.office
        self._queue_store = state.queue_store
        self._statistics = statistics

    def processors(self) -> dict[int, Processor]:
        processors: dict[int, Processor] = {
            RequestCode.VIEW_BROKER_STATS_DATA: self._view,
            RequestCode.GET_BROKER_HA_STATUS: self._ha_status,
            RequestCode.CLEAN_UNUSED_TOPIC: self._clean_unused_topic,
        }
        for code in _NOT_SUPPORTED:
            processors[code] = self._not_supported
        return processors

    def _view(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ViewBrokerStatsDataRequestHeader)
        found = self._statistics.windows(header.stats_name, header.stats_key)
        if found is None:
            raise ResponseError(f"The stats <{header.stats_name:.80}> <{header.stats_key:.300}> not exist")
        minute, hour, day = (_item(window, found.field) for window in found.windows)
        return response(command, body=dumps(BrokerStatsData(stats_day=day, stats_hour=hour, stats_minute=minute)))

    async def _ha_status(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                if not self._office.is_master:
                    body = _ha_of_slave(await replication(self._queue_store.current_read()))
                else:
                    body = _ha_of_master(await replication(self._queue_store.current()))
        except (StoreError, TimeoutError):
            raise ServiceNotAvailableError("the store does not answer INFO replication, or refuses it") from None
        return response(command, body=dumps(body))

    def _clean_unused_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Nothing to clean: deleting a topic removes its queues and offsets in the same step."""
        return response(command)

    def _not_supported(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        remark = _NOT_SUPPORTED[RequestCode(command.code)]
        return response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark=remark)


def _item(window: Window, field: str) -> StatsItem:
    total: int = getattr(window.total, field)
    times = window.total.times
    return StatsItem(avgpt=total / times if times else 0.0, sum=total, tps=total / window.elapsed_s)


def _ha_of_master(state: Replication) -> HaStatus:
    replicas = [
        ReplicaState(
            addr=replica.address,
            diff=max(state.offset - replica.offset, 0),
            in_sync=replica.is_online and 0 <= replica.lag_s <= _IN_SYNC_LAG_S,
            slave_ack_offset=replica.offset,
            transfer_from_where=replica.offset,
            transferred_byte_in_second=state.bytes_per_s // len(state.replicas),
        )
        for replica in state.replicas
    ]
    return HaStatus(
        ha_connection_info=replicas,
        in_sync_slave_nums=sum(replica.in_sync for replica in replicas),
        master=True,
        master_commit_log_max_offset=state.offset,
    )


def _ha_of_slave(state: Replication) -> HaStatus:
    heard_ms = int(time.time() * 1000) - state.last_io_s * 1000 if state.last_io_s >= 0 else 0
    replica = ReplicaRuntimeInfo(
        activated=state.is_link_up,
        last_read_timestamp=heard_ms,
        last_write_timestamp=heard_ms,
        master_addr=state.primary,
        master_flush_offset=state.offset,
        max_offset=state.offset,
        transferred_byte_in_second=state.bytes_per_s,
    )
    return HaStatus(ha_client_runtime_info=replica, master=False)
