"""Where a group stands: first offsets of a queue, and commits."""

from __future__ import annotations

import asyncio
import logging
import time

from ...background import finish
from ...errors import RouteNotFoundError
from ...model import RETRY_PREFIX, ConsumeFromWhere, MessageModel, MessageQueue
from ..core.instance import MQClientInstance
from .local_offsets import LocalOffsets, claim, store_path
from .process_queue import ProcessQueue

logger = logging.getLogger(__name__)

DEFAULT_CONSUME_TIMESTAMP_AGO_MS = 30 * 60 * 1000


class OffsetStore:
    """The offsets of a group: with the brokers, or for BROADCASTING in a file of this machine.

    Attributes:
        is_local: whether they are in a file of this machine.

    Source: RemoteBrokerOffsetStore, RebalancePushImpl.computePullFromWhereWithException.
    """

    def __init__(
        self,
        instance: MQClientInstance,
        group: str,
        *,
        message_model: MessageModel = MessageModel.CLUSTERING,
        consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        consume_timestamp_ms: int | None = None,
    ) -> None:
        self._instance = instance
        self._group = group
        self.is_local = message_model == MessageModel.BROADCASTING
        self._consume_from_where = consume_from_where
        self._consume_timestamp_ms = consume_timestamp_ms
        self._local: dict[MessageQueue, int] = {}
        self._saved: dict[MessageQueue, int] = {}
        self._saving = asyncio.Lock()
        self._file: LocalOffsets | None = None

    async def open(self) -> None:
        """BROADCASTING: finds out what this consumer had when it ended, and gives the instance the id it had.

        Raises:
            ConfigError, ClientError: as ``local_offsets.claim``.
        """
        if self.is_local:
            config = self._instance.config
            root = store_path(config.offset_store_path)
            self._file = claim(root, self._instance.client_ip, config.instance_name, self._group)
            self._instance.client_id = self._file.client_id
            self._local = await asyncio.to_thread(self._file.load)
            self._saved = dict(self._local)

    async def persist(self) -> None:
        """BROADCASTING: writes what was committed since the last time; a failure is logged."""
        if self._file is None:
            return
        async with self._saving:
            offsets = dict(self._local)
            if offsets == self._saved:
                return
            try:  # the thread cannot be cancelled, and nothing else may write before it has ended
                await finish(asyncio.to_thread(self._file.save, offsets))
            except OSError as error:
                logger.warning("group %s: offsets not saved, a restart will repeat messages: %s", self._group, error)
            else:
                self._saved = offsets

    async def close(self) -> None:
        """Writes what is not written, and leaves the file to the next consumer. A second call does nothing."""
        await self.persist()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _address(self, queue: MessageQueue) -> str:
        """The master, or any other broker of the group when the master is gone from the route."""
        address = self._instance.routes.any_address(queue.broker_name)
        if address is None:
            raise RouteNotFoundError(f"the routes show no address of broker {queue.broker_name}")
        return address

    async def committed(self, queue: MessageQueue) -> int | None:
        """The group's offset of a queue; None when it has none.

        Raises:
            RouteNotFoundError, RemotingError, ResponseError: it cannot be asked for.
        """
        if self.is_local:
            return self._local.get(queue)
        # A time is exact, and finds all of a new queue too.
        by_time = self._consume_from_where == ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
        return await self._instance.broker.consumer_offset(
            self._address(queue), self._group, queue, zero_if_young=not by_time or queue.topic.startswith(RETRY_PREFIX)
        )

    async def start_offset(self, queue: MessageQueue) -> tuple[int, int | None]:
        """(offset to begin at, offset committed): as ``consume_from_where`` says when nothing is committed.

        Raises:
            RouteNotFoundError, RemotingError, ResponseError: a broker does not tell.
        """
        committed = await self.committed(queue)
        if committed is not None:
            return committed, committed
        return await self._first_offset(queue), None

    async def _first_offset(self, queue: MessageQueue) -> int:
        broker, address = self._instance.broker, self._address(queue)
        is_retry = queue.topic.startswith(RETRY_PREFIX)
        if self._consume_from_where == ConsumeFromWhere.CONSUME_FROM_TIMESTAMP:
            if is_retry:
                return await broker.max_offset(address, queue)
            timestamp_ms = self._consume_timestamp_ms
            if timestamp_ms is None:
                timestamp_ms = int(time.time() * 1000) - DEFAULT_CONSUME_TIMESTAMP_AGO_MS
            return await broker.search_offset(address, queue, timestamp_ms)
        if is_retry:
            return 0
        if self._consume_from_where == ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET:
            return await broker.min_offset(address, queue)
        return await broker.max_offset(address, queue)

    async def commit(self, process_queue: ProcessQueue, *, oneway: bool) -> None:
        """Commits how far a queue got; ``oneway`` without an answer, and only if that is news.

        Raises:
            RouteNotFoundError, RemotingError, ResponseError: it is not committed.
        """
        offset = process_queue.commit_offset()
        if oneway and offset == process_queue.committed_offset:
            return
        await self.set(process_queue.queue, offset, oneway=oneway)
        process_queue.committed_offset = offset

    async def set(self, queue: MessageQueue, offset: int, *, oneway: bool = False) -> None:
        """Commits an offset, whatever it is. Raises as ``commit``."""
        if self.is_local:
            self._local[queue] = offset
        else:
            await self._instance.broker.update_consumer_offset(
                self._address(queue), self._group, queue, offset, oneway=oneway
            )
