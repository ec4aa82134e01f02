"""SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320).

The path of one send: frame -> header struct -> record -> append list. No task, no lock, no dictionary copied.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from functools import partial

from ...codes import Perm, RequestCode
from ...errors import (
    InvalidParameterError,
    LocalProtocolError,
    MessageIllegalError,
    NoPermissionError,
    RemoteProtocolError,
    ServiceNotAvailableError,
    SystemBusyError,
)
from ...model import (
    PROPERTY_CHECK_IMMUNITY_TIME,
    PROPERTY_DELAY,
    PROPERTY_PRODUCER_GROUP,
    PROPERTY_RETRY_OFFSET,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    RETRY_PREFIX,
    SYSTEM_TOPICS_NOT_WRITABLE,
)
from ...protocol.command import RemotingCommand
from ...protocol.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2
from ...protocol.properties import find_property, remove_property
from ...protocol.record import decode_records
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor, finish
from ...store.group.half_messages import half_key
from ..group.redelivery import GiveBacks, dead_letter_properties, failed_of_copy, max_reconsume_times
from ..group.schedule import ScheduleService, recall_key
from ..group.state import GroupState
from ..group.topics import Topic
from ..hooks import AppendHooks
from .answers import SendAnswers
from .oneway import OnewayDrops
from .records import TRANSACTION, RecordEncoder, SendHeader
from .transaction import TransactionService

_WRITE = int(Perm.WRITE)  # a plain int: an operator of an IntFlag costs as much as the rest of the check

_Waiting = tuple[Connection, RemotingCommand, SendHeader]


class SendProcessor:
    """Stores messages."""

    def __init__(
        self,
        state: GroupState,
        schedule: ScheduleService,
        transactions: TransactionService,
        drops: OnewayDrops,
        give_backs: GiveBacks,
        hooks: AppendHooks | None,
    ) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._schedule = schedule
        self._transactions = transactions
        self._records = RecordEncoder(state)
        self._answers = SendAnswers(state, drops, hooks)
        self._give_backs = give_backs
        self._hooks = hooks
        self._last_store_ms = 0
        self._creating: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def processors(self) -> dict[int, Processor]:
        send = self._send if self._hooks is None else partial(self._send_with_hooks, self._hooks)
        return {
            RequestCode.SEND_MESSAGE: partial(send, SendMessageRequestHeader),
            RequestCode.SEND_MESSAGE_V2: partial(send, SendMessageRequestHeaderV2),
            RequestCode.SEND_BATCH_MESSAGE: partial(send, SendMessageRequestHeaderV2),
        }

    def _send_with_hooks(
        self, hooks: AppendHooks, header_type: type[SendHeader], connection: Connection, command: RemotingCommand
    ) -> Awaitable[RemotingCommand | None] | None:
        hooks.before(connection, command)
        return self._send(header_type, connection, command)

    def _send(
        self, header_type: type[SendHeader], connection: Connection, command: RemotingCommand
    ) -> Awaitable[RemotingCommand | None] | None:
        header: SendHeader = command.header(header_type)
        if not command.flag & 2:
            return self._send_of(connection, command, header)
        try:
            return self._send_of(connection, command, header)
        except Exception as error:
            self._answers.failed(connection, command, header.topic, error)
            return None

    def _send_of(
        self, connection: Connection, command: RemotingCommand, header: SendHeader
    ) -> Awaitable[RemotingCommand | None] | None:
        self._office.require_master()
        if header.topic not in self._topics.topics:
            waiting = self._creating.get(header.topic)
            if waiting:
                waiting.append((connection, command, header))
                return None
            waiting = self._creating[header.topic] = [(connection, command, header)]
            return self._create_then_send(header, waiting)
        return self._take(connection, command, header)

    def _take(
        self, connection: Connection, command: RemotingCommand, header: SendHeader
    ) -> Awaitable[RemotingCommand | None] | None:
        """Accepts a send to an existing topic."""
        topic = self._topics.topics[header.topic]
        if header.reconsume_times and header.topic.startswith(RETRY_PREFIX):
            return self._take_resent(connection, command, header, topic)
        if header.properties and "TRAN_MSG\x01true" in header.properties and _is_half(header):
            self._send_half(connection, command, header, topic)
            return None
        self._store(connection, command, header, topic)
        return None

    def _take_resent(
        self, connection: Connection, command: RemotingCommand, header: SendHeader, topic: Topic
    ) -> Awaitable[None] | None:
        """Accepts a message that a consumer sends to its retry topic itself, because sending it back (36) failed."""
        text = header.properties or ""
        offset = find_property(text, PROPERTY_RETRY_OFFSET) or ""
        header.properties = remove_property(text, PROPERTY_RETRY_OFFSET)
        physical_offset = int(offset) if offset.isdecimal() and len(offset) < 20 else None
        if self._is_exhausted(command, header) and not header.batch:
            return self._send_to_dead_letters(connection, command, header, physical_offset)
        if _is_half(header):
            self._send_half(connection, command, header, topic)
        else:
            self._store(connection, command, header, topic, physical_offset)
        return None

    async def _create_then_send(self, header: SendHeader, waiting: list[_Waiting]) -> None:
        """Creates a topic, then accepts the sends that arrived for it meanwhile, in their order."""
        try:
            if header.topic in SYSTEM_TOPICS_NOT_WRITABLE:
                raise NoPermissionError(f"clients may not send to the system topic {header.topic!r}")
            await self._auto_creation.topic_for_send(
                header.topic, header.default_topic, header.default_topic_queue_nums
            )
        except Exception as error:
            for connection, command, _ in waiting:
                self._answers.failed(connection, command, header.topic, error)
            return
        finally:
            del self._creating[header.topic]
        for connection, command, later in waiting:
            try:
                self._office.require_master()
                answer = self._take(connection, command, later)
            except Exception as error:
                self._answers.failed(connection, command, header.topic, error)
                continue
            if answer:
                task = asyncio.ensure_future(finish(connection, command, answer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _send_half(self, connection: Connection, command: RemotingCommand, header: SendHeader, topic: Topic) -> None:
        """Stores a half message, which consumers do not see; END_TRANSACTION repeats the numbers of the answer."""
        if self._config.reject_transaction_message:
            raise NoPermissionError(f"the broker {self._config.broker_name} does not accept transactional messages")
        queue_id, now_ms = self._check(command, header, topic)
        header.sys_flag &= ~TRANSACTION
        text = header.properties or ""
        header.properties = remove_property(text, PROPERTY_DELAY)  # a transaction and a delay exclude each other
        try:
            record, _ = self._records.single(connection, header, command.body, topic, queue_id, now_ms)
        except (LocalProtocolError, UnicodeError) as error:
            raise MessageIllegalError(str(error)) from None
        immunity = find_property(text, PROPERTY_CHECK_IMMUNITY_TIME)
        unique_key = find_property(text, PROPERTY_UNIQ_KEY)
        group = find_property(text, PROPERTY_PRODUCER_GROUP) or ""
        key = half_key(group, header.topic, unique_key) if unique_key else ""
        self._transactions.prepare(
            record, key, immunity, now_ms, self._answers.prepared, (connection, command, unique_key)
        )

    def _is_exhausted(self, command: RemotingCommand, header: SendHeader) -> bool:
        """Whether a message that its consumer resends has reached the maximum of retries."""
        group = self._topics.group(header.topic.removeprefix(RETRY_PREFIX))
        if group is None:
            return False
        return (header.reconsume_times or 0) > max_reconsume_times(group, command.version, header.max_reconsume_times)

    async def _send_to_dead_letters(
        self, connection: Connection, command: RemotingCommand, header: SendHeader, physical_offset: int | None
    ) -> None:
        group = header.topic.removeprefix(RETRY_PREFIX)
        topic = await self._auto_creation.ensure_dead_letter_topic(group)
        header.topic, header.queue_id = topic.config.topic_name, 0
        header.properties = dead_letter_properties(header.properties or "")
        queue_id, now_ms = self._check(command, header, topic)
        try:
            record, _ = self._records.single(connection, header, command.body, topic, queue_id, now_ms)
        except (LocalProtocolError, UnicodeError) as error:
            raise MessageIllegalError(str(error)) from None
        queue = topic.queues[0]
        failed = failed_of_copy(group, record, physical_offset)
        self._give_backs.dead(failed, record, queue, self._answers.dead_lettered, (connection, command, queue))

    def _check(self, command: RemotingCommand, header: SendHeader, topic: Topic) -> tuple[int, int]:
        """Refuses sends that cannot be stored; returns the message's queue id and its store time in ms."""
        config, body = topic.config, command.body
        if not config.perm & _WRITE:
            raise NoPermissionError(f"the topic {header.topic!r} does not allow writing (perm {config.perm})")
        if header.topic in SYSTEM_TOPICS_NOT_WRITABLE:
            raise NoPermissionError(f"clients may not send to the system topic {header.topic!r}")
        queue_id = header.queue_id
        if queue_id < 0:
            queue_id = random.randrange(max(config.write_queue_nums, 1))
        elif queue_id >= topic.queue_nums:
            raise InvalidParameterError(
                f"queueId {queue_id} of topic {header.topic!r}, which has {topic.queue_nums} queues"
            )
        if not body:
            raise MessageIllegalError("the message body is empty")
        if len(body) > self._config.max_message_bytes:
            raise MessageIllegalError(
                f"the message body has {len(body)} bytes, at most {self._config.max_message_bytes} are allowed"
            )
        if not self._queue_store.available:
            if self._queue_store.full:
                raise ServiceNotAvailableError("the store is full and accepts no messages; try another broker or later")
            raise ServiceNotAvailableError("the store cannot be reached; try another broker")
        if self._queue_store.window.busy and not command.flag & 2:  # one-way sends cannot be retried
            raise SystemBusyError("[REJECTREQUEST]the store does not answer, start flow control for a while")
        if self._queue_store.pending_bytes > self._config.max_pending_append_bytes:
            raise SystemBusyError(
                f"[REJECTREQUEST] {self._queue_store.pending_bytes} bytes wait for the store; try later or elsewhere"
            )
        now_ms = int(time.time() * 1000)
        if now_ms < self._last_store_ms:
            now_ms = self._last_store_ms  # store times never decrease, or a search by time would miss messages
        else:
            self._last_store_ms = now_ms
        return queue_id, now_ms

    def _store(
        self,
        connection: Connection,
        command: RemotingCommand,
        header: SendHeader,
        topic: Topic,
        physical_offset: int | None = None,
    ) -> None:
        """Checks a send and puts it on the append list; it is answered when Redis has it.

        Args:
            physical_offset: of the failed message, if this is a retry.
        """
        body = command.body
        queue_id, now_ms = self._check(command, header, topic)
        queue = topic.queues[queue_id]
        try:
            if header.batch:
                records = self._records.batch(connection, header, body, topic, queue_id, now_ms)
            else:
                record, due_ms = self._records.single(connection, header, body, topic, queue_id, now_ms)
                if due_ms:
                    self._schedule_record(connection, command, record, due_ms, physical_offset)
                    return
                records = [record]
        except (LocalProtocolError, UnicodeError) as error:
            raise MessageIllegalError(str(error)) from None
        except RemoteProtocolError as error:
            raise MessageIllegalError(f"malformed batch: {error}") from None
        size = len(records[0]) if len(records) == 1 else sum(map(len, records))
        arg = connection, command, len(records)
        self._queue_store.append(queue, records, size, self._answers.stored, arg, patient=bool(command.flag & 2))

    def _schedule_record(
        self, connection: Connection, command: RemotingCommand, record: bytes, due_ms: int, physical_offset: int | None
    ) -> None:
        """Keeps a message until it is due; the answer has a handle for RECALL_MESSAGE, unless it is a retry."""
        message = decode_records(record, decompress=False)[0]
        arg = (connection, command, message)
        if message.topic.startswith(RETRY_PREFIX) and message.reconsume_times:
            failed = failed_of_copy(message.topic.removeprefix(RETRY_PREFIX), record, physical_offset)
            self._give_backs.retry(failed, record, due_ms, self._answers.scheduled, arg)
            return
        key = recall_key(message.topic, message.msg_id)
        self._schedule.add(record, due_ms, self._answers.scheduled, arg, recall_key=key)


def _is_half(header: SendHeader) -> bool:
    """Whether a send whose properties have TRAN_MSG somewhere is a half message. Source: ``SendMessageProcessor``."""
    text = header.properties or ""
    if header.batch or find_property(text, PROPERTY_TRANSACTION_PREPARED) != "true":
        return False
    return not (header.reconsume_times and find_property(text, PROPERTY_DELAY))  # else a consumer resends it
