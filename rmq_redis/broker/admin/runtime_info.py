"""GET_BROKER_RUNTIME_INFO (28): every key that RocketMQ 5.3 sends, and some of our own.

What has no counterpart here (a commit log, page cache, thread pools) has its neutral value. Source: RocketMQ 5.3
``AdminBrokerProcessor.prepareRuntimeInfo``; ``getRuntimeInfo`` of ``StoreStatsService`` and ``DefaultMessageStore``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...codes import CURRENT_VERSION, RequestCode
from ...config import BrokerConfig
from ...errors import StoreError
from ...protocol.body import dumps
from ...protocol.command import RemotingCommand, response
from ...remoting.connection import Connection
from ...remoting.server import Processor, RemotingServer
from ...store.group.queues import QueueStore
from ...store.group.retention import StoreMemory, memory_of
from ...store.redis.server_info import server_info
from ..consume.pull import PullProcessor
from ..group.retention import RetentionService
from ..group.topics import TopicTable
from ..office import Office, State
from ..produce.oneway import OnewayDrops
from ..rates import Rates, RateSampler
from ..statistics import BrokerStatistics

_STORE_ANSWER_S = 0.5
"""A store that hangs is when somebody asks how the broker is: what it does not say in this time is unknown (-1)."""
_REFRESH_S = 10.0
_QUEUES_AT_ONCE = 200
_DELAY_LEVELS = 18
_NO_LIMIT = (1 << 31) - 1
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


class RuntimeInfoProcessor:
    """Answers 28 at masters and slaves.

    Attributes:
        sampler: takes the samples of the rates; to be started and closed.
    """

    def __init__(
        self,
        config: BrokerConfig,
        office: Office,
        topics: TopicTable,
        queue_store: QueueStore,
        pulls: PullProcessor,
        retention: RetentionService,
        statistics: BrokerStatistics,
        drops: OnewayDrops,
        registered_namesrvs: Callable[[], list[str]],
        server: RemotingServer,
    ) -> None:
        self._config = config
        self._office = office
        self._topics = topics
        self._queue_store = queue_store
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
        table = self._neutral() | self._of_process() | self._of_puts() | self._of_gets()
        for part in await asyncio.gather(self._waiting(), self._memory(), self._earliest()):
            table |= part
        return response(command, body=dumps({"table": table}))

    @staticmethod
    def _neutral() -> dict[str, str]:
        table = dict.fromkeys(_ZERO.split(), "0") | dict.fromkeys(_CAPACITIES.split(), str(_NO_LIMIT))
        table |= {f"scheduleMessageOffset_{level}": "0,0" for level in range(1, _DELAY_LEVELS + 1)}
        return table | {"timerEnqueueTps": "0.0", "timerDequeueTps": "0.0", "consumeQueueDiskRatio": "0.0"}

    def _of_process(self) -> dict[str, str]:
        now_ms = int(time.time() * 1000)
        return {
            "brokerVersionDesc": "V5_3_3",
            "brokerVersion": str(CURRENT_VERSION),
            "brokerActive": "false" if self._office.state is State.STOPPING else "true",
            "bootTimestamp": str(self._boot_ms),
            "startAcceptSendRequestTimeStamp": str(self._boot_ms),
            "runtime": format_runtime((now_ms - self._boot_ms) // 1000),
            "registeredNamesrvs": ";".join(self._registered_namesrvs()),
            "heldPulls": str(self._pulls.hold.count),
            "onewayDropTotal": str(self._drops.total),
            "connections": str(len(self._server.connections)),
            "connectionsRefusedTotal": str(self._server.refused.total),
            "connectionsCutTotal": str(self._server.inbound.cuts.total),
            "inboundBytes": str(self._server.inbound.total),
            "pullThreadPoolQueueCapacity": str(self._config.max_held_pulls),
            "epoch": str(self._queue_store.epoch),
            "storeFull": "true" if self._queue_store.full else "false",
        }

    def _of_puts(self) -> dict[str, str]:
        store = self._queue_store
        times, puts = store.append_times, store.puts
        return {
            "putTps": self._puts.text(),
            "msgPutTotalYesterdayMorning": str(self._puts.yesterday_morning),
            "msgPutTotalTodayMorning": str(self._puts.today_morning),
            "msgPutTotalTodayNow": str(puts.nums),
            "putMessageTimesTotal": str(puts.times),
            "putMessageFailedTimes": str(times.failed),
            "putMessageSizeTotal": str(puts.size),
            "putMessageAverageSize": str(puts.size / max(puts.times, 1)),
            "commitLogMaxOffset": str(puts.size),
            "putMessageEntireTimeMax": str(times.longest_ms),
            "putMessageDistributeTime": "".join(f"{name}:{count} " for name, count in times.distribution().items()),
            "putLatency99": f"{times.percentile_ms(0.99):.2f}",
            "putLatency999": f"{times.percentile_ms(0.999):.2f}",
            "pendingAppendBytes": str(store.pending_bytes),
            "remainHowManyDataToFlush": readable_bytes(store.pending_bytes),
            "sendThreadPoolQueueSize": str(store.window.held),
            "sendThreadPoolQueueHeadWaitTimeMills": str(store.window.head_wait_ms),
        }

    def _of_gets(self) -> dict[str, str]:
        transferred = self._gets.text()
        return {
            "getFoundTps": self._found.text(),
            "getMissTps": self._missed.text(),
            "getTotalTps": self._asked.text(),
            "getTransferredTps": transferred,
            "getTransferedTps": transferred,  # as tools up to 4.9 spell it
            "getMessageEntireTimeMax": str(self._statistics.longest_get_ms),
            "msgGetTotalYesterdayMorning": str(self._gets.yesterday_morning),
            "msgGetTotalTodayMorning": str(self._gets.today_morning),
            "msgGetTotalTodayNow": str(self._statistics.gets.nums),
        }

    # --- what the store knows ------------------------------------------------------------------------------------

    async def _waiting(self) -> dict[str, str]:
        """What waits outside of the queues: delayed messages and undecided transactions."""
        keys = self._queue_store.keys
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                read = self._queue_store.current_read()
                scheduled, half = await asyncio.gather(
                    read.execute("ZCARD", keys.scheduled), read.execute("HLEN", keys.half)
                )
        except (StoreError, TimeoutError):
            scheduled = half = -1
        return {
            "scheduledMessages": str(scheduled),
            "timerCongestNum": str(scheduled),
            "undecidedTransactions": str(half),
        }

    async def _memory(self) -> dict[str, str]:
        memory = self._retention.memory
        if memory is None or not self._office.is_master:
            memory = await self._measured()
        if memory is None:
            return {"commitLogDiskRatio": "-1.0", "commitLogDirCapacity": "Total : -1 B, Free : -1 B."}
        max_bytes = self._config.store_max_bytes or memory.max_bytes
        total = max_bytes or memory.system_bytes
        free = readable_bytes(max(total - memory.used_bytes, 0))
        return {
            "commitLogDiskRatio": f"{memory.used_bytes / max_bytes:.4f}" if max_bytes else "0.0",
            "commitLogDirCapacity": f"Total : {readable_bytes(total)}, Free : {free}.",
            "storeUsedBytes": str(memory.used_bytes),
            "storeMaxBytes": str(max_bytes),
        }

    async def _measured(self) -> StoreMemory | None:
        """The memory of the server that this broker reads from: a slave has no retention that looks."""
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                return memory_of(await server_info(self._queue_store.current_read(), "memory"))
        except (StoreError, TimeoutError):
            return None

    async def _earliest(self) -> dict[str, str]:
        """Store time of the oldest message; now while there is none, since tools show its distance from now."""
        is_complete = True
        try:
            async with asyncio.timeout(_STORE_ANSWER_S):
                await self._learn_oldest()
        except (StoreError, TimeoutError):
            is_complete = False
        oldest_ms = self._retention.oldest_ms()
        if not oldest_ms:
            oldest_ms = int(time.time() * 1000) if is_complete else -1
        return {"earliestMessageTimeStamp": str(oldest_ms)}

    async def _learn_oldest(self) -> None:
        """Reads what nobody has read yet. Raises StoreError."""
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
