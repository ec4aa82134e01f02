"""A NameServer and brokers for the client tests: real sockets and frames, answers from tables. And that they work."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rmq_redis.codes import Perm, PullSysFlag, RequestCode, ResponseCode
from rmq_redis.config import ClientConfig
from rmq_redis.hosts import offset_msg_id, pack_host
from rmq_redis.model import BrokerData, MessageQueue, QueueData, TopicRouteData
from rmq_redis.protocol.batch import decode_batch
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.bodies.route import ClusterInfo, encode_cluster_info, encode_route
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.clients import ConsumerGroupRequestHeader
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rmq_redis.protocol.headers.send import (
    ConsumerSendMsgBackRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.properties import decode_properties, remove_property
from rmq_redis.protocol.record import RecordHead, encode_record
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.server import RemotingServer

HOST = pack_host("127.0.0.1:10911")


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Waits until ``condition()`` is true; its value."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.002)
    return value


class FakeBroker:
    """One broker. ``answers[code]`` are functions or codes for the next requests of that code, before the tables."""

    def __init__(self, name: str = "broker-a", broker_id: int = 0) -> None:
        self.name = name
        self.broker_id = broker_id
        self.requests: list[RemotingCommand] = []
        self.answers: dict[int, list[Any]] = defaultdict(list)
        self.queues: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.min_offsets: dict[tuple[str, int], int] = defaultdict(int)
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.members: dict[str, dict[str, Connection]] = defaultdict(dict)
        self.heartbeats: list[dict[str, Any]] = []
        self.locks: dict[tuple[str, str, int], str] = {}
        self.unsupported: set[int] = set()
        self.hold_s = 5.0
        self.notify = True
        self._arrived = asyncio.Event()
        self.server: RemotingServer
        self.port = 0

    async def start(self, port: int = 0) -> None:
        handlers: dict[int, Callable[[Connection, RemotingCommand], Any]] = {
            RequestCode.SEND_MESSAGE_V2: self._send,
            RequestCode.SEND_BATCH_MESSAGE: self._send_batch,
            RequestCode.PULL_MESSAGE: self._pull,
            RequestCode.HEART_BEAT: self._heartbeat,
            RequestCode.UNREGISTER_CLIENT: self._unregister,
            RequestCode.GET_CONSUMER_LIST_BY_GROUP: self._members_of,
            RequestCode.QUERY_CONSUMER_OFFSET: self._query_offset,
            RequestCode.UPDATE_CONSUMER_OFFSET: self._update_offset,
            RequestCode.GET_MAX_OFFSET: self._max_offset,
            RequestCode.GET_MIN_OFFSET: self._min_offset,
            RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: self._min_offset,
            RequestCode.CONSUMER_SEND_MSG_BACK: lambda _connection, command: response(command),
            RequestCode.RECALL_MESSAGE: lambda _connection, command: response(command),
            RequestCode.END_TRANSACTION: lambda _connection, _command: None,
            RequestCode.SEND_REPLY_MESSAGE_V2: lambda _connection, command: response(command),
            RequestCode.POP_MESSAGE: lambda _connection, command: response(command, ResponseCode.POLLING_TIMEOUT),
            RequestCode.NOTIFICATION: lambda _connection, _command: None,  # held for ever
            RequestCode.LOCK_BATCH_MQ: self._lock,
            RequestCode.UNLOCK_BATCH_MQ: self._unlock,
            RequestCode.UPDATE_AND_CREATE_TOPIC: lambda _connection, command: response(command),
            RequestCode.DELETE_TOPIC_IN_BROKER: lambda _connection, command: response(command),
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: lambda _connection, command: response(command),
            RequestCode.GET_ALL_TOPIC_CONFIG: lambda _connection, command: response(command),
            RequestCode.GET_TOPIC_CONFIG: lambda _connection, command: response(command),
            RequestCode.GET_TOPIC_STATS_INFO: lambda _connection, command: response(command),
        }
        self.server = RemotingServer({code: self._scripted(handler) for code, handler in handlers.items()})
        await self.server.start("127.0.0.1", port)
        self.port = self.server.port

    async def stop(self) -> None:
        for connection in list(self.server.connections):
            connection.abort()
        for task in list(self.server._dispatcher._tasks):  # held pulls, and answers that a test never wants to come
            task.cancel()
        await self.server.close()
        self.members.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def of(self, *codes: int) -> list[RemotingCommand]:
        """The requests of these codes that arrived."""
        return [command for command in self.requests if command.code in codes]

    def put(self, topic: str, queue_id: int, *bodies: bytes, **fields: Any) -> None:
        """Stores messages."""
        log = self.queues[topic, queue_id]
        for body in bodies:
            log.append(self._record(topic, queue_id, body, len(log) + self.min_offsets[topic, queue_id], **fields))
        self._arrived.set()

    def _record(
        self, topic: str, queue_id: int, body: bytes, offset: int, *, properties: str = "", flag: int = 0, **rest: int
    ) -> bytes:
        return encode_record(
            RecordHead(
                queue_id=queue_id,
                flag=flag,
                sys_flag=rest.get("sys_flag", 0),
                born_timestamp_ms=1,
                born_host=HOST,
                store_timestamp_ms=2,
                store_host=pack_host(self.address),
                reconsume_times=rest.get("reconsume_times", 0),
                queue_offset=offset,
                physical_offset=queue_id << 40 | offset,
            ),
            topic.encode(),
            body,
            properties.encode(),
        )

    async def ask(self, client_id: str, group: str, command: RemotingCommand) -> RemotingCommand:
        """Sends a request to a member of a group."""
        return await self.members[group][client_id].invoke(command, 5.0)

    # --- processors ----------------------------------------------------------------------------------------------

    def _scripted(self, handler: Callable[[Connection, RemotingCommand], Any]) -> Callable[..., Any]:
        def process(connection: Connection, command: RemotingCommand) -> Any:
            self.requests.append(command)
            if command.code in self.unsupported:
                return response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark="not supported")
            script = self.answers[command.code]
            if script:
                answer = script.pop(0)
                if isinstance(answer, int):
                    return response(command, answer, remark="scripted")
                if answer is not None:
                    return answer(connection, command)
            return handler(connection, command)

        return process

    def _stored(self, command: RemotingCommand, header: SendMessageRequestHeaderV2, count: int) -> RemotingCommand:
        offset = len(self.queues[header.topic, header.queue_id]) - count
        ids = ",".join(offset_msg_id(self.address, header.queue_id << 40 | offset + index) for index in range(count))
        return response(command, 0, SendMessageResponseHeader(ids, header.queue_id, offset))

    def _send(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(SendMessageRequestHeaderV2)
        self.put(
            header.topic,
            header.queue_id,
            command.body,
            properties=header.properties or "",
            flag=header.flag,
            sys_flag=header.sys_flag,
            reconsume_times=header.reconsume_times or 0,
        )
        return self._stored(command, header, 1)

    def _send_batch(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(SendMessageRequestHeaderV2)
        assert header.batch
        items = decode_batch(command.body)
        for flag, body, properties in items:
            self.put(header.topic, header.queue_id, body, properties=properties.decode(), flag=flag)
        return self._stored(command, header, len(items))

    async def _pull(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(PullMessageRequestHeader)
        key = header.topic, header.queue_id
        if header.sys_flag & PullSysFlag.COMMIT_OFFSET:
            self.offsets[header.consumer_group, header.topic, header.queue_id] = header.commit_offset
        deadline = asyncio.get_running_loop().time() + min(self.hold_s, header.suspend_timeout_millis / 1000)
        while True:
            first, log = self.min_offsets[key], self.queues[key]
            last = first + len(log)
            offset = header.queue_offset
            if not first <= offset <= last:
                moved = first if offset < first else last
                return response(command, 21, PullMessageResponseHeader(0, moved, first, last))
            records = log[offset - first : offset - first + header.max_msg_nums]
            if records:
                fields = PullMessageResponseHeader(0, offset + len(records), first, last)
                return response(command, 0, fields, b"".join(records))
            remaining_s = deadline - asyncio.get_running_loop().time()
            if not header.sys_flag & PullSysFlag.SUSPEND or remaining_s <= 0:
                return response(command, 19, PullMessageResponseHeader(0, offset, first, last))
            self._arrived.clear()
            try:
                async with asyncio.timeout(remaining_s):
                    await self._arrived.wait()
            except TimeoutError:
                pass

    def _heartbeat(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        data = json.loads(command.body)
        self.heartbeats.append(data)
        for group in data["consumerDataSet"]:
            known = self.members[group["groupName"]]
            if data["clientID"] not in known:
                known[data["clientID"]] = connection
                self._members_changed(group["groupName"])
            known[data["clientID"]] = connection
        return response(command)

    def _unregister(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        group = command.ext_fields.get("consumerGroup")
        if group and self.members[group].pop(command.ext_fields["clientID"], None):
            self._members_changed(group)
        return response(command)

    def _members_changed(self, group: str) -> None:
        for connection in self.members[group].values() if self.notify else ():
            connection.write_command(
                request(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, ConsumerGroupRequestHeader(group), oneway=True)
            )

    def _members_of(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        ids = list(self.members[command.header(ConsumerGroupRequestHeader).consumer_group])
        if not ids:
            return response(command, ResponseCode.SYSTEM_ERROR, remark="no members")
        return response(command, body=dumps({"consumerIdList": ids}))

    def _query_offset(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueryConsumerOffsetRequestHeader)
        offset = self.offsets.get((header.consumer_group, header.topic, header.queue_id))
        if offset is None:
            return response(command, ResponseCode.QUERY_NOT_FOUND)
        return response(command, 0, OffsetResponseHeader(offset))

    def _update_offset(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(UpdateConsumerOffsetRequestHeader)
        self.offsets[header.consumer_group, header.topic, header.queue_id] = header.commit_offset
        return response(command)

    def _max_offset(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueueOffsetRequestHeader)
        key = header.topic, header.queue_id
        return response(command, 0, OffsetResponseHeader(self.min_offsets[key] + len(self.queues[key])))

    def _min_offset(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueueOffsetRequestHeader)
        return response(command, 0, OffsetResponseHeader(self.min_offsets[header.topic, header.queue_id]))

    def _lock(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        body = json.loads(command.body)
        granted = []
        for item in body["mqSet"]:
            key = body["consumerGroup"], item["topic"], item["queueId"]
            if self.locks.setdefault(key, body["clientId"]) == body["clientId"]:
                granted.append(item)
        return response(command, body=dumps({"lockOKMQSet": granted}))

    def _unlock(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        body = json.loads(command.body)
        for item in body["mqSet"]:
            key = body["consumerGroup"], item["topic"], item["queueId"]
            if self.locks.get(key) == body["clientId"]:
                del self.locks[key]
        return response(command)


class FakeNameServer:
    """Answers routes out of ``topics``: topic -> broker name -> number of queues."""

    def __init__(self, brokers: list[FakeBroker]) -> None:
        self.brokers = brokers
        self.topics: dict[str, dict[str, int]] = {}
        self.perms: dict[tuple[str, str], int] = {}
        self.order_conf: dict[str, str] = {}
        self.asked: list[str] = []
        self.requests: list[RemotingCommand] = []
        self.kv: dict[tuple[str, str], str] = {}
        self.server: RemotingServer

    async def start(self, port: int = 0) -> None:
        self.server = RemotingServer(
            {
                RequestCode.GET_ROUTEINFO_BY_TOPIC: self._route,
                RequestCode.GET_BROKER_CLUSTER_INFO: self._cluster,
                RequestCode.DELETE_TOPIC_IN_NAMESRV: self._noted,
                RequestCode.PUT_KV_CONFIG: self._put_kv,
                RequestCode.GET_KV_CONFIG: lambda _connection, command: response(
                    command, ResponseCode.QUERY_NOT_FOUND, remark="no such key"
                ),
            }
        )
        await self.server.start("127.0.0.1", port)

    async def stop(self) -> None:
        for connection in list(self.server.connections):
            connection.abort()
        await self.server.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def route(self, topic: str) -> TopicRouteData | None:
        queues = self.topics.get(topic)
        if queues is None and topic.startswith("%RETRY%"):
            queues = {broker.name: 1 for broker in self.brokers}
        if queues is None:
            return None
        names = {broker.name for broker in self.brokers} & set(queues)
        return TopicRouteData(
            [
                BrokerData(
                    "c", name, {broker.broker_id: broker.address for broker in self.brokers if broker.name == name}
                )
                for name in sorted(names)
            ],
            [
                QueueData(name, queues[name], queues[name], self.perms.get((topic, name), int(Perm.READ | Perm.WRITE)))
                for name in sorted(queues)
            ],
            self.order_conf.get(topic),
        )

    def _route(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        topic = command.header(TopicRequestHeader).topic
        self.asked.append(topic)
        route = self.route(topic)
        if route is None:
            return response(command, ResponseCode.TOPIC_NOT_EXIST, remark="No topic route info")
        return response(command, body=encode_route(route, standard_json=True))

    def _cluster(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        brokers: dict[str, BrokerData] = {}
        for broker in self.brokers:
            addresses = brokers.setdefault(broker.name, BrokerData("c", broker.name, {})).broker_addrs
            addresses[broker.broker_id] = broker.address
        return response(command, body=encode_cluster_info(ClusterInfo(brokers, {"c": sorted(brokers)})))

    def _put_kv(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        fields = command.ext_fields
        self.kv[fields["namespace"], fields["key"]] = fields["value"]
        return response(command)

    def _noted(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self.requests.append(command)
        self.topics.pop(command.ext_fields["topic"], None)
        return response(command)


class FakeCluster:
    """A NameServer and brokers with one topic ``T`` of two queues per broker."""

    def __init__(self, *names: str) -> None:
        self.brokers = [FakeBroker(name) for name in names or ("broker-a",)]
        self.name_server = FakeNameServer(self.brokers)
        self.name_server.topics["T"] = {broker.name: 2 for broker in self.brokers}

    @property
    def broker(self) -> FakeBroker:
        return self.brokers[0]

    @property
    def namesrv_addr(self) -> str:
        return self.name_server.address

    def config(self, **settings: Any) -> ClientConfig:
        return ClientConfig(namesrv_addr=self.namesrv_addr, **settings)

    def queue(self, queue_id: int = 0, broker: int = 0, topic: str = "T") -> MessageQueue:
        return MessageQueue(topic, self.brokers[broker].name, queue_id)


@asynccontextmanager
async def cluster(*names: str) -> AsyncIterator[FakeCluster]:
    """A running ``FakeCluster``."""
    fake = FakeCluster(*names)
    for broker in fake.brokers:
        await broker.start()
    await fake.name_server.start()
    try:
        yield fake
    finally:
        await fake.name_server.stop()
        for broker in fake.brokers:
            await broker.stop()


@contextmanager
def threaded_cluster() -> Iterator[FakeCluster]:
    """A running ``FakeCluster`` on an event loop of its own thread, for tests without one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    fake = FakeCluster()
    run(fake.broker.start())
    run(fake.name_server.start())
    try:
        yield fake
    finally:
        run(fake.name_server.stop())
        run(fake.broker.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def backs(broker: FakeBroker) -> list[ConsumerSendMsgBackRequestHeader]:
    """The messages that were given back."""
    return [
        command.header(ConsumerSendMsgBackRequestHeader) for command in broker.of(RequestCode.CONSUMER_SEND_MSG_BACK)
    ]


def sends(broker: FakeBroker) -> list[SendMessageRequestHeaderV2]:
    """Headers of the sends that arrived."""
    return [command.header(SendMessageRequestHeaderV2) for command in broker.of(RequestCode.SEND_MESSAGE_V2)]


def sent_messages(broker: FakeBroker) -> list[tuple[dict[str, str], bytes]]:
    """(properties, body) of the messages that arrived, alone or together, in their order."""
    messages: list[tuple[dict[str, str], bytes]] = []
    for command in broker.of(RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE):
        header = command.header(SendMessageRequestHeaderV2)
        if header.batch:
            items = decode_batch(command.body)
            messages += [(decode_properties(properties.decode()), body) for _, body, properties in items]
        else:
            messages.append((decode_properties(header.properties or ""), command.body))
    return messages


def creations(broker: FakeBroker) -> list[CreateTopicRequestHeader]:
    """The topics that were created."""
    return [command.header(CreateTopicRequestHeader) for command in broker.of(RequestCode.UPDATE_AND_CREATE_TOPIC)]


def without_ids(properties: str | None) -> str:
    """A property string without what the producer adds."""
    return remove_property(remove_property(properties or "", "UNIQ_KEY"), "WAIT")
