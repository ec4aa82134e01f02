"""AsyncTransactionProducer: messages that become visible when a local transaction has been committed.

Source: RocketMQ 5.3 ``TransactionMQProducer``, ``DefaultMQProducerImpl.sendMessageInTransaction``,
``DefaultMQProducerImpl.checkTransactionState``.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol, Unpack

import msgspec
import pluggy

from ...background import Every
from ...codes import MessageSysFlag, RequestCode
from ...config import ClientConfig
from ...errors import RemoteProtocolError, RmqError, RouteNotFoundError
from ...model import (
    LATER_PROPERTIES,
    PROPERTY_PRODUCER_GROUP,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    LocalTransactionState,
    Message,
    MessageExt,
    SendResult,
    SendStatus,
    TransactionSendResult,
)
from ...protocol.command import RemotingCommand, request
from ...protocol.headers.transaction import CheckTransactionStateRequestHeader, EndTransactionRequestHeader
from ...protocol.ids import parse_offset_msg_id
from ...remoting.connection import Connection
from ..core.intercept import intercepted_send
from ..core.settings import ClientSettings
from ..core.threads import DaemonThreadExecutor
from ..core.values import Serializer
from .checks import check_message
from .choice import ANYWHERE
from .outgoing import Outgoing
from .producer import AsyncProducer

logger = logging.getLogger(__name__)

MAX_CHECKS = 2000
"""Questions that may wait for an answer; more are not answered, and the broker asks again. Source: the queue of
TransactionMQProducer's check executor."""
CHECKS_AT_ONCE = 8
MAX_THREADS = 32
"""In which plain functions of a listener run."""
_DECISIONS = {
    LocalTransactionState.COMMIT_MESSAGE: int(MessageSysFlag.TRANSACTION_COMMIT),
    LocalTransactionState.ROLLBACK_MESSAGE: int(MessageSysFlag.TRANSACTION_ROLLBACK),
    LocalTransactionState.UNKNOW: 0,
}


class TransactionListener(Protocol):
    """The user's half of a transaction. Both are coroutine functions, or plain functions, which run in a thread.

    Both answer a ``LocalTransactionState``; None and an exception (which is logged) count as UNKNOW: nothing is
    decided, and the broker asks ``check_local_transaction`` later.
    """

    def execute_local_transaction(self, message: Message, arg: Any, /) -> Any:
        """Does the local transaction. ``message.transaction_id`` is what to store with it, to find it again."""

    def check_local_transaction(self, message: MessageExt, /) -> Any:
        """How the local transaction of ``message.transaction_id`` ended: a broker asks, perhaps another process."""


