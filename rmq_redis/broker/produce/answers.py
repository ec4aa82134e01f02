"""The answers to sends, written when the store has confirmed or refused the message."""

from __future__ import annotations

from functools import partial

from ...codes import ResponseCode
from ...errors import StoreError, StoreUnconfirmedError
from ...model import MessageExt
from ...protocol.command import RemotingCommand, response
from ...protocol.frame import encode_frame
from ...protocol.headers.send import SendMessageResponseHeader
from ...protocol.recall_handle import RecallHandle, encode_recall_handle
from ...remoting.connection import Connection
from ...remoting.dispatch import error_response, send_answer
from ...store.group.half_messages import half_physical_offset
from ...store.group.queue import MAX_QUEUE_NUMBER, QUEUE_NUMBER_SHIFT, Queue
from ...store.group.schedule import Held
from ..group.schedule import recall_key
from ..group.state import GroupState
from ..hooks import AppendHooks
from .oneway import OnewayDrops
from .records import REGION


class SendAnswers:
    """Answers sends with the address of the stored message. A one-way send has no answer; failed ones are counted.

    Attributes:
        stored: answers a message in its queue; the ``append`` callback of the queue store.
    """

    def __init__(self, state: GroupState, drops: OnewayDrops, hooks: AppendHooks | None) -> None:
        self._broker_name = state.config.broker_name
        self._drops = drops
        self.stored = self._stored if hooks is None else partial(self._stored_with_hooks, hooks)
        self._id_prefix = state.store_host.hex().upper()
        self._answer_head = (
            b'{"code":0,"extFields":{"MSG_REGION":"%b","TRACE_ON":"true","msgId":"%%b","queueId":"%%d",'
            b'"queueOffset":"%%d"},"flag":1,"language":"PYTHON","opaque":%%d,"serializeTypeCurrentRPC":"JSON",'
            b'"version":%d}'
        ) % (REGION.encode(), RemotingCommand(code=0).version)

    def failed(self, connection: Connection, command: RemotingCommand, topic: str, error: Exception) -> None:
        """Answers a failed send; a one-way send is counted instead."""
        if command.flag & 2:
            self._drops.drop(topic, error)
        send_answer(connection, command, error_response(command, error))

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
        if error and not isinstance(error, StoreUnconfirmedError):
            connection.write_command(error_response(command, error))
            return
        first = queue.physical_offset(queue_offset)
        message_ids = ",".join([f"{self._id_prefix}{number:016X}" for number in range(first, first + count)])
        if command.serialize_type == 0 and error is None:
            header = self._answer_head % (message_ids.encode(), queue.queue_id, queue_offset, command.opaque)
            connection.write(encode_frame(header, b""))
            return
        fields = SendMessageResponseHeader(message_ids, queue.queue_id, queue_offset, region=REGION, trace_on="true")
        code, remark = _stored_code(error)
        connection.write_command(response(command, code, fields, remark=remark))

    def scheduled(
        self, held: Held | None, error: StoreError | None, arg: tuple[Connection, RemotingCommand, MessageExt]
    ) -> None:
        """Answers a scheduled message with its queue and an address of its own.

        A repeated send gets the answer of the first one.
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
            handle = RecallHandle(message.topic, self._broker_name, held.due_ms, message.msg_id)
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

    def prepared(
        self, number: int, queue_id: int, error: StoreError | None, arg: tuple[Connection, RemotingCommand, str | None]
    ) -> None:
        """Answers a half message: with the numbers that END_TRANSACTION repeats."""
        connection, command, transaction_id = arg
        if error and not isinstance(error, StoreUnconfirmedError):
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

    def dead_lettered(
        self, held: Held | None, error: StoreError | None, arg: tuple[Connection, RemotingCommand, Queue]
    ) -> None:
        """Answers a message that went to the dead letters instead."""
        connection, command, queue = arg
        self.stored(queue, -1 if held is None else held.number, error, (connection, command, 1))

    def _note_oneway(self, command: RemotingCommand, error: StoreError | None, topic: str = "(delayed)") -> None:
        if error and not isinstance(error, StoreUnconfirmedError):
            self._drops.drop(topic, error)


def _stored_code(error: StoreError | None) -> tuple[ResponseCode, str | None]:
    """(code, remark) of the answer to a stored message, confirmed in time or not."""
    return (error.code, str(error)) if isinstance(error, StoreUnconfirmedError) else (ResponseCode.SUCCESS, None)
