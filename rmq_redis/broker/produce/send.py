"""SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320).

The path of one send: frame -> header struct -> record -> append list. No task, no lock, no dictionary copied.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable
from functools import partial

from ...codes import MessageSysFlag, Perm, RequestCode, ResponseCode
from ...errors import (
    InvalidParameterError,
    LocalProtocolError,
    MessageIllegalError,
    NoPermissionError,
    RemoteProtocolError,
    ServiceNotAvailableError,
    StoreError,
    StoreUnconfirmedError,
    SystemBusyError,
)
from ...model import (
    DLQ_PREFIX,
    MAX_PROPERTIES_BYTES,
    PROPERTY_CHECK_IMMUNITY_TIME,
    PROPERTY_CLUSTER,
    PROPERTY_DELAY,
    PROPERTY_POP_CK,
    PROPERTY_PRODUCER_GROUP,
    PROPERTY_REGION,
    PROPERTY_RETRY_OFFSET,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_TAGS,
    PROPERTY_TRACE_ON,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    RETRY_PREFIX,
    SYSTEM_TOPICS_NOT_WRITABLE,
    MessageExt,
)
from ...protocol.batch import batch_to_records
from ...protocol.command import RemotingCommand, response
from ...protocol.frame import encode_frame
from ...protocol.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2, SendMessageResponseHeader
from ...protocol.ids import UniqKeyGenerator
from ...protocol.properties import find_property, remove_property, tags_code
from ...protocol.recall_handle import RecallHandle, encode_recall_handle
from ...protocol.record import decode_records, encode_record
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor, error_response, finish, send_answer
from ...store.group.half_messages import half_key, half_physical_offset
from ...store.group.queue import MAX_QUEUE_NUMBER, QUEUE_NUMBER_SHIFT, Queue
from ...store.group.schedule import Held
from ..group.redelivery import RETRY_ROOM_BYTES, GiveBacks, dead_letter_properties, failed_of_copy
from ..group.schedule import ScheduleService, recall_key, take_due_ms, with_real_queue
from ..group.state import GroupState
from ..group.topics import Topic, max_reconsume_times
from ..hooks import AppendHooks
from .oneway import OnewayDrops
from .transaction import TransactionService

REGION = "DefaultRegion"
_MAX_CACHED_TAGS = 10_000
"""Bounds the cache's memory: a client can make up tags."""
_WRITE = int(Perm.WRITE)  # plain ints: an operator of an IntFlag costs as much as the rest of the check
_HOST_FLAGS = int(MessageSysFlag.BORN_HOST_V6 | MessageSysFlag.STORE_HOST_V6)
_TRANSACTION = int(MessageSysFlag.TRANSACTION_ROLLBACK)
logger = logging.getLogger(__name__)

_LONGEST_RETRY_TOPIC = 160
"""Bytes that the RETRY_TOPIC of a redelivery takes at the most."""
_SPECIAL = (b"TAGS\x01", b"DELAY\x01", b"TIMER_DE", b"TRAN_MSG\x01", b"POP_CK\x01")

