"""GET_BROKER_RUNTIME_INFO (28): every key that RocketMQ 5.3 sends, and additional ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...codes import CURRENT_VERSION, RequestCode
from ...errors import StoreError
from ...protocol.bodies.base import dumps
from ...protocol.bodies.broker import (
    GetFigures,
    MemoryFigures,
    OldestMessage,
    ProcessFigures,
    PutFigures,
    WaitingFigures,
    runtime_info,
)
from ...protocol.command import RemotingCommand, response
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...remoting.server import RemotingServer
from ...store.group.retention import StoreMemory, memory_of
from ...store.redis.server_info import server_info
from ..consume.pull import PullProcessor
from ..group.retention import RetentionService
from ..group.state import GroupState
from ..office import State
from ..produce.oneway import OnewayDrops
from ..rates import Rates, RateSampler
from ..statistics import BrokerStatistics

_STORE_ANSWER_S = 0.5
"""Timeout of the store for runtime info; a value that it does not return in this time is reported as unknown (-1)."""
_REFRESH_S = 10.0
"""A slave reads the ends of all its queues at most this often, though tools may repeat the request every second."""
_QUEUES_AT_ONCE = 200
"""Reads that are sent to the store together; more at once would hold up the pulls behind them."""


class RuntimeInfoProcessor:
    """Answers 28 at masters and slaves.

    Attributes:
        sampler: samples the rates; the caller starts and closes it.
    """

    def __init__(
        self,
        state: GroupState,
        pulls: PullProcessor,
        retention: RetentionService,
        statistics: BrokerStatistics,
        drops: OnewayDrops,
        registered_namesrvs: Callable[[], list[str]],
        server: RemotingServer,
    ) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._queue_store = queue_store = state.queue_store
        self._pulls = pulls
        self._retention = retention
        self._statistics = statistics
        self._drops = drops
        self._registered_namesrvs = registered_namesrvs
        self._server = server
        self._boot_ms = int(time.time() * 1000)
        self._refreshed_s = 0.0
        self._puts = Rates(lambda: queue_store.put_total)
        self._gets = Rates(lambda: statistics.gets.nums)
        self._found = Rates(lambda: statistics.gets.times)
        self._missed = Rates(lambda: statistics.miss_total)
        self._asked = Rates(lambda: statistics.gets.times + statistics.miss_total)
        self.sampler = RateSampler(
            self._puts, self._gets, self._found, self._missed, self._asked, also=statistics.forget_idle
        )

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.GET_BROKER_RUNTIME_INFO: self._runtime_info}

    async def _runtime_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        now = (self._of_process(), self._of_puts(), self._of_gets())
        waiting, memory, oldest = await asyncio.gather(self._waiting(), self._memory(), self._oldest())
        return response(command, body=dumps(runtime_info(*now, waiting, memory, oldest)))

    def _of_process(self) -> ProcessFigures:
        now_ms = int(time.time() * 1000)
        return ProcessFigures(
            broker_version_desc="V5_3_3",
            broker_version=CURRENT_VERSION,
            broker_active=self._office.state is not State.STOPPING,
            boot_timestamp=self._boot_ms,
            start_accept_send_request_time_stamp=self._boot_ms,
            runtime=format_runtime((now_ms - self._boot_ms) // 1000),
            registered_namesrvs=";".join(self._registered_namesrvs()),
            held_pulls=self._pulls.hold.count,
            oneway_drop_total=self._drops.total,
            connections=len(self._server.connections),
            connections_refused_total=self._server.refused.total,
            connections_cut_total=self._server.inbound.cuts.total,
            inbound_bytes=self._server.inbound.total,
            pull_thread_pool_queue_capacity=self._config.max_held_pulls,
            epoch=self._queue_store.epoch,
            store_full=bool(self._queue_store.full),
        )

    def _of_puts(self) -> PutFigures:
        store = self._queue_store
        times, puts = store.append_times, store.puts
        return PutFigures(
            put_tps=self._puts.text(),
            msg_put_total_yesterday_morning=self._puts.yesterday_morning,
            msg_put_total_today_morning=self._puts.today_morning,
            msg_put_total_today_now=puts.nums,
            put_message_times_total=puts.times,
            put_message_failed_times=times.failed,
            put_message_size_total=puts.size,
            put_message_average_size=puts.size / max(puts.times, 1),
            commit_log_max_offset=puts.size,
            put_message_entire_time_max=times.longest_ms,
            put_message_distribute_time="".join(f"{name}:{count} " for name, count in times.distribution().items()),
            put_latency99=f"{times.percentile_ms(0.99):.2f}",
            put_latency999=f"{times.percentile_ms(0.999):.2f}",
            pending_append_bytes=store.pending_bytes,
            remain_how_many_data_to_flush=readable_bytes(store.pending_bytes),
            send_thread_pool_queue_size=store.window.held,
            send_thread_pool_queue_head_wait_time_mills=store.window.head_wait_ms,
        )

    def _of_gets(self) -> GetFigures:
        transferred = self._gets.text()
        return GetFigures(
            get_found_tps=self._found.text(),
            get_miss_tps=self._missed.text(),
            get_total_tps=self._asked.text(),
            get_transferred_tps=transferred,
            get_transfered_tps=transferred,
            get_message_entire_time_max=self._statistics.longest_get_ms,
            msg_get_total_yesterday_morning=self._gets.yesterday_morning,
            msg_get_total_today_morning=self._gets.today_morning,
            msg_get_total_today_now=self._statistics.gets.nums,
        )

    # --- what the store knows ------------------------------------------------------------------------------------

    async def _waiting(self) -> WaitingFigures:
        keys = self._queue_store.keys
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                read = self._queue_store.current_read()
                scheduled, half = await asyncio.gather(
                    read.execute("ZCARD", keys.scheduled), read.execute("HLEN", keys.half)
                )
        except (StoreError, TimeoutError):
            scheduled = half = -1
        return WaitingFigures(scheduled_messages=scheduled, timer_congest_num=scheduled, undecided_transactions=half)

    async def _memory(self) -> MemoryFigures:
        memory = self._retention.memory
        if memory is None or not self._office.is_master:
            memory = await self._measured()
        if memory is None:
            return MemoryFigures()
        max_bytes = self._config.store_max_bytes or memory.max_bytes
        total = max_bytes or memory.system_bytes
        free = readable_bytes(max(total - memory.used_bytes, 0))
        return MemoryFigures(
            commit_log_disk_ratio=f"{memory.used_bytes / max_bytes:.4f}" if max_bytes else "0.0",
            commit_log_dir_capacity=f"Total : {readable_bytes(total)}, Free : {free}.",
            store_used_bytes=memory.used_bytes,
            store_max_bytes=max_bytes,
        )

    async def _measured(self) -> StoreMemory | None:
        """Memory of the server that this broker reads from; on a slave, retention does not measure it."""
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                return memory_of(await server_info(self._queue_store.current_read(), "memory"))
        except (StoreError, TimeoutError):
            return None

    async def _oldest(self) -> OldestMessage:
        """Store time of the oldest message. Without messages the present time, as tools show the difference to it."""
        is_complete = True
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                await self._learn_oldest()
        except (StoreError, TimeoutError):
            is_complete = False
        oldest_ms = self._retention.oldest_ms()
        if not oldest_ms:
            oldest_ms = int(time.time() * 1000) if is_complete else -1
        return OldestMessage(oldest_ms)

    async def _learn_oldest(self) -> None:
        """Reads the store times that are still unknown. Raises StoreError."""
        queues = [queue for topic in self._topics.topics.values() for queue in topic.queues]
        now_s = asyncio.get_running_loop().time()
        if not self._office.is_master and now_s - self._refreshed_s > _REFRESH_S:
            await self._queue_store.refresh(queues)
            self._refreshed_s = now_s
        unknown = [queue for queue in queues if queue.min_offset < queue.max_offset and not queue.oldest_ms]
        for start in range(0, len(unknown), _QUEUES_AT_ONCE):
            some = unknown[start : start + _QUEUES_AT_ONCE]
            await asyncio.gather(*(self._retention.learn_oldest(queue) for queue in some))


def format_runtime(seconds: int) -> str:
    """As ``StoreStatsService.getFormatRuntime``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]"


def readable_bytes(count: int) -> str:
    """As ``MixAll.humanReadableByteCount``, which tools read back: ``512 B``, ``1.5 KiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
