"""PULL_MESSAGE (11), LITE_PULL_MESSAGE (361), and the answers to pulls that waited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence

from ...codes import CURRENT_VERSION, Perm, PullSysFlag, RequestCode, ResponseCode
from ...errors import (
    InvalidParameterError,
    NoPermissionError,
    StoreError,
    SubscriptionNotExistError,
    SubscriptionNotLatestError,
    TopicNotExistError,
)
from ...model import MASTER_ID, RETRY_PREFIX
from ...protocol.command import RemotingCommand, response
from ...protocol.frame import encode_frame
from ...protocol.group_config import SubscriptionGroupConfig
from ...protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor, error_response
from ...store.group.queue import Queue, deliver
from ..budget import Budget
from ..filter.reads import FilteredReads, choose, scan_nums
from ..filter.subscription import TAG, MessageFilter, message_filter
from ..group.clients import ClientManager
from ..group.state import GroupState
from ..group.topics import Topic
from ..hooks import DeliveryHooks
from ..statistics import BrokerStatistics
from .hold import HeldPull, PullHold

logger = logging.getLogger(__name__)

# Plain numbers: an operation with an IntFlag takes a microsecond, and each pull has four.
_COMMIT_OFFSET = int(PullSysFlag.COMMIT_OFFSET)
_SUSPEND = int(PullSysFlag.SUSPEND)
_SUBSCRIPTION = int(PullSysFlag.SUBSCRIPTION)
_READ = int(Perm.READ)

_MAX_RESET_ANSWERS = 16
"""Pulls from other offsets that are redirected to a reset offset; a client that sends more ignores the answers."""
_REMARKS = {
    ResponseCode.SUCCESS: "FOUND",
    ResponseCode.PULL_NOT_FOUND: "OFFSET_OVERFLOW_ONE",
    ResponseCode.PULL_RETRY_IMMEDIATELY: "NO_MATCHED_MESSAGE",
    ResponseCode.PULL_OFFSET_MOVED: "OFFSET_OVERFLOW_BADLY",
}
_FOUND = (
    b'{"code":0,"extFields":{"maxOffset":"%%d","minOffset":"%%d","nextBeginOffset":"%%d","suggestWhichBrokerId":"0"},'
    b'"flag":1,"language":"PYTHON","opaque":%%d,"remark":"FOUND","serializeTypeCurrentRPC":"JSON","version":%d}'
    % CURRENT_VERSION
)


class PullProcessor:
    """Answers pulls from the store, or holds them until a message comes."""

    def __init__(
        self, state: GroupState, clients: ClientManager, statistics: BrokerStatistics, hooks: DeliveryHooks | None
    ) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._offsets = state.offsets
        self._clients = clients
        self._statistics = statistics
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._reset_answers: dict[tuple[tuple[str, str], int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._filtered = FilteredReads(self._read_filtered)
        self.hold = PullHold(self._execute_held, state.config.max_held_pulls)

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.PULL_MESSAGE: self._pull, RequestCode.LITE_PULL_MESSAGE: self._pull}

    def _pull(self, connection: Connection, command: RemotingCommand) -> Awaitable[RemotingCommand | None] | None:
        header = command.header(PullMessageRequestHeader)
        group = self._topics.group(header.consumer_group)
        if group is None:
            return self._ensure_group_then_pull(connection, command, header)
        self._pull_of_group(connection, command, header)
        return None

    async def _ensure_group_then_pull(
        self, connection: Connection, command: RemotingCommand, header: PullMessageRequestHeader
    ) -> None:
        if not self._office.is_master:
            await self._topics.reload()
        await self._auto_creation.ensure_group(header.consumer_group, retry=False)
        self._pull_of_group(connection, command, header)

    def _pull_of_group(
        self, connection: Connection, command: RemotingCommand, header: PullMessageRequestHeader
    ) -> None:
        group = self._topics.groups[header.consumer_group]
        topic = self._check(header, group)
        wanted = self._filter_of(header, group)
        is_master = self._office.is_master
        if header.sys_flag & _COMMIT_OFFSET and is_master:
            self._offsets.commit(header.consumer_group, header.topic, header.queue_id, header.commit_offset)
        max_bytes = self._config.max_pull_bytes
        if header.max_msg_bytes and 0 < header.max_msg_bytes < max_bytes:
            max_bytes = header.max_msg_bytes
        deadline_s = 0.0
        if header.sys_flag & _SUSPEND and header.suspend_timeout_millis > 0:
            deadline_s = self._loop.time() + min(header.suspend_timeout_millis, 3_600_000) / 1000
        pull = HeldPull(
            connection,
            command,
            topic.queues[header.queue_id],
            header.queue_offset,
            max(1, min(header.max_msg_nums, self._config.max_pull_msg_nums)),
            max_bytes,
            wanted,
            deadline_s,
            header.consumer_group,
        )
        if self._offsets.resets and is_master and self._moved_by_reset(pull, header):
            return
        self._offsets.note_pull(header.consumer_group, header.topic, header.queue_id, header.queue_offset)
        if is_master:
            self._execute(pull)
        else:
            self._start_on_slave(pull)

    def _check(self, header: PullMessageRequestHeader, group: SubscriptionGroupConfig) -> Topic:
        """The topic of a pull. Raises NoPermissionError, TopicNotExistError, InvalidParameterError."""
        if not group.consume_broadcast_enable and self._clients.is_broadcasting(header.consumer_group):
            raise NoPermissionError(f"broadcasting is disabled for the group {header.consumer_group!r}")
        if not group.consume_enable:
            raise NoPermissionError(f"consuming is disabled for the group {header.consumer_group!r}")
        topic = self._topics.topics.get(header.topic)
        if topic is None:
            raise TopicNotExistError(f"the topic {header.topic!r} does not exist on this broker")
        if not topic.config.perm & _READ:
            raise NoPermissionError(f"the topic {header.topic!r} does not allow reading (perm {topic.config.perm})")
        if not 0 <= header.queue_id < topic.config.read_queue_nums:
            raise InvalidParameterError(
                f"queueId {header.queue_id} of topic {header.topic!r}, "
                f"which has {topic.config.read_queue_nums} read queues"
            )
        return topic

    def _filter_of(self, header: PullMessageRequestHeader, group: SubscriptionGroupConfig) -> MessageFilter | None:
        if header.sys_flag & _SUBSCRIPTION:
            expression, kind = header.subscription, header.expression_type
        else:
            known = self._clients.subscription(header.consumer_group, header.topic)
            if known is None:
                raise SubscriptionNotExistError(
                    f"the group {header.consumer_group!r} has no subscription to {header.topic!r}; "
                    "send a heartbeat with it, or the subscription with the pull"
                )
            if known.sub_version >= header.sub_version:
                expression, kind = known.sub_string, known.expression_type
            elif (header.expression_type or TAG) == TAG:
                # The heartbeat with this version has not arrived; Java's clients send it up to 30 s later (their two
                # heartbeat threads exclude each other). Every client compares the tags again: deliver unfiltered.
                expression, kind = "*", TAG
            else:
                raise SubscriptionNotLatestError(
                    f"the subscription of {header.consumer_group!r} to {header.topic!r} is older than the pull's"
                )
        return None if header.topic.startswith(RETRY_PREFIX) else message_filter(expression, kind)

    # --- executing -------------------------------------------------------------------------------------------------

    def _execute(self, pull: HeldPull) -> None:
        """Answers a pull, or holds it. ``deadline_s`` 0 means: do not hold."""
        queue, offset = pull.queue, pull.queue_offset
        if queue.min_offset <= offset < queue.max_offset:
            self._read(pull)
        elif queue.max_offset <= offset <= queue.known_end:
            if not (pull.deadline_s and self.hold.hold(pull)):
                self._answer(pull, ResponseCode.PULL_NOT_FOUND, offset)
        elif offset < queue.min_offset:
            self._answer(pull, ResponseCode.PULL_OFFSET_MOVED, queue.min_offset)
        else:
            self._answer(pull, ResponseCode.PULL_OFFSET_MOVED, self._position_in(pull))

    def _position_in(self, pull: HeldPull) -> int:
        """Where a group continues if its offset is beyond the end of the queue, because messages were lost.

        At its committed offset if that is within the queue, else at the beginning. Apache's broker continues at the
        end, which skips the messages that took the place of the lost ones.
        """
        queue = pull.queue
        committed = self._offsets.get(pull.consumer_group, queue.topic, queue.queue_id)
        if committed is not None and queue.min_offset <= committed <= queue.max_offset:
            return committed
        return queue.min_offset

    def _execute_held(self, pull: HeldPull) -> None:
        pull.deadline_s = 0.0
        if self._office.is_master:
            self._execute(pull)
        else:
            self._start_on_slave(pull)

    def _start_on_slave(self, pull: HeldPull) -> None:
        task = self._loop.create_task(self._execute_on_slave(pull))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute_on_slave(self, pull: HeldPull) -> None:
        """Refreshes the queue first. Only the master may move an offset (RocketMQ: code 20)."""
        try:
            await self._queue_store.refresh([pull.queue])
        except StoreError as error:
            pull.connection.write_command(error_response(pull.command, error))
            return
        queue = pull.queue
        is_reset = self._offsets.is_reset(pull.consumer_group, queue.topic, queue.queue_id)
        if queue.min_offset <= pull.queue_offset <= queue.max_offset and not is_reset:
            self._execute(pull)
        else:
            self._answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, pull.queue_offset)

    def _read(self, pull: HeldPull) -> None:
        if pull.filter is None:
            self._read_and_deliver(pull, pull.max_msg_nums)
        else:
            self._filtered.start(pull)

    def _read_filtered(self, pull: HeldPull) -> None:
        assert pull.filter
        self._read_and_deliver(pull, scan_nums(pull.max_msg_nums, pull.filter))

    def _read_and_deliver(self, pull: HeldPull, wanted: int) -> None:
        queue = pull.queue
        count = queue.read_nums(wanted, pull.max_bytes)
        end = queue.max_offset
        began_s = self._loop.time()

        def read(offsets: Sequence[int], records: list[bytes], error: StoreError | None) -> None:
            if pull.filter:
                self._filtered.done(pull.connection)
            if pull.connection.closed:
                return
            if error:
                pull.connection.write_command(error_response(pull.command, error))
            elif not records:  # all were removed meanwhile; newer messages are behind them
                self._answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, end)
            else:
                self._deliver(pull, offsets, records, int((self._loop.time() - began_s) * 1000))

        self._queue_store.read(queue, pull.queue_offset, count, read)

    def on_new_records(self, queue: Queue, first_offset: int, records: list[bytes]) -> None:
        """Wakes the pulls that wait for these records. A pull from the first of them gets them without another read."""
        if not queue.held:
            return
        budget = Budget()
        for pull in self.hold.take_matching(queue, first_offset, records, budget):
            if pull.queue_offset == first_offset and (pull.filter is None or not budget.is_over()):
                self._deliver(pull, range(first_offset, first_offset + len(records)), records)
            else:
                pull.deadline_s = 0.0
                self._execute(pull)

    def _deliver(self, pull: HeldPull, offsets: Sequence[int], records: list[bytes], ms: int = 0) -> None:
        """Sends the records that pass the filter, up to the pull's limits; at least one. Reading them took ``ms``."""
        queue = pull.queue
        if self._hooks:
            withheld = self._hooks.withheld(queue, pull.consumer_group, offsets, records)
            kept = [(o, r) for o, r in zip(offsets, records, strict=True) if o not in withheld]
            if not kept:
                self._answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, offsets[-1] + 1)
                return
            offsets, records = [o for o, _ in kept], [r for _, r in kept]
        if pull.filter:
            offsets, records, next_offset = choose(pull, offsets, records)
            if not records:
                self._answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, next_offset)
                return
        else:
            nums = min(len(records), pull.max_msg_nums)
            size = 0
            for index in range(nums):
                size += len(records[index])
                if size > pull.max_bytes and index:
                    nums = index
                    break
            if nums < len(records):
                offsets, records = offsets[:nums], records[:nums]
            next_offset = offsets[-1] + 1
        body = deliver(queue, records, offsets)
        self._statistics.delivered(pull.consumer_group, queue, len(records), len(body), ms)
        command = pull.command
        if command.serialize_type == 0 and not self._config.slave_read_enable:
            header = _FOUND % (queue.max_offset, queue.min_offset, next_offset, command.opaque)
            pull.connection.write(encode_frame(header, body))
        else:
            self._answer(pull, ResponseCode.SUCCESS, next_offset, bytes(body))

    def _answer(self, pull: HeldPull, code: ResponseCode, next_offset: int, body: bytes = b"") -> None:
        if code != ResponseCode.SUCCESS:
            self._statistics.miss_total += 1
        broker_id = self._suggested(pull, next_offset, len(body)) if self._config.slave_read_enable else MASTER_ID
        header = PullMessageResponseHeader(broker_id, next_offset, pull.queue.min_offset, pull.queue.max_offset)
        pull.connection.write_command(response(pull.command, code, header, body, remark=_REMARKS[code]))

    def _suggested(self, pull: HeldPull, next_offset: int, delivered_bytes: int) -> int:
        """The broker that the queue's next pull should go to. Source: ``PullMessageProcessor`` (slaveReadEnable)."""
        queue, store, config = pull.queue, self._queue_store, self._config
        message_bytes = delivered_bytes // max(next_offset - pull.queue_offset, 1)
        is_behind = (queue.max_offset - next_offset) * message_bytes > config.slave_read_behind_bytes
        is_overloaded = self._office.is_master and store.pending_bytes > config.max_pending_append_bytes // 2
        name = pull.command.header(PullMessageRequestHeader).consumer_group
        group = self._topics.groups.get(name)
        if group is None:
            return MASTER_ID
        return group.which_broker_when_consume_slowly if is_behind or is_overloaded else group.broker_id

    def wake_behind(self) -> None:
        """Answers pulls held before a queue's end, after ends moved without an append of this broker."""
        for queue in self.hold.queues():
            if any(pull.queue_offset < queue.max_offset for pull in queue.held):
                self.hold.wake(queue)

    # --- resets ------------------------------------------------------------------------------------------------------

    def _moved_by_reset(self, pull: HeldPull, header: PullMessageRequestHeader) -> bool:
        """Redirects a member to the offset that its group was reset to. The first pull from there ends the reset.

        Source: RocketMQ 5.3 PullMessageProcessor, useServerSideResetOffset. There any pull ends it; but that may be a
        held pull of a member that has lost the queue since, or its answer may get lost.
        """
        pair, queue_id = (header.consumer_group, header.topic), header.queue_id
        offset = self._offsets.resets.get(pair, {}).get(queue_id)
        if offset is None:
            return False
        answers = self._reset_answers.pop((pair, queue_id), 0) + 1
        if header.queue_offset == offset or answers > _MAX_RESET_ANSWERS:
            self._offsets.end_reset(*pair, queue_id)
            return False
        self._reset_answers[pair, queue_id] = answers
        self._answer(pull, ResponseCode.PULL_OFFSET_MOVED, offset)
        return True

    def wake_for_reset(self, group: str, queues: Sequence[Queue]) -> None:
        """Answers a group's held pulls on these queues with the offsets that it was reset to."""
        for queue in queues:
            self._reset_answers.pop(((group, queue.topic), queue.queue_id), None)
            for pull in self.hold.take_of_group(queue, group):
                header = pull.command.header(PullMessageRequestHeader)
                if not self._moved_by_reset(pull, header):
                    self._execute(pull)

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def expression_changed(self, group: str, topic: str) -> None:
        """Answers held pulls that filter by a group's earlier heartbeat, at their own offset.

        Their filter is that of the old expression, and would skip messages that match the new one.
        """
        known = self._topics.topics.get(topic)
        for queue in known.queues if known else ():
            for pull in self.hold.take_of_group(queue, group):
                own = pull.command.header(PullMessageRequestHeader).sys_flag & _SUBSCRIPTION
                if not (own and self.hold.hold(pull)):
                    self._answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, pull.queue_offset)

    # --- slaves ------------------------------------------------------------------------------------------------------

    async def poll_for_held(self) -> None:
        """Looks for new messages on the queues where pulls wait, on a slave. Raises StoreError."""
        queues = self.hold.queues()
        if not queues:
            return
        await self._queue_store.refresh(queues)
        self.wake_behind()