SendHeader = SendMessageRequestHeader | SendMessageRequestHeaderV2
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
        self._queue_store = state.queue_store
        self._unique_keys = UniqKeyGenerator(state.store_host[:-4], os.getpid(), os.urandom(4))
        self._store_host = state.store_host
        self._schedule = schedule
        self._transactions = transactions
        self._drops = drops
        self._give_backs = give_backs
        self._hooks = hooks
        self._on_stored = self._stored if hooks is None else partial(self._stored_with_hooks, hooks)
        self._id_prefix = state.store_host.hex().upper()
        self._broker_properties = (
            f"CLUSTER\x01{state.config.cluster_name}\x02MSG_REGION\x01{REGION}\x02TRACE_ON\x01true\x02"
        )
        self._broker_property_bytes = self._broker_properties.encode()
        self._answer_head = (
            b'{"code":0,"extFields":{"MSG_REGION":"%b","TRACE_ON":"true","msgId":"%b%%b","queueId":"%%d",'
            b'"queueOffset":"%%d"},"flag":1,"language":"PYTHON","opaque":%%d,"serializeTypeCurrentRPC":"JSON",'
            b'"version":%d}'
        ) % (REGION.encode(), self._id_prefix.encode(), RemotingCommand(code=0).version)
        self._tag_codes: dict[str, int] = {}
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
            self._failed(connection, command, header.topic, error)
            return None

    def _failed(self, connection: Connection, command: RemotingCommand, topic: str, error: Exception) -> None:
        """Answers a send that failed; one that nobody waits for is counted."""
        if command.flag & 2:
            self._drops.drop(topic, error)
        send_answer(connection, command, error_response(command, error))

    def _send_of(
        self, connection: Connection, command: RemotingCommand, header: SendHeader
    ) -> Awaitable[RemotingCommand | None] | None:
        self._office.require_master()
        if header.topic not in self._topics.topics:
            waiting = self._creating.get(header.topic)
            if waiting is not None:
                waiting.append((connection, command, header))
                return None
            waiting = self._creating[header.topic] = [(connection, command, header)]
            return self._create_then_send(header, waiting)
        return self._take(connection, command, header)

    def _take(
        self, connection: Connection, command: RemotingCommand, header: SendHeader
    ) -> Awaitable[RemotingCommand | None] | None:
        """Takes a send to a topic that exists."""
        topic = self._topics.topics[header.topic]
        if header.reconsume_times and header.topic.startswith(RETRY_PREFIX):
            return self._take_resent(connection, command, header, topic)
        if header.properties is not None and "TRAN_MSG\x01true" in header.properties and _is_half(header):
            self._send_half(connection, command, header, topic)
            return None
        self._store(connection, command, header, topic)
        return None

    def _take_resent(
        self, connection: Connection, command: RemotingCommand, header: SendHeader, topic: Topic
    ) -> Awaitable[None] | None:
        """Takes a message that a consumer sends to its retry topic itself, because sending it back (36) failed."""
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
        """Makes a topic, then takes the sends that came for it meanwhile, in their order."""
        try:
            if header.topic in SYSTEM_TOPICS_NOT_WRITABLE:
                raise NoPermissionError(f"clients may not send to the system topic {header.topic!r}")
            await self._topics.create_on_send(header.topic, header.default_topic, header.default_topic_queue_nums)
        except Exception as error:
            for connection, command, _ in waiting:
                self._failed(connection, command, header.topic, error)
            return
        finally:
            del self._creating[header.topic]
        for connection, command, later in waiting:
            try:
                self._office.require_master()
                answer = self._take(connection, command, later)
            except Exception as error:
                self._failed(connection, command, header.topic, error)
                continue
            if answer is not None:
                task = asyncio.ensure_future(finish(connection, command, answer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _send_half(self, connection: Connection, command: RemotingCommand, header: SendHeader, topic: Topic) -> None:
        """Keeps a prepared message out of sight; its answer has the numbers that END_TRANSACTION repeats."""
        if self._config.reject_transaction_message:
            raise NoPermissionError(f"the broker {self._config.broker_name} takes no transactional messages")
        queue_id, now_ms = self._check(command, header, topic)
        header.sys_flag &= ~_TRANSACTION
        text = header.properties or ""
        header.properties = remove_property(text, PROPERTY_DELAY)  # a transaction and a delay exclude each other
        try:
            record, _ = self._record(connection, header, command.body, topic, queue_id, now_ms)
        except (LocalProtocolError, UnicodeError) as error:
            raise MessageIllegalError(str(error)) from None
        immunity = find_property(text, PROPERTY_CHECK_IMMUNITY_TIME)
        unique_key = find_property(text, PROPERTY_UNIQ_KEY)
        group = find_property(text, PROPERTY_PRODUCER_GROUP) or ""
        key = half_key(group, header.topic, unique_key) if unique_key else ""
        self._transactions.prepare(record, key, immunity, now_ms, self._prepared, (connection, command, unique_key))

    def _prepared(
        self, number: int, queue_id: int, error: StoreError | None, arg: tuple[Connection, RemotingCommand, str | None]
    ) -> None:
        connection, command, transaction_id = arg
        if error is not None and not isinstance(error, StoreUnconfirmedError):
            send_answer(connection, command, error_response(command, error))
            return
        header = SendMessageResponseHeader(
            msg_id=f"{self._id_prefix}{half_physical_offset(number):016X}",
            queue_id=queue_id,
            queue_offset=number,
            transaction_id=transaction_id,
            region=REGION,
            trace_on="true",
        )
        code, remark = _stored_code(error)
        send_answer(connection, command, response(command, code, header, remark=remark))

    def _is_exhausted(self, command: RemotingCommand, header: SendHeader) -> bool:
        """Whether a consumer that resends a message by itself has done so too often."""
        group = self._topics.group(header.topic.removeprefix(RETRY_PREFIX))
        if group is None:
            return False
        return (header.reconsume_times or 0) > max_reconsume_times(group, command.version, header.max_reconsume_times)

    async def _send_to_dead_letters(
        self, connection: Connection, command: RemotingCommand, header: SendHeader, physical_offset: int | None
    ) -> None:
        group = header.topic.removeprefix(RETRY_PREFIX)
        topic = await self._topics.ensure_dead_letter_topic(group)
        header.topic, header.queue_id = topic.config.topic_name, 0
        header.properties = dead_letter_properties(header.properties or "")
        queue_id, now_ms = self._check(command, header, topic)
        try:
            record, _ = self._record(connection, header, command.body, topic, queue_id, now_ms)
        except (LocalProtocolError, UnicodeError) as error:
            raise MessageIllegalError(str(error)) from None
        queue = topic.queues[0]
        failed = failed_of_copy(group, record, physical_offset)
        self._give_backs.dead(failed, record, queue, self._dead_lettered, (connection, command, queue))

    def _dead_lettered(
        self, held: Held | None, error: StoreError | None, arg: tuple[Connection, RemotingCommand, Queue]
    ) -> None:
        connection, command, queue = arg
        self._on_stored(queue, -1 if held is None else held.number, error, (connection, command, 1))

    def _check(self, command: RemotingCommand, header: SendHeader, topic: Topic) -> tuple[int, int]:
        """Refuses what cannot be stored; the queue id that the message goes to, and its store time in ms."""
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
                raise ServiceNotAvailableError("the store is full and takes no messages; try another broker or later")
            raise ServiceNotAvailableError("the store cannot be reached; try another broker")
        if self._queue_store.window.busy and not command.flag & 2:  # a one-way sender cannot try again: it is kept
            raise SystemBusyError("[REJECTREQUEST]the store does not answer, start flow control for a while")
        if self._queue_store.pending_bytes > self._config.max_pending_append_bytes:
            raise SystemBusyError(
                f"[REJECTREQUEST] {self._queue_store.pending_bytes} bytes wait for the store; try later or elsewhere"
            )
        now_ms = int(time.time() * 1000)
        if now_ms < self._last_store_ms:
            now_ms = self._last_store_ms  # store times never go back, or a search by time would miss messages
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
        """Checks a send and puts it on the append list; the answer is written when Redis has it.

        Args:
            physical_offset: of what failed, if it is a retry.
        """
        body = command.body
        queue_id, now_ms = self._check(command, header, topic)
        queue = topic.queues[queue_id]
        try:
            if header.batch:
                records = self._batch_records(connection, header, body, topic, queue_id, now_ms)
            else:
                record, due_ms = self._record(connection, header, body, topic, queue_id, now_ms)
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
        self._queue_store.append(queue, records, size, self._on_stored, arg, patient=bool(command.flag & 2))

    def _record(
        self, connection: Connection, header: SendHeader, body: bytes, topic: Topic, queue_id: int, now_ms: int
    ) -> tuple[bytes, int]:
        """The record of a single message, and when it is due (ms; 0: now)."""
        text = header.properties or ""
        if header.sys_flag & _TRANSACTION:
            raise NoPermissionError("a message with transaction bits needs the property TRAN_MSG=true")
        code = due_ms = 0
        if text:
            text, due_ms = self._stored_properties(text, header.topic, now_ms)
            if "TAGS\x01" in text:
                code = self._tags_code(find_property(text, PROPERTY_TAGS))
        if not (text.startswith("UNIQ_KEY\x01") or "\x02UNIQ_KEY\x01" in text):
            text += f"UNIQ_KEY\x01{self._unique_keys.next(now_ms)}\x02"
        if due_ms:
            room = MAX_PROPERTIES_BYTES - len(text.encode()) - len(self._broker_properties)
            text = with_real_queue(text, header.topic, queue_id, room)
        properties = (text + self._broker_properties).encode()
        if len(properties) > MAX_PROPERTIES_BYTES - _LONGEST_RETRY_TOPIC:
            properties = self._at_the_limit(header.topic, text)
        record = encode_record(
            topic=topic.name_bytes,
            body=body,
            properties=properties,
            queue_id=queue_id,
            flag=header.flag,
            sys_flag=header.sys_flag,
            born_timestamp_ms=header.born_timestamp,
            born_host=connection.remote_host,
            store_timestamp_ms=now_ms,
            store_host=self._store_host,
            reconsume_times=header.reconsume_times or 0,
            queue_offset=code,
        )
        return record, due_ms

    @staticmethod
    def _stored_properties(text: str, topic: str, now_ms: int) -> tuple[str, int]:
        """A sender's properties as they are stored, and when the message is due (ms; 0: now)."""
        due_ms = 0
        if text[-1] != "\x02":
            text += "\x02"
        if "DELAY\x01" in text or "TIMER_DE" in text:
            text, due_ms = take_due_ms(text, now_ms, topic)
        if "MSG_REGION\x01" in text or "POP_CK\x01" in text or "CLUSTER\x01" in text:
            for name in (PROPERTY_REGION, PROPERTY_TRACE_ON, PROPERTY_CLUSTER, PROPERTY_POP_CK):
                text = remove_property(text, name)
        return text, due_ms

    def _at_the_limit(self, topic: str, text: str) -> bytes:
        """Properties near the limit: of a resent message without what it can do without, of a new one if a retry fits.

        Raises:
            MessageIllegalError: they are too long, or would be with the RETRY_TOPIC of a redelivery.
        """
        ours, limit = self._broker_properties, MAX_PROPERTIES_BYTES
        size = len(text.encode())
        if topic.startswith((RETRY_PREFIX, DLQ_PREFIX)):
            ours = ours if size + len(ours) <= limit else ""
        else:
            limit = min(limit, limit - len(f"{PROPERTY_RETRY_TOPIC}\x01{topic}\x02") + RETRY_ROOM_BYTES)
        if size + len(ours) > limit:
            raise MessageIllegalError(
                f"the properties have {size + len(ours)} bytes, at most {limit} are allowed for this topic"
            )
        return (text + ours).encode()

    def _batch_records(
        self, connection: Connection, header: SendHeader, body: bytes, topic: Topic, queue_id: int, now_ms: int
    ) -> list[bytes]:
        if header.topic.startswith(RETRY_PREFIX):
            raise MessageIllegalError("a batch cannot go to a retry topic")

        def change(item_properties: bytes) -> tuple[int, bytes]:
            text = item_properties.decode()
            if text and text[-1] != "\x02":
                text += "\x02"
            text, due_ms = take_due_ms(text, now_ms, header.topic)
            if due_ms:
                raise MessageIllegalError("a batch cannot carry messages that are due later")
            if find_property(text, PROPERTY_TRANSACTION_PREPARED) == "true":
                raise NoPermissionError("a batch cannot carry transactional messages")
            if find_property(text, PROPERTY_UNIQ_KEY) is None:
                text += f"UNIQ_KEY\x01{self._unique_keys.next(now_ms)}\x02"
            return self._tags_code(find_property(text, PROPERTY_TAGS)), remove_property(text, PROPERTY_POP_CK).encode()

        return batch_to_records(
            body,
            topic=topic.name_bytes,
            queue_id=queue_id,
            sys_flag=header.sys_flag & ~_HOST_FLAGS,
            born_timestamp_ms=header.born_timestamp,
            born_host=connection.remote_host,
            store_timestamp_ms=now_ms,
            store_host=self._store_host,
            change=change,
            change_all=any(name in body for name in _SPECIAL),  # one look at the whole, not several at each message
            suffix=self._broker_property_bytes,
            max_nums=self._config.max_batch_msg_nums,
        )

    def _tags_code(self, tags: str | None) -> int:
        if not tags:
            return 0
        code = self._tag_codes.get(tags)
        if code is None:
            if len(self._tag_codes) >= _MAX_CACHED_TAGS:
                self._tag_codes.clear()
            code = self._tag_codes[tags] = tags_code(tags)
        return code

    def _schedule_record(
        self, connection: Connection, command: RemotingCommand, record: bytes, due_ms: int, physical_offset: int | None
    ) -> None:
        """Keeps a message until its time; its answer carries what RECALL_MESSAGE needs, unless it is a retry."""
        message = decode_records(record, decompress=False)[0]
        arg = (connection, command, message)
        if message.topic.startswith(RETRY_PREFIX) and message.reconsume_times:
            failed = failed_of_copy(message.topic.removeprefix(RETRY_PREFIX), record, physical_offset)
            self._give_backs.retry(failed, record, due_ms, self._scheduled, arg)
            return
        key = recall_key(message.topic, message.msg_id)
        self._schedule.add(record, due_ms, self._scheduled, arg, recall_key=key)

    def _scheduled(
        self, held: Held | None, error: StoreError | None, arg: tuple[Connection, RemotingCommand, MessageExt]
    ) -> None:
        """Answers a message that waits for its time: with its queue, and an address of its own.

        A send that was repeated gets what the first one got.
        """
        connection, command, message = arg
        if command.flag & 2:
            self._note_oneway(command, error)
            return
        if held is None:
            connection.write_command(error_response(command, error or StoreError("not stored")))
            return
        handle = None
        if recall_key(message.topic, message.msg_id):
            handle = RecallHandle(message.topic, self._config.broker_name, held.due_ms, message.msg_id)
        number = held.number
        message_id = f"{self._id_prefix}{MAX_QUEUE_NUMBER << QUEUE_NUMBER_SHIFT | number:016X}"
        header = SendMessageResponseHeader(
            message_id,
            held.queue_id,
            number,
            region=REGION,
            trace_on="true",
            recall_handle=None if handle is None else encode_recall_handle(handle),
        )
        code, remark = _stored_code(error)
        connection.write_command(response(command, code, header, remark=remark))

    def _note_oneway(self, command: RemotingCommand, error: StoreError | None, topic: str = "(delayed)") -> None:
        if error is not None and not isinstance(error, StoreUnconfirmedError):
            self._drops.drop(topic, error)

    def _stored_with_hooks(
        self,
        hooks: AppendHooks,
        queue: Queue,
        queue_offset: int,
        error: StoreError | None,
        arg: tuple[Connection, RemotingCommand, int],
    ) -> None:
        self._stored(queue, queue_offset, error, arg)
        hooks.after(queue, queue_offset, arg[2], error)

    def _stored(
        self,
        queue: Queue,
        queue_offset: int,
        error: StoreError | None,
        arg: tuple[Connection, RemotingCommand, int],
    ) -> None:
        connection, command, count = arg
        if command.flag & 2:
            self._note_oneway(command, error, queue.topic)
            return
        if error is not None and not isinstance(error, StoreUnconfirmedError):
            connection.write_command(error_response(command, error))
            return
        physical_offset = queue.physical_offset(queue_offset)
        if command.serialize_type == 0 and count == 1 and error is None:
            header = self._answer_head % (
                b"%016X" % physical_offset,
                queue.queue_id,
                queue_offset,
                command.opaque,
            )
            connection.write(encode_frame(header, b""))
            return
        code, remark = _stored_code(error)
        message_ids = ",".join([f"{self._id_prefix}{physical_offset + i:016X}" for i in range(count)])
        connection.write_command(
            response(
                command,
                code,
                SendMessageResponseHeader(
                    msg_id=message_ids,
                    queue_id=queue.queue_id,
                    queue_offset=queue_offset,
                    region=REGION,
                    trace_on="true",
                ),
                remark=remark,
            )
        )


def _is_half(header: SendHeader) -> bool:
    """Whether a send whose properties have TRAN_MSG somewhere is a half message. Source: ``SendMessageProcessor``."""
    text = header.properties or ""
    if header.batch or find_property(text, PROPERTY_TRANSACTION_PREPARED) != "true":
        return False
    return not (header.reconsume_times and find_property(text, PROPERTY_DELAY))  # else a consumer that resends it


def _stored_code(error: StoreError | None) -> tuple[ResponseCode, str | None]:
    """(code, remark) of the answer to a message that is stored, confirmed or not."""
    return (error.code, str(error)) if isinstance(error, StoreUnconfirmedError) else (ResponseCode.SUCCESS, None)
