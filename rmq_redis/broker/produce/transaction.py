"""Transactional messages: half messages, END_TRANSACTION (37), checks of undecided transactions (39, 323).

Source: RocketMQ 5.3 ``EndTransactionProcessor``, ``TransactionalMessageServiceImpl``, ``AdminBrokerProcessor``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

from ...background import Every
from ...codes import MessageSysFlag, RequestCode
from ...errors import (
    LocalProtocolError,
    RemoteProtocolError,
    ResponseError,
    StoreError,
    StoreUnconfirmedError,
)
from ...hosts import offset_msg_id
from ...model import (
    PROPERTY_PRODUCER_GROUP,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    PROPERTY_TRANSACTION_CHECK_TIMES,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    TRANS_CHECK_MAX_TIME_TOPIC,
    MessageExt,
)
from ...protocol.command import RemotingCommand, request, response
from ...protocol.headers.transaction import (
    CheckTransactionStateRequestHeader,
    EndTransactionRequestHeader,
    ResumeCheckHalfMessageRequestHeader,
)
from ...protocol.ids import parse_offset_msg_id
from ...protocol.properties import tags_code
from ...protocol.record import OFFSETS, QUEUE_OFFSET_POSITION, decode_records, encode_message
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.half_messages import HalfStore, Prepared, half_key, half_physical_offset
from ...store.group.queue import Queue
from ..admin.offsets import message_at
from ..group.clients import ClientManager
from ..group.state import GroupState

logger = logging.getLogger(__name__)

MAX_IMMUNITY_S = 72 * 3600
"""Maximum that a producer may request; without it, half messages of a forgotten group could stay for ever."""
_TRANSACTION_BITS = int(MessageSysFlag.TRANSACTION_ROLLBACK)
_COMMIT = int(MessageSysFlag.TRANSACTION_COMMIT)
_PREPARED = {PROPERTY_TRANSACTION_PREPARED: "true"}
_LOOK_PERIOD_S = 0.5
"""How late a check may be."""
_CHECK_AT_ONCE = 100
"""Checks per round, so that a producer that reconnects is not flooded."""


class TransactionService:
    """Stores half messages, commits or rolls them back, and checks them with their producers."""

    def __init__(self, state: GroupState, store: HalfStore, clients: ClientManager) -> None:
        self._config = state.config
        self._office = state.office
        self._store = store
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._clients = clients
        self._broker_addr = state.address
        self._checking = Every(_LOOK_PERIOD_S, self._check, "transactions: checking undecided ones")

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.END_TRANSACTION: self._end_transaction,
            RequestCode.RESUME_CHECK_HALF_MESSAGE: self._resume_check,
        }

    def start(self) -> None:
        """Starts to check undecided transactions."""
        self._checking.start()

    async def close(self) -> None:
        await self._checking.close()

    def prepare(self, record: bytes, key: str, immunity: str | None, now_ms: int, done: Prepared, arg: Any) -> None:
        """Keeps the record of a half message; ``done`` gets its number, the offset returned to its producer.

        Args:
            key: as in ``HalfStore.prepare``.
            immunity: CHECK_IMMUNITY_TIME_IN_SECONDS, in which it is not checked; None for the usual time.
        """
        wait_s = self._config.transaction_timeout_s
        if immunity and immunity.isdecimal():
            wait_s = min(int(immunity[:9]), MAX_IMMUNITY_S)
        self._store.prepare(record, now_ms + int(wait_s * 1000), key, done, arg)

    async def _end_transaction(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(EndTransactionRequestHeader)
        self._office.require_master()
        if header.commit_or_rollback & _TRANSACTION_BITS == 0:
            return response(command)  # undecided: checked again later
        number = header.tran_state_table_offset
        message = await self._find(number)
        if header.commit_log_offset != message.commit_log_offset:
            raise ResponseError(f"commitLogOffset {header.commit_log_offset} is not that of half message {number}")
        if message.properties.get(PROPERTY_PRODUCER_GROUP) != header.producer_group:
            raise ResponseError(f"half message {number} is not of producer group {header.producer_group!r}")
        told = [text for text in (header.msg_id, header.transaction_id) if text]
        if told and message.msg_id not in told:  # a failover lost the message, and its number was reused
            raise ResponseError(f"half message {number} is {message.msg_id}, not {told[0]}")
        if header.commit_or_rollback & _TRANSACTION_BITS == _COMMIT:
            ended = await self._commit(number, message)
        else:
            ended = await self._store.end(number, _key_of(message))
        if not ended:  # another decision came in between
            raise _not_there(number)
        return response(command)

    async def _find(self, number: int) -> MessageExt:
        record = await self._store.get(number) if number >= 0 else None
        if record is None:
            raise _not_there(number)
        return decode_records(_with_offsets(record, number), decompress=False)[0]

    async def _commit(self, number: int, message: MessageExt) -> bool:
        topic = self._topics.topics.get(message.topic)
        if topic is None:
            raise ResponseError(f"the topic {message.topic!r} of half message {number} does not exist any more")
        queue = topic.queues[min(message.queue_id, topic.queue_nums - 1)]
        return await self._store.end(number, _key_of(message), queue, self._visible(message, queue))

    def _visible(self, message: MessageExt, queue: Queue, **more_properties: str) -> bytes:
        """The half message as an ordinary message of a queue."""
        properties = {name: value for name, value in message.properties.items() if name not in _PREPARED}
        return self._record(message, queue.topic, queue.queue_id, properties | more_properties, _COMMIT)

    def _record(
        self, message: MessageExt, topic: str, queue_id: int, properties: dict[str, str], transaction_bits: int = 0
    ) -> bytes:
        try:
            return encode_message(
                message.rewritten(
                    topic=topic,
                    properties=properties,
                    queue_id=queue_id,
                    queue_offset=tags_code(message.tags),
                    commit_log_offset=0,
                    sys_flag=message.sys_flag & ~_TRANSACTION_BITS | transaction_bits,
                    store_timestamp_ms=int(time.time() * 1000),
                    store_host=self._broker_addr,
                    prepared_transaction_offset=message.commit_log_offset if transaction_bits else 0,
                )
            )
        except LocalProtocolError as error:
            raise ResponseError(f"the half message cannot be stored: {error}") from None

    async def _resume_check(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Restarts the checks of a message that reached the maximum: stores a copy as a new half message.

        The original stays where it is, as in RocketMQ: two requests create two half messages.
        """
        header = command.header(ResumeCheckHalfMessageRequestHeader)
        self._office.require_master()
        try:
            _, physical_offset = parse_offset_msg_id(header.msg_id or "")
        except RemoteProtocolError as error:
            raise ResponseError(str(error)) from None
        message = decode_records(await message_at(self._queue_store, physical_offset), decompress=False)[0]
        name, queue_id = message.properties.get(PROPERTY_REAL_TOPIC), message.properties.get(PROPERTY_REAL_QUEUE_ID, "")
        if message.topic != TRANS_CHECK_MAX_TIME_TOPIC or name is None or not queue_id.isdecimal():
            raise ResponseError(
                f"message {header.msg_id} of topic {message.topic} is not an expired half message: those are in "
                f"{TRANS_CHECK_MAX_TIME_TOPIC} with {PROPERTY_REAL_TOPIC} and {PROPERTY_REAL_QUEUE_ID}"
            )
        if name not in self._topics.topics:
            raise ResponseError(f"the topic {name!r} of half message {header.msg_id} does not exist any more")
        told = (PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE_ID, PROPERTY_TRANSACTION_CHECK_TIMES)
        properties = {key: value for key, value in message.properties.items() if key not in told} | _PREPARED
        record = self._record(message, name, int(queue_id), properties)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._store.prepare(record, int(time.time() * 1000), "", _resolve, future)
        number = await future
        logger.info("transaction of %s to topic %s: its checks restart, half message %d", message.msg_id, name, number)
        return response(command)

    # --- questions -------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        for number in await self._store.due_for_check(int(time.time() * 1000), _CHECK_AT_ONCE):
            await self._check_one(number)

    async def _check_one(self, number: int) -> None:
        pause_s = self._config.transaction_check_interval_s
        times = await self._store.checked(
            number,
            int(time.time() * 1000),
            int(pause_s * 1000),
            int(max(pause_s, self._config.transaction_check_max_interval_s) * 1000),
        )
        record = await self._store.get(number)
        if record is None:
            return
        message = decode_records(_with_offsets(record, number), decompress=False)[0]
        reserved_s = self._config.file_reserved_time_h * 3600
        is_too_old = 0 < reserved_s < time.time() - message.store_timestamp_ms / 1000
        if is_too_old or times > self._config.transaction_check_max:
            await self._give_up(number, message, times - 1)
            return
        self._ask(number, message, record)

    def _ask(self, number: int, message: MessageExt, record: bytes) -> None:
        """Checks a half message with a producer of the group; it replies with an END_TRANSACTION request."""
        connection = self._producer_of(message.properties.get(PROPERTY_PRODUCER_GROUP, ""))
        if connection is None:
            logger.info(
                "transaction of %s: no producer of its group %r is connected",
                message.msg_id,
                message.properties.get(PROPERTY_PRODUCER_GROUP, ""),
            )
            return
        header = CheckTransactionStateRequestHeader(
            tran_state_table_offset=number,
            commit_log_offset=message.commit_log_offset,
            msg_id=message.msg_id,
            transaction_id=message.msg_id,
            offset_msg_id=offset_msg_id(self._broker_addr, message.commit_log_offset),
            topic=message.topic,
            broker_name=self._config.broker_name,
        )
        command = request(
            RequestCode.CHECK_TRANSACTION_STATE,
            header,
            _with_offsets(record, number),
            opaque=connection.next_opaque(),
            oneway=True,
        )
        connection.write_command(command)

    async def _give_up(self, number: int, message: MessageExt, times: int) -> None:
        """Moves a half message to a topic for operators, after ``times`` checks."""
        topic = await self._auto_creation.ensure_system_topic(TRANS_CHECK_MAX_TIME_TOPIC)
        queue = topic.queues[0]
        told = {
            PROPERTY_REAL_TOPIC: message.topic,
            PROPERTY_REAL_QUEUE_ID: str(message.queue_id),
            PROPERTY_TRANSACTION_CHECK_TIMES: str(times),
        }
        try:
            record = self._visible(message, queue, **told)
        except ResponseError:  # no room for the properties: then only the log has them
            record = self._visible(message, queue)
        if await self._store.end(number, _key_of(message), queue, record):
            logger.warning(
                "transaction of %s to topic %s: undecided after %d checks, not checked any more; the message is in %s",
                message.msg_id,
                message.topic,
                times,
                TRANS_CHECK_MAX_TIME_TOPIC,
            )

    def _producer_of(self, group: str) -> Connection | None:
        connections = [c for c in self._clients.producer_groups.get(group, ()) if not c.closed]
        return random.choice(connections) if connections else None


def _key_of(message: MessageExt) -> str:
    unique_key = message.properties.get(PROPERTY_UNIQ_KEY, "")
    return half_key(message.properties.get(PROPERTY_PRODUCER_GROUP, ""), message.topic, unique_key)


def _resolve(number: int, queue_id: int, error: StoreError | None, future: asyncio.Future[int]) -> None:
    if future.done():
        return
    if error is None or isinstance(error, StoreUnconfirmedError):  # stored; a repeated request creates a second one
        future.set_result(number)
    else:
        future.set_exception(error)


def _not_there(number: int) -> ResponseError:
    return ResponseError(f"there is no undecided half message {number}: it was decided, or never was")


def _with_offsets(record: bytes, number: int) -> bytes:
    """A half message's record for its producer, with its number and physical offset."""
    patched = bytearray(record)
    OFFSETS.pack_into(patched, QUEUE_OFFSET_POSITION, number, half_physical_offset(number))
    return bytes(patched)