class AsyncTransactionProducer(AsyncProducer):
    """An ``AsyncProducer`` that can also send messages together with a local transaction.

    Args:
        group: producer group. A broker may check a transaction with any member, so every member must be able to look
            up its outcome.
        listener: executes local transactions and reports their outcome.
        namesrv_addr: NameServers, ``host:port;host:port``.
        topics: topics whose brokers the producer registers with when it starts; it registers with other brokers
            when it sends their first message.
        config: as for ``AsyncProducer``.
        plugins: as for ``AsyncProducer``.
        serializer: as for ``AsyncProducer``.
        interceptors: as for ``AsyncProducer``.
        settings: as for ``AsyncProducer``.
    """

    def __init__(
        self,
        group: str,
        listener: TransactionListener,
        namesrv_addr: str | None = None,
        *,
        topics: Iterable[str] = (),
        config: ClientConfig | None = None,
        plugins: pluggy.PluginManager | None = None,
        serializer: str | Serializer = "json",
        interceptors: Sequence[object] = (),
        **settings: Unpack[ClientSettings],
    ) -> None:
        super().__init__(
            group,
            namesrv_addr,
            config=config,
            plugins=plugins,
            serializer=serializer,
            interceptors=interceptors,
            **settings,
        )
        self._listener = listener
        self._missing_topics = set(topics)
        self._introducing = Every(1.0, self._introduce, f"producer {group}: looking up its topics", at_once=True)
        self._checks = 0
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._pool = DaemonThreadExecutor(MAX_THREADS, f"rmq-{group}")
        self._instance.processors[RequestCode.CHECK_TRANSACTION_STATE] = self._check_requested
        self._transact = intercepted_send(self._interceptors, self._send_and_decide)

    async def start(self) -> None:
        """As ``AsyncProducer.start``; and tells the brokers of ``topics``, as far as they answer."""
        await super().start()
        if self._missing_topics:
            self._instance.loops.append(self._introducing)
            self._introducing.start()

    async def close(self) -> None:
        """As ``AsyncProducer.close``. What a listener is at goes on; its outcome is asked for later."""
        await super().close()
        self._pool.shutdown(wait=False)

    async def _introduce(self) -> None:
        """Has the brokers of the topics know this producer, which a heartbeat does once their routes are known."""
        for topic in list(self._missing_topics):
            try:
                await self._instance.routes.get_for_publish(topic)
                self._missing_topics.discard(topic)
            except RmqError as error:
                logger.info("producer %s: cannot be asked about topic %s yet: %s", self.group, topic, error)
        if not self._missing_topics:
            await self._introducing.close()

    async def send_message_in_transaction(
        self, message: Message, arg: Any = None, *, timeout_s: float | timedelta | None = None
    ) -> TransactionSendResult:
        """Sends a half message, does the local transaction, and commits the message or rolls it back by its outcome.

        No consumer sees the message before it is committed. What happens after the send is not raised, as the message
        is stored and the broker will ask: see ``TransactionSendResult.local_transaction_state`` and ``error``.

        Args:
            arg: handed to ``execute_local_transaction``.
            timeout_s: for the send; default ``send_timeout_s``.

        Raises:
            RmqError: as ``send``; the local transaction was not executed. If the broker stored the half message
                nevertheless, it checks the transaction later.
        """
        check_message(message)
        return await self._transact((message,), arg, timeout_s)

    async def _send_and_decide(
        self, messages: Sequence[Message], arg: Any, timeout_s: float | timedelta | None
    ) -> TransactionSendResult:
        await self._delivery.topic(messages[0].topic, timeout_s)
        half = self._half(messages[0])
        sent = await self._delivery.deliver((half,), self._encode_half, self._delivery.ask, ANYWHERE, timeout_s)
        message_id = sent.msg_id
        failure: BaseException | None = None
        if sent.status is SendStatus.SEND_OK:
            what = f"local transaction of {message_id} to topic {half.topic}"
            state, failure = await self._ask_listener(what, self._listener.execute_local_transaction, half, arg)
        else:
            state = LocalTransactionState.ROLLBACK_MESSAGE  # a failover might lose it: do not begin
        try:
            await self._end(sent, state, failure)
        except RmqError as error:
            logger.warning(
                "transaction of %s is %s, which %s does not know yet; it will ask: %s",
                message_id,
                state.value,
                sent.queue.broker_name,
                error,
            )
        return TransactionSendResult(**msgspec.structs.asdict(sent), local_transaction_state=state, error=failure)

    def _half(self, message: Message) -> Message:
        properties = {name: value for name, value in message.properties.items() if name not in LATER_PROPERTIES}
        properties[PROPERTY_TRANSACTION_PREPARED] = "true"
        properties[PROPERTY_PRODUCER_GROUP] = self.group
        properties.setdefault(PROPERTY_UNIQ_KEY, self._instance.unique_keys.next(int(time.time() * 1000)))
        return msgspec.structs.replace(message, properties=properties)

    def _encode_half(self, messages: Sequence[Message], key: str | None) -> Outgoing:
        out = self._encoder.message(messages, key)
        out.sys_flag |= MessageSysFlag.TRANSACTION_PREPARED
        return out

    async def _end(self, sent: SendResult, state: LocalTransactionState, failure: BaseException | None) -> None:
        address = self._instance.routes.master_address(sent.queue.broker_name)
        if address is None:
            raise RouteNotFoundError(f"broker {sent.queue.broker_name} has no master now")
        header = EndTransactionRequestHeader(
            producer_group=self.group,
            tran_state_table_offset=sent.queue_offset,
            commit_log_offset=parse_offset_msg_id(sent.offset_msg_id)[1],
            commit_or_rollback=_DECISIONS[state],
            msg_id=sent.msg_id,
            transaction_id=sent.transaction_id,
            topic=sent.queue.topic,
            broker_name=sent.queue.broker_name,
        )
        await self._instance.remoting.invoke_oneway(address, _end_command(header, failure))

    async def _ask_listener(
        self, what: str, function: Callable[..., Any], *arguments: Any
    ) -> tuple[LocalTransactionState, BaseException | None]:
        """(state, exception) of one call of the listener."""
        try:
            if inspect.iscoroutinefunction(function):
                state = await function(*arguments)
            else:
                call = functools.partial(contextvars.copy_context().run, function, *arguments)
                state = await asyncio.get_running_loop().run_in_executor(self._pool, call)
                if inspect.isawaitable(state):  # a plain function that returned a coroutine
                    state = await state
        except Exception as error:
            logger.error("producer %s: %s failed, its state is unknown", self.group, what, exc_info=error)
            return LocalTransactionState.UNKNOW, error
        if state is None:
            return LocalTransactionState.UNKNOW, None
        try:
            return LocalTransactionState(state), None
        except ValueError:
            mistake = TypeError(f"{what}: {state!r} is no LocalTransactionState, taken as UNKNOW")
            logger.error("producer %s: %s", self.group, mistake)
            return LocalTransactionState.UNKNOW, mistake

    # --- questions of brokers ------------------------------------------------------------------------------------

    def _check_requested(self, connection: Connection, command: RemotingCommand) -> None:
        header = command.header(CheckTransactionStateRequestHeader)
        messages = self._instance.broker.decode(command.body)
        if len(messages) != 1:
            raise RemoteProtocolError(f"CHECK_TRANSACTION_STATE with {len(messages)} messages, expected one")
        message = messages[0]
        group = message.properties.get(PROPERTY_PRODUCER_GROUP)
        if group != self.group:
            logger.warning("producer %s: asked about a transaction of group %s", self.group, group)
        elif self._checks >= MAX_CHECKS:
            logger.warning("producer %s: asked about too many transactions at once, left for later", self.group)
        else:
            self._checks += 1
            self._instance.spawn(self._check(connection, header, message))

    async def _check(
        self, connection: Connection, header: CheckTransactionStateRequestHeader, message: MessageExt
    ) -> None:
        try:
            async with self._checking:
                what = f"check of {message.msg_id} to topic {message.topic}"
                state, failure = await self._ask_listener(what, self._listener.check_local_transaction, message)
        finally:
            self._checks -= 1
        decision = EndTransactionRequestHeader(
            producer_group=self.group,
            tran_state_table_offset=header.tran_state_table_offset,
            commit_log_offset=header.commit_log_offset,
            commit_or_rollback=_DECISIONS[state],
            from_transaction_check=True,
            msg_id=message.msg_id,
            transaction_id=header.transaction_id or message.msg_id,
            topic=message.topic,
            broker_name=header.broker_name,
        )
        command = _end_command(decision, failure)
        command.opaque = connection.next_opaque()
        connection.write_command(command)


def _end_command(header: EndTransactionRequestHeader, failure: BaseException | None) -> RemotingCommand:
    command = request(RequestCode.END_TRANSACTION, header, oneway=True)
    if failure is not None:
        command.remark = f"the local transaction raised {failure!r}"[:500]
    return command
