"""Admin requests about a group and its members: resets (222), status (223), running info (307), consuming one message
(309), a queue's entries (321), producers (328), subscriptions (345)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ...codes import LanguageCode, RequestCode, ResponseCode
from ...errors import (
    ConsumerNotOnlineError,
    InvalidParameterError,
    RemotingError,
    RequestTimeoutError,
    ResponseError,
    RmqError,
    SubscriptionGroupNotExistError,
    TopicNotExistError,
)
from ...protocol.bodies.base import dumps
from ...protocol.bodies.clients import GroupSubscription, ProducerInfo, ProducerTable
from ...protocol.bodies.progress import ConsumerStatus, ConsumerStatusTable, QueueEntries, QueueEntry, ResetOffsets
from ...protocol.command import RemotingCommand, request, response
from ...protocol.headers.admin import TopicGroupRequestHeader
from ...protocol.headers.base import encode_header
from ...protocol.headers.clients import ConsumerClientRequestHeader, ConsumerStatusRequestHeader
from ...protocol.headers.offsets import ResetOffsetRequestHeader
from ...protocol.headers.query import QueryConsumeQueueRequestHeader
from ...protocol.headers.registration import BrokerNameRequestHeader
from ...protocol.ids import parse_offset_msg_id
from ...protocol.record import QUEUE_OFFSET_POSITION
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...remoting.turn import dumps_in_turns
from ...store.group.queue import Queue
from ..consume.pull import PullProcessor
from ..filter.subscription import MessageFilter, message_filter
from ..group.clients import ClientManager
from ..group.members import Member
from ..group.state import GroupState
from ..group.topics import Topic
from .offsets import message_at

logger = logging.getLogger(__name__)

_CLIENT_TIMEOUT_S = 10.0
"""Source: ``Broker2Client.callClient``."""
_MAX_ENTRIES = 1000
"""Entries of one answer: each is a read of its own."""
_LANGUAGES = {int(language): language.name for language in LanguageCode}


def language_name(member: Member) -> str:
    return _LANGUAGES.get(member.language, "OTHER")


class ConsumerAdminProcessor:
    """Administration of consumer groups: requests that its members answer, and resets that they must follow."""

    def __init__(self, state: GroupState, clients: ClientManager, pulls: PullProcessor) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._queue_store = state.queue_store
        self._offsets = state.offsets
        self._clients = clients
        self._pulls = pulls

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: self._reset,
            RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS: self._status,
            RequestCode.GET_CONSUMER_RUNNING_INFO: self._running_info,
            RequestCode.CONSUME_MESSAGE_DIRECTLY: self._consume_directly,
            RequestCode.QUERY_CONSUME_QUEUE: self._entries,
            RequestCode.GET_ALL_PRODUCER_INFO: self._producers,
            RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER: self._subscription,
        }

    def _topic(self, name: str) -> Topic:
        topic = self._topics.topics.get(name)
        if topic is None:
            raise TopicNotExistError(f"the topic {name!r} does not exist on this broker")
        return topic

    # --- resets --------------------------------------------------------------------------------------------------

    async def _reset(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Sets the group's offsets. Commits of its members are ignored until they pull from the new offsets.

        So a reset works for every client, online or not, that follows the answer PULL_OFFSET_MOVED. With
        ``isForce=false``, a reset of a whole topic moves no queue forward, as before 5.2. A reset of a single queue
        ignores the flag, as tools never set it there. Source: RocketMQ 5.3
        AdminBrokerProcessor.resetOffsetInner.
        """
        header = command.header(ResetOffsetRequestHeader)
        if not self._office.is_master:
            raise ResponseError("this broker is a slave; send the request to the group's master to reset offsets")
        topic = self._topic(header.topic)
        if self._topics.group(header.group) is None:
            raise SubscriptionGroupNotExistError(f"the consumer group {header.group!r} does not exist on this broker")
        queues = topic.queues[: topic.config.read_queue_nums]
        if header.queue_id >= 0:
            if header.queue_id >= len(queues):
                raise InvalidParameterError(
                    f"queueId {header.queue_id} of topic {header.topic!r}, which has {len(queues)} read queues"
                )
            queues = [queues[header.queue_id]]
        offsets: dict[int, int] = {}
        for queue in queues:
            queue_id = queue.queue_id
            offset = await self._target(queue, header)
            committed = self._offsets.get(header.group, header.topic, queue_id)
            if header.queue_id < 0 and not header.is_force and committed is not None:
                offset = min(offset, committed)
            offsets[queue_id] = offset
        await self._offsets.reset(header.group, header.topic, offsets)
        self._pulls.wake_for_reset(header.group, queues)
        logger.info("consumer group %s: offsets in %s are reset to %s", header.group, header.topic, offsets)
        body = ResetOffsets({queue.mq: offsets[queue.queue_id] for queue in queues})
        return response(command, body=dumps(body))

    async def _target(self, queue: Queue, header: ResetOffsetRequestHeader) -> int:
        if header.queue_id >= 0 and header.offset is not None and header.offset != -1:
            if not queue.min_offset <= header.offset <= queue.max_offset:
                raise InvalidParameterError(
                    f"offset {header.offset} of {queue.mq}, which has {queue.min_offset} to {queue.max_offset}"
                )
            return header.offset
        if header.timestamp < 0:
            return queue.max_offset
        return await self._queue_store.search_by_timestamp(queue, header.timestamp)

    # --- members -------------------------------------------------------------------------------------------------

    async def _status(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """The offsets of each member's queues, as the members report them."""
        header = command.header(ConsumerStatusRequestHeader)
        group = self._clients.consumer_groups.get(header.group)
        ids = group.client_ids() if group else []
        ids = [client_id for client_id in ids if header.client_addr in (None, "", client_id)]
        if not ids:
            who = header.client_addr or "no member"
            raise ConsumerNotOnlineError(f"{who} of the group {header.group!r} is connected to this broker")
        question = ConsumerStatusRequestHeader(header.topic, header.group)

        async def ask(client_id: str) -> dict[Any, Any]:
            member = self._clients.member(header.group, client_id)
            if member is None:
                return {}
            try:
                asked = request(RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT, question)
                answer = await member.connection.invoke(asked, _CLIENT_TIMEOUT_S)
                return ConsumerStatus.decode(answer.body).message_queue_table
            except RmqError as error:
                logger.warning("consumer group %s: %s did not report its status: %s", header.group, client_id, error)
                return {}

        tables = await asyncio.gather(*(ask(client_id) for client_id in ids))
        return response(command, body=dumps(ConsumerStatusTable(dict(zip(ids, tables, strict=True)))))

    async def _running_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return await self._forward(command, command.ext_fields, command.body)

    async def _consume_directly(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumerClientRequestHeader)
        _, physical_offset = parse_offset_msg_id(header.msg_id or "")
        body = await message_at(self._queue_store, physical_offset)
        broker = encode_header(BrokerNameRequestHeader(self._config.broker_name))
        return await self._forward(command, command.ext_fields | broker, body)

    async def _forward(self, command: RemotingCommand, fields: dict[str, str], body: bytes) -> RemotingCommand:
        """Forwards the request to one member and returns its answer."""
        header = command.header(ConsumerClientRequestHeader)
        member = self._clients.member(header.consumer_group, header.client_id)
        if member is None:
            raise ResponseError(f"the consumer {header.consumer_group!r} {header.client_id!r} is not online")
        forwarded = RemotingCommand(code=command.code, fields=fields, body=body)
        who = f"the consumer {header.consumer_group!r} {header.client_id!r}"
        try:
            answer = await member.connection.invoke(forwarded, _CLIENT_TIMEOUT_S)
        except RequestTimeoutError:
            raise ResponseError(
                f"{who} gave no answer within {_CLIENT_TIMEOUT_S:g} s", code=ResponseCode.CONSUME_MSG_TIMEOUT
            ) from None
        except RemotingError as error:
            raise ResponseError(f"{who}: {error}") from None
        return response(command, answer.code, body=answer.body, remark=answer.remark)

    async def _producers(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        now_s, now_ms = asyncio.get_running_loop().time(), int(time.time() * 1000)
        data = {
            name: [
                ProducerInfo(
                    client_id=member.client_id,
                    language=language_name(member),
                    last_update_timestamp=now_ms - int((now_s - member.last_update_s) * 1000),
                    remote_ip=member.connection.remote_address,
                    version=member.version,
                )
                for by_id in members.values()
                for member in by_id.values()
            ]
            for name, members in self._clients.producer_groups.items()
        }
        return response(command, body=await dumps_in_turns(ProducerTable(data)))

    def _subscription(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(TopicGroupRequestHeader)
        known = self._clients.subscription(header.group, header.topic)
        body = GroupSubscription(group=header.group, topic=header.topic, subscription_data=known)
        return response(command, body=dumps(body))

    # --- a queue's entries ---------------------------------------------------------------------------------------

    async def _entries(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Entries as in RocketMQ's consume queue, and whether each message passes a group's filter."""
        header = command.header(QueryConsumeQueueRequestHeader)
        queue = self._queue_store.queues.get((header.topic, header.queue_id))
        if queue is None:
            raise ResponseError(f"there is no queue {header.queue_id} of topic {header.topic!r} on this broker")
        if not self._office.is_master:
            await self._queue_store.refresh([queue])
        min_offset, max_offset = queue.min_offset, queue.max_offset
        known = wanted = filter_data = None
        if header.consumer_group:
            known = self._clients.subscription(header.consumer_group, header.topic)
            if known is None:
                filter_data = f"{header.consumer_group}@{header.topic} is not online!"
            else:
                wanted = message_filter(known.sub_string, known.expression_type)
        body = QueueEntries(
            max_queue_index=max_offset,
            min_queue_index=min_offset,
            subscription_data=known,
            filter_data=filter_data,
            queue_data=await self._read_entries(queue, header, wanted),
        )
        return response(command, body=dumps(body))

    async def _read_entries(
        self, queue: Queue, header: QueryConsumeQueueRequestHeader, wanted: MessageFilter | None
    ) -> list[QueueEntry]:
        entries = []
        offset = max(header.index, queue.min_offset)
        for _ in range(min(header.count, _MAX_ENTRIES)):
            found = await self._queue_store.read_one(queue, offset)
            if found is None:
                break
            offset, record = found
            tags_code = record[QUEUE_OFFSET_POSITION : QUEUE_OFFSET_POSITION + 8]
            entries.append(
                QueueEntry(
                    physic_offset=queue.physical_offset(offset),
                    physic_size=len(record),
                    tags_code=int.from_bytes(tags_code, "big", signed=True),
                    eval=wanted is None or wanted.matches(record),
                )
            )
            offset += 1
        return entries
