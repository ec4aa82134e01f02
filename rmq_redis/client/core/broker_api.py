"""Calls to one broker, typed: offsets, pulls, consumer lists, locks, messages given back."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from ...codes import RequestCode, ResponseCode
from ...errors import QueryNotFoundError, RemoteProtocolError, response_error
from ...model import MessageExt, MessageQueue, PullResult, PullStatus
from ...protocol.bodies.clients import ClientConfigCheck, ConsumerIds, LockedQueues, LockRequest
from ...protocol.bodies.heartbeat import HeartbeatData, SubscriptionData
from ...protocol.command import RemotingCommand, request
from ...protocol.compression import MAX_DECOMPRESSED_BYTES, Decompressor
from ...protocol.headers.clients import ConsumerGroupRequestHeader, UnregisterClientRequestHeader
from ...protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    SearchOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from ...protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from ...protocol.headers.query import ViewMessageRequestHeader
from ...protocol.headers.send import (
    ConsumerSendMsgBackRequestHeader,
    RecallMessageRequestHeader,
    RecallMessageResponseHeader,
)
from ...protocol.record import decode_records
from ...remoting.client import RemotingClient

_PULL_CODES = frozenset(int(status) for status in PullStatus)
_BODIES_OF_A_PULL = 4
_encode_json = msgspec.json.encode

logger = logging.getLogger(__name__)


class BrokerApi:
    """Each method takes the broker's address, and raises RemotingError when there is no answer and the ResponseError of
    an answer whose code is not a success."""

    def __init__(
        self, remoting: RemotingClient, timeout_s: float, max_decompressed_bytes: int = MAX_DECOMPRESSED_BYTES
    ) -> None:
        self.remoting = remoting
        self.timeout_s = timeout_s
        self.max_decompressed_bytes = max_decompressed_bytes

    async def call(self, address: str, command: RemotingCommand) -> RemotingCommand:
        """Any request."""
        return await self.remoting.call(address, command, self.timeout_s)

    # --- membership ----------------------------------------------------------------------------------------------

    async def heartbeat(self, address: str, data: HeartbeatData) -> RemotingCommand:
        return await self.call(address, request(RequestCode.HEART_BEAT, body=_encode_json(data)))

    async def check_client_config(
        self, address: str, group: str, client_id: str, subscription: SubscriptionData
    ) -> None:
        """Raises what the broker says when it cannot filter by the subscription's expression."""
        body = ClientConfigCheck(client_id=client_id, group=group, subscription_data=subscription)
        await self.call(address, request(RequestCode.CHECK_CLIENT_CONFIG, body=_encode_json(body)))

    async def unregister(
        self, address: str, client_id: str, *, producer_group: str | None = None, consumer_group: str | None = None
    ) -> None:
        header = UnregisterClientRequestHeader(client_id, producer_group, consumer_group)
        await self.call(address, request(RequestCode.UNREGISTER_CLIENT, header))

    async def consumer_ids(self, address: str, group: str) -> list[str]:
        """The client ids of a group's members that this broker knows; empty when it knows none."""
        command = request(RequestCode.GET_CONSUMER_LIST_BY_GROUP, ConsumerGroupRequestHeader(group))
        answer = await self.call(address, command)
        return ConsumerIds.decode(answer.body).consumer_id_list

    async def lock(self, address: str, group: str, client_id: str, queues: Iterable[MessageQueue]) -> set[MessageQueue]:
        """Those of the queues that this client has the lock of now."""
        body = LockRequest(client_id=client_id, consumer_group=group, mq_set=list(queues))
        answer = await self.call(address, request(RequestCode.LOCK_BATCH_MQ, body=_encode_json(body)))
        return set(LockedQueues.decode(answer.body).locked)

    async def unlock(self, address: str, group: str, client_id: str, queues: Iterable[MessageQueue]) -> None:
        body = LockRequest(client_id=client_id, consumer_group=group, mq_set=list(queues))
        await self.call(address, request(RequestCode.UNLOCK_BATCH_MQ, body=_encode_json(body)))

    # --- offsets -------------------------------------------------------------------------------------------------

    async def consumer_offset(
        self, address: str, group: str, queue: MessageQueue, *, zero_if_young: bool = True
    ) -> int | None:
        """The committed offset (the next one to consume); None when there is none.

        Args:
            zero_if_young: let the broker answer 0 where nothing is committed in a queue that it has from its beginning.
                A new queue is so read from its first message on, which may be older than the queue's first reader.
        """
        header = QueryConsumerOffsetRequestHeader(group, queue.topic, queue.queue_id, None if zero_if_young else False)
        try:
            answer = await self.call(address, request(RequestCode.QUERY_CONSUMER_OFFSET, header))
        except QueryNotFoundError:
            return None
        offset = answer.header(OffsetResponseHeader).offset
        return offset if offset >= 0 else None

    async def update_consumer_offset(
        self, address: str, group: str, queue: MessageQueue, offset: int, *, oneway: bool = False
    ) -> None:
        header = UpdateConsumerOffsetRequestHeader(group, queue.topic, queue.queue_id, offset)
        command = request(RequestCode.UPDATE_CONSUMER_OFFSET, header, oneway=oneway)
        if oneway:
            await self.remoting.invoke_oneway(address, command)
        else:
            await self.call(address, command)

    async def max_offset(self, address: str, queue: MessageQueue) -> int:
        """The offset that the next message will get."""
        header = QueueOffsetRequestHeader(queue.topic, queue.queue_id)
        answer = await self.call(address, request(RequestCode.GET_MAX_OFFSET, header))
        return answer.header(OffsetResponseHeader).offset

    async def min_offset(self, address: str, queue: MessageQueue) -> int:
        header = QueueOffsetRequestHeader(queue.topic, queue.queue_id)
        answer = await self.call(address, request(RequestCode.GET_MIN_OFFSET, header))
        return answer.header(OffsetResponseHeader).offset

    async def search_offset(self, address: str, queue: MessageQueue, timestamp_ms: int) -> int:
        """The first offset stored at or after ``timestamp_ms``; the max offset when all are older."""
        header = SearchOffsetRequestHeader(queue.topic, queue.queue_id, timestamp_ms)
        answer = await self.call(address, request(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, header))
        return answer.header(OffsetResponseHeader).offset

    # --- messages ------------------------------------------------------------------------------------------------

    def decode(self, records: bytes, broker_name: str = "") -> list[MessageExt]:
        """The messages of an answer. Bodies that cannot be decompressed are logged, and have a ``body_error``."""
        decompressor = Decompressor(self.max_decompressed_bytes)
        messages = decode_records(records, broker_name=broker_name, decompressor=decompressor)
        log_undecoded(messages)
        return messages

    async def pull(
        self,
        address: str,
        header: PullMessageRequestHeader,
        broker_name: str,
        timeout_s: float,
        room_bytes: int | None = None,
    ) -> PullResult:
        """One pull. The answers 0, 19, 20 and 21 are results, every other code is raised.

        Args:
            room_bytes: what the decompressed bodies of the result may take together; None: 4 of the largest allowed.
                Messages beyond it are left for the next pull. One is always returned.
        """
        answer = await self.remoting.invoke(address, request(RequestCode.PULL_MESSAGE, header), timeout_s)
        if answer.code not in _PULL_CODES:
            raise response_error(answer.code, answer.remark, address)
        fields = answer.header(PullMessageResponseHeader)
        messages: list[MessageExt] = []
        next_begin_offset = fields.next_begin_offset
        if answer.code == ResponseCode.SUCCESS:
            if room_bytes is None:
                room_bytes = _BODIES_OF_A_PULL * self.max_decompressed_bytes
            decompressor = Decompressor(self.max_decompressed_bytes, room_bytes)
            messages = decode_records(answer.body, broker_name=broker_name, decompressor=decompressor)
            if decompressor.is_cut:
                next_begin_offset = messages[-1].queue_offset + 1
        return PullResult(
            PullStatus(answer.code),
            next_begin_offset,
            fields.min_offset,
            fields.max_offset,
            messages,
            fields.suggest_which_broker_id,
        )

    async def send_message_back(
        self, address: str, group: str, message: MessageExt, *, delay_level: int, max_reconsume_times: int | None
    ) -> None:
        """Has the broker deliver the message to the group again later. ``delay_level`` 0: the broker decides."""
        header = ConsumerSendMsgBackRequestHeader(
            message.commit_log_offset,
            group,
            delay_level,
            origin_msg_id=message.msg_id,
            origin_topic=message.topic,
            max_reconsume_times=max_reconsume_times,
        )
        await self.call(address, request(RequestCode.CONSUMER_SEND_MSG_BACK, header))

    async def recall_message(
        self, address: str, producer_group: str, topic: str, recall_handle: str, timeout_s: float
    ) -> str:
        """Takes a message that waits for its time back; its id. ``producer_group``: for the broker's records only."""
        header = RecallMessageRequestHeader(topic, recall_handle, producer_group)
        answer = await self.remoting.call(address, request(RequestCode.RECALL_MESSAGE, header), timeout_s)
        return answer.header(RecallMessageResponseHeader).msg_id

    async def view_message(self, address: str, physical_offset: int) -> MessageExt:
        answer = await self.call(
            address, request(RequestCode.VIEW_MESSAGE_BY_ID, ViewMessageRequestHeader(physical_offset))
        )
        messages = self.decode(answer.body)
        if not messages:
            raise RemoteProtocolError(f"{address} answered VIEW_MESSAGE_BY_ID without a message")
        return messages[0]


def log_undecoded(messages: Iterable[MessageExt]) -> None:
    """Logs the messages whose bodies could not be decompressed."""
    for message in messages:
        if message.body_error is not None:
            logger.warning(
                "%s of %s offset %d: %s; its body stays compressed",
                message.msg_id,
                message.queue,
                message.queue_offset,
                message.body_error,
            )
