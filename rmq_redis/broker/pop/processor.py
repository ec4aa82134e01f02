"""POP_MESSAGE (200050), PEEK_MESSAGE (200052), NOTIFICATION (200054), POLLING_INFO (200055).

A POP hides messages from its group for a while instead of binding queues to clients. Messages are read as for a pull,
filtered, and then made pending in one function call that also advances the group's offset.
Source: RocketMQ 5.3 ``PopMessageProcessor``, ``NotificationProcessor``, ``PollingInfoProcessor``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext

from ...codes import Perm, RequestCode, ResponseCode
from ...errors import (
    InvalidParameterError,
    NoPermissionError,
    StoreError,
    TopicNotExistError,
)
from ...model import RETRY_PREFIX, topic_name_error
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.pop import (
    NotificationRequestHeader,
    NotificationResponseHeader,
    PeekMessageRequestHeader,
    PollingInfoRequestHeader,
    PollingInfoResponseHeader,
    PopMessageRequestHeader,
    PopMessageResponseHeader,
)
from ...protocol.pop import pop_retry_topic
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.pop import PopStore, Share
from ...store.group.pop_order import attempt_of
from ...store.group.queue import Queue, deliver
from ..filter.reads import MAX_SCAN_NUMS, READS_AT_ONCE
from ..filter.subscription import message_filter
from ..group.state import GroupState
from ..hooks import DeliveryHooks
from ..office import State
from ..statistics import BrokerStatistics
from .answers import REVIVE_QID, popped, popped_in_order
from .hold import PopHold, Waiter
from .order import PopOrder
from .revive import PopReviveService
from .take import PopRequest, Room, Screen, Taken, next_after

MAX_POP_NUMS = 32
"""Messages of one POP. Source: ``PopMessageProcessor.processRequest``."""
MAX_INVISIBLE_MS = 3 * 24 * 3600 * 1000
"""3 days, like the maximum of a timer."""
_LATE_MS = 500
"""Source: ``PopMessageRequestHeader.isTimeoutTooMuch``."""
_RETRY_FIRST_EVERY = 5
"""Every fifth POP reads the retry topic first, so that neither starves. Source: ``popFromRetryProbability`` 20."""
_FILTERED_POPS = "filtered_pops"
_MOST_POLL_S = 3600.0
"""Bounds the time that a client may request."""


def _turn_of(request: PopRequest) -> AbstractAsyncContextManager[object]:
    """Limits POPs with filters of one connection that work at a time, as ``FilteredReads`` does for pulls."""
    if request.filter is None:
        return nullcontext()
    turns: asyncio.Semaphore = request.connection.attachments.setdefault(
        _FILTERED_POPS, asyncio.Semaphore(READS_AT_ONCE)
    )
    return turns


class PopProcessor:
    """Delivers single messages instead of queues. Only the master hides messages."""

    def __init__(
        self,
        state: GroupState,
        store: PopStore,
        revive: PopReviveService,
        order: PopOrder,
        hold: PopHold,
        statistics: BrokerStatistics,
        hooks: DeliveryHooks | None,
    ) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._offsets = state.offsets
        self._store = store
        self._revive = revive
        self._order = order
        self._statistics = statistics
        self._batches = order.batches
        self._loop = asyncio.get_running_loop()
        self._busy: set[tuple[str, Queue]] = set()
        self._turn = 0
        self.hold = hold
        self._screen: Screen | None = None if hooks is None else hooks.withheld

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.POP_MESSAGE: self._pop,
            RequestCode.PEEK_MESSAGE: self._peek,
            RequestCode.NOTIFICATION: self._notification,
            RequestCode.POLLING_INFO: self._polling_info,
        }

    # --- requests --------------------------------------------------------------------------------------------------

    async def _pop(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(PopMessageRequestHeader)
        if not 0 < header.max_msg_nums <= MAX_POP_NUMS:
            raise InvalidParameterError(f"maxMsgNums is {header.max_msg_nums}, expected 1 to {MAX_POP_NUMS}")
        if not 0 < header.invisible_time <= MAX_INVISIBLE_MS:
            raise InvalidParameterError(
                f"invisibleTime is {header.invisible_time} ms, expected 1 to {MAX_INVISIBLE_MS}"
            )
        if self._too_late(header.born_time, header.poll_time):
            return response(command, ResponseCode.POLLING_TIMEOUT, remark="the request came too late")
        topics = await self._check(header.consumer_group, header.topic, header.queue_id)
        order = bool(header.order)
        request = PopRequest(
            connection,
            header.consumer_group,
            topics[:1] if order else topics,
            header.queue_id,
            header.max_msg_nums,
            header.invisible_time,
            header.init_mode == 1,
            message_filter(header.exp, header.exp_type),
            order,
            attempt_of(header.attempt_id),
        )
        deadline = self._deadline(header.poll_time)
        while not connection.closed:
            async with _turn_of(request):
                pop_ms = int(time.time() * 1000)
                taken = await self._take(request, pop_ms)
            if taken:
                return self._answer(command, request, taken, pop_ms)
            if taken is None or not self._backlog(request):  # else the filter rejected all that it read
                code = await self._wait(Waiter(connection, request.group, request.topics, request.queue_id), deadline)
                if code:
                    self._statistics.miss_total += 1
                    return response(command, code, remark=code.name)
        self._pass_on(request)  # it may have been woken for a message
        return response(command, ResponseCode.POLLING_TIMEOUT)

    def _pass_on(self, request: PopRequest) -> None:
        """Wakes the group's next waiter for each queue with messages."""
        for queue in self._queues(request.topics, request.queue_id):
            if self._has(request, queue):
                self.hold.wake(request.group, queue)

    @staticmethod
    def _too_late(born_ms: int, poll_ms: int) -> bool:
        """Whether the client has given up already. Source: ``PopMessageRequestHeader.isTimeoutTooMuch``."""
        return born_ms > 0 and time.time() * 1000 - born_ms - poll_ms > _LATE_MS

    def _deadline(self, poll_ms: int) -> float:
        return self._loop.time() + min(max(poll_ms, 0) / 1000, _MOST_POLL_S)

    async def _wait(self, waiter: Waiter, deadline: float) -> ResponseCode | None:
        """Waits for a message; returns the code of the answer if the POP must not wait any more, else None."""
        remaining_s = deadline - self._loop.time()
        if remaining_s <= 0 or self._office.state is not State.MASTER or waiter.connection.closed:
            return ResponseCode.POLLING_TIMEOUT
        if not await self.hold.wait(waiter, remaining_s):
            return ResponseCode.POLLING_FULL
        return ResponseCode.POLLING_TIMEOUT if waiter.is_outdated else None

    async def _check(self, group: str, topic: str, queue_id: int) -> tuple[str, ...]:
        """Refuses illegal requests; returns the topics to read: the requested one and the group's retry topic."""
        self._office.require_master()
        known = self._topics.topics.get(topic)
        if known is None:
            raise TopicNotExistError(f"the topic {topic!r} does not exist on this broker")
        if not known.config.perm & Perm.READ:
            raise NoPermissionError(f"the topic {topic!r} does not allow reading (perm {known.config.perm})")
        if not -1 <= queue_id < known.config.read_queue_nums:
            raise InvalidParameterError(
                f"queueId {queue_id} of topic {topic!r}, which has {known.config.read_queue_nums} read queues"
            )
        config = self._topics.group(group) or await self._auto_creation.ensure_group(group, retry=False)
        if not config.consume_enable:
            raise NoPermissionError(f"consuming is disabled for the group {group!r}")
        if topic.startswith(RETRY_PREFIX):
            return (topic,)
        retry = pop_retry_topic(group, topic)
        if error := topic_name_error(retry):  # unacknowledged messages could not be redelivered
            raise InvalidParameterError(f"POP needs a retry topic for this group and topic, and {error}")
        return topic, retry

    # --- taking ----------------------------------------------------------------------------------------------------

    def _queues(self, topics: tuple[str, ...], queue_id: int) -> list[Queue]:
        """The queues to read; their order changes, so that every queue has its turn."""
        self._turn += 1
        topic = self._topics.topics.get(topics[0])
        if topic is None:
            return []
        if queue_id >= 0:
            queues = topic.queues[queue_id : queue_id + 1]
        else:
            queues = topic.queues[: topic.config.read_queue_nums]
            first = self._turn % len(queues) if queues else 0
            queues = queues[first:] + queues[:first]
        retry = self._topics.topics.get(topics[1]) if len(topics) > 1 else None
        if retry is None:
            return queues
        return retry.queues + queues if self._turn % _RETRY_FIRST_EVERY == 0 else queues + retry.queues

    def _position(self, group: str, queue: Queue, from_max: bool) -> int:
        """The group's next offset in a queue; for a new group, the offset at which it begins."""
        topic, queue_id = queue.topic, queue.queue_id
        offset = self._offsets.get(group, topic, queue_id)
        if offset is None:
            offset = queue.min_offset
            if from_max and not queue.is_complete and not topic.startswith(RETRY_PREFIX):
                offset = queue.max_offset  # a young queue is read from its start, so that no message is missed
                self._offsets.commit(group, topic, queue_id, offset)
        return min(max(offset, queue.min_offset), queue.max_offset)

    def _has(self, request: PopRequest, queue: Queue) -> bool:
        """Whether a queue has messages for a request."""
        if self._batches and (request.group, queue) in self._batches:
            return self._order.ready(request, queue)
        return self._position(request.group, queue, request.from_max) < queue.max_offset

    def _backlog(self, request: PopRequest) -> bool:
        return any(
            (request.group, queue) not in self._busy and self._has(request, queue)
            for queue in self._queues(request.topics, request.queue_id)
        )

    async def _take(self, request: PopRequest, pop_ms: int) -> list[Taken] | None:
        """Takes messages from as many queues as it needs. One POP of a group at a time reads a queue.

        Returns:
            None if there were no messages; an empty list if none of them passed the filter.
        """
        group, room = request.group, request.max_nums if request.filter is None else MAX_SCAN_NUMS
        chosen: list[tuple[Queue, int]] = []
        queues = self._queues(request.topics, request.queue_id)
        if self._batches:
            await self._order.settle(request, [queue for queue in queues if (group, queue) not in self._busy])
        for queue in queues:
            if (group, queue) in self._busy:
                continue
            position = self._position(group, queue, request.from_max)
            if self._batches and (group, queue) in self._batches:
                if not (request.order and self._order.may_take(request, queue)):
                    continue
            elif position >= queue.max_offset:
                continue
            chosen.append((queue, position))
            nums = queue.max_offset - position
            room -= nums if request.filter is None else min(nums, request.scan_nums(queue))
            if room <= 0:
                break
        if not chosen:
            return None
        self._busy.update((group, queue) for queue, _ in chosen)
        try:
            if request.order:
                return await self._order.take(request, chosen, self._screen)
            return await self._take_from(request, chosen, pop_ms)
        finally:
            for queue, _ in chosen:
                self._busy.discard((group, queue))
                if self._has(request, queue):
                    self.hold.wake(group, queue)

    async def _take_from(self, request: PopRequest, chosen: list[tuple[Queue, int]], pop_ms: int) -> list[Taken] | None:
        set_before = [self._offset_of(request.group, queue) for queue, _ in chosen]
        reads = await asyncio.gather(
            *(self._queue_store.read_records(queue, position, request.scan_nums(queue)) for queue, position in chosen)
        )
        room = Room(request.max_nums, self._config.max_pull_bytes)
        shares: list[Share] = []
        found: list[dict[int, bytes]] = []
        was_reset = False
        for (queue, position), before, (offsets, records) in zip(chosen, set_before, reads, strict=True):
            if self._offset_of(request.group, queue) != before:
                was_reset = True  # during the read: the next one begins there
                continue
            wanted, looked_at = room.choose(request, queue, offsets, records, self._screen)
            next_offset = next_after(queue, position, offsets, looked_at)
            if next_offset > position:
                shares.append(Share(queue, list(wanted), next_offset))
                found.append(wanted)
        if not shares:
            return [] if was_reset else None
        claimed = await self._claim(request, shares, pop_ms + request.invisible_ms)
        taken = [
            Taken(share.queue, offsets, [wanted[offset] for offset in offsets])
            for share, wanted, offsets in zip(shares, found, claimed, strict=True)
            if offsets
        ]
        if taken:
            self._revive.hidden_until(pop_ms + request.invisible_ms)
        return taken

    async def _claim(self, request: PopRequest, shares: list[Share], visible_ms: int) -> list[list[int]]:
        before = [self._offset_of(request.group, share.queue) for share in shares]
        for share in shares:
            queue = share.queue
            self._offsets.written(request.group, queue.topic, queue.queue_id, share.next_offset)
            self._offsets.end_reset(request.group, queue.topic, queue.queue_id)
        try:
            return await self._store.pop(request.group, shares, visible_ms)
        except StoreError:
            for share, offset in zip(shares, before, strict=True):
                if self._offset_of(request.group, share.queue) == share.next_offset:  # unless it was changed meanwhile
                    queue = share.queue
                    self._offsets.commit(request.group, queue.topic, queue.queue_id, offset or 0)
            raise

    def _offset_of(self, group: str, queue: Queue) -> int | None:
        return self._offsets.get(group, queue.topic, queue.queue_id)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _rest(self, request: PopRequest) -> int:
        """Number of messages that are left to pop; queues with a batch count 0."""
        return sum(
            max(queue.max_offset - self._position(request.group, queue, request.from_max), 0)
            for queue in self._queues(request.topics, request.queue_id)
            if not self._batches or (request.group, queue) not in self._batches
        )

    def _answer(
        self, command: RemotingCommand, request: PopRequest, taken: list[Taken], pop_ms: int
    ) -> RemotingCommand:
        for item in taken:
            size = sum(map(len, item.records))
            self._statistics.popped(request.group, item.queue, len(item.records), size)
        if request.order:
            return popped_in_order(command, request, taken, self._rest(request))
        return popped(command, request, taken, pop_ms, self._rest(request), self._config.broker_name)

    # --- looking ---------------------------------------------------------------------------------------------------

    async def _peek(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Returns the messages that the next POP would get, without taking them."""
        header = command.header(PeekMessageRequestHeader)
        topics = await self._check(header.consumer_group, header.topic, header.queue_id)
        room = max(1, min(header.max_msg_nums, MAX_POP_NUMS))
        room_bytes = self._config.max_pull_bytes
        body = bytearray()
        rest = 0
        for queue in self._queues(topics, header.queue_id):
            position = self._position(header.consumer_group, queue, False)
            rest += queue.max_offset - position
            if room > 0 and position < queue.max_offset:
                count = queue.read_nums(room, room_bytes)
                offsets, records = await self._queue_store.read_records(queue, position, count)
                fitting = 0
                for record in records:
                    if len(record) > room_bytes and (body or fitting):
                        room = 0  # the answer is full
                        break
                    fitting += 1
                    room_bytes -= len(record)
                body += deliver(queue, records[:fitting], offsets[:fitting])
                room -= fitting
                rest -= fitting
        code = ResponseCode.SUCCESS if body else ResponseCode.PULL_NOT_FOUND
        answer = PopMessageResponseHeader(int(time.time() * 1000), 0, REVIVE_QID, rest)
        return response(command, code, answer, bytes(body))

    async def _notification(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Answers whether there are messages to pop; waits at most ``pollTime`` for one."""
        header = command.header(NotificationRequestHeader)
        topics = await self._check(header.consumer_group, header.topic, header.queue_id)
        order, group = bool(header.order), header.consumer_group
        topics = topics[:1] if order else topics
        attempt = attempt_of(header.attempt_id)
        request = PopRequest(connection, group, topics, header.queue_id, 1, 1, False, None, order, attempt)
        deadline = self._deadline(header.poll_time)
        while not self._backlog(request):
            code = await self._wait(Waiter(connection, request.group, topics, request.queue_id), deadline)
            if code:
                full = code == ResponseCode.POLLING_FULL
                return response(command, header=NotificationResponseHeader(has_msg=False, polling_full=full))
        self._pass_on(request)  # it takes no message, so another waiter may
        return response(command, header=NotificationResponseHeader(has_msg=True))

    def _polling_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(PollingInfoRequestHeader)
        nums = self.hold.count_of(header.consumer_group, header.topic, header.queue_id)
        return response(command, header=PollingInfoResponseHeader(nums))
