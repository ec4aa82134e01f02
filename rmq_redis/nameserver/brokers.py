"""Registration of brokers: which broker is alive, at which address, with which topics.

Source: RocketMQ 5.3 ``namesrv/processor/DefaultRequestProcessor``.
"""

from __future__ import annotations

import time
import zlib

from ..codes import RequestCode
from ..errors import RemoteProtocolError, ResponseError
from ..model import MASTER_ID, ORDER_TOPIC_CONFIG, DataVersion
from ..protocol.bodies.base import decode_struct, dumps
from ..protocol.bodies.registration import TopicConfigTable, decode_register_body
from ..protocol.bodies.topics import KvTable
from ..protocol.command import RemotingCommand, response
from ..protocol.headers.registration import (
    BrokerHeartbeatRequestHeader,
    QueryDataVersionRequestHeader,
    QueryDataVersionResponseHeader,
    RegisterBrokerRequestHeader,
    RegisterBrokerResponseHeader,
    UnregisterBrokerRequestHeader,
)
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..store.registry.entries import GroupKey, LiveBroker, check_storable
from .groups import Member
from .routes import RouteTable

_MAX_AHEAD_MS = 24 * 3600 * 1000
"""How far a stateVersion, which is an epoch in ms here and a small number with Apache, may be ahead of our clock."""
_BROKERS = "brokers"


class BrokerProcessor:
    """Answers the requests of brokers, and drops a broker when its connection closes."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table

    def processors(self) -> dict[int, Processor]:
        """Handlers by request code."""
        return {
            RequestCode.REGISTER_BROKER: self.register_broker,
            RequestCode.UNREGISTER_BROKER: self.unregister_broker,
            RequestCode.QUERY_DATA_VERSION: self.query_data_version,
            RequestCode.BROKER_HEARTBEAT: self.broker_heartbeat,
        }

    def register_broker(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        broker, topics = _registration(command)
        holder = self._table.member(broker.group, broker.broker_id)
        if not self._table.register(broker, topics.topic_config_table, time.monotonic(), connection):
            held_by = holder.broker.broker_addr if holder else None
            return response(command, header=RegisterBrokerResponseHeader(master_addr=held_by))
        self._attach(connection, broker)
        if holder and holder.broker.broker_addr != broker.broker_addr:
            _close_connection_of(holder, unless=connection)
        answer = RegisterBrokerResponseHeader()
        master = self._table.member(broker.group, MASTER_ID)
        if master and broker.broker_id != MASTER_ID:
            answer.master_addr = master.broker.broker_addr
            answer.ha_server_addr = master.broker.ha_server_addr
        order_topics = self._table.kv.get(ORDER_TOPIC_CONFIG)
        return response(command, header=answer, body=dumps(KvTable(order_topics)) if order_topics else b"")

    def unregister_broker(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(UnregisterBrokerRequestHeader)
        key = GroupKey(header.cluster_name, header.broker_name)
        self._table.remove(key, header.broker_id, header.broker_addr, kind="unregistered")
        return response(command)

    def broker_heartbeat(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(BrokerHeartbeatRequestHeader)
        self._heard(connection, GroupKey(header.cluster_name, header.broker_name), header.broker_addr)
        return response(command)

    def query_data_version(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueryDataVersionRequestHeader)
        theirs: DataVersion = decode_struct(command.body, DataVersion)
        broker = self._heard(connection, GroupKey(header.cluster_name, header.broker_name), header.broker_addr)
        known = broker.data_version if broker else None
        answer = QueryDataVersionResponseHeader(known != theirs)
        return response(command, header=answer, body=dumps(known) if known else b"")

    def _heard(self, connection: Connection, key: GroupKey, broker_addr: str) -> LiveBroker | None:
        broker = self._table.heard(key, broker_addr, time.monotonic(), connection)
        if broker:
            self._attach(connection, broker)
        return broker

    @staticmethod
    def _attach(connection: Connection, broker: LiveBroker) -> None:
        brokers = connection.attachments.setdefault(_BROKERS, {})
        brokers[broker.group, broker.broker_id] = broker.broker_addr

    def connection_closed(self, connection: Connection) -> list[tuple[str, int, str]]:
        """Drops the brokers that were last heard over this connection; returns their names, ids and addresses."""
        brokers: dict[tuple[GroupKey, int], str] = connection.attachments.get(_BROKERS, {})
        return [
            (key.broker_name, broker_id, address)
            for (key, broker_id), address in brokers.items()
            if self._table.remove(key, broker_id, address, source=connection)
        ]


def _registration(command: RemotingCommand) -> tuple[LiveBroker, TopicConfigTable]:
    """The broker that a request registers, and its topics. Raises ResponseError or RemoteProtocolError."""
    header = command.header(RegisterBrokerRequestHeader)
    for name in ("broker_name", "broker_addr", "cluster_name"):
        if not getattr(header, name).strip():
            raise RemoteProtocolError(f"register broker: {name} is empty")
    if header.broker_id < 0:
        raise RemoteProtocolError(f"register broker: brokerId {header.broker_id} is negative")
    if header.body_crc32 and header.body_crc32 != zlib.crc32(command.body) & 0x7FFFFFFF:
        raise ResponseError("crc32 not match")
    topics: TopicConfigTable = decode_register_body(command.body, sender_version=command.version)
    broker = LiveBroker(
        cluster=header.cluster_name,
        broker_name=header.broker_name,
        broker_id=header.broker_id,
        broker_addr=header.broker_addr,
        ha_server_addr=header.ha_server_addr,
        data_version=topics.data_version,
        zone=header.zone_name,
        enable_acting_master=header.enable_acting_master,
        heartbeat_timeout_millis=header.heartbeat_timeout_millis,
        registered_ms=int(time.time() * 1000),
    )
    check_storable((broker, topics))
    newest = broker.registered_ms + _MAX_AHEAD_MS
    if broker.data_version.state_version > newest:
        raise ResponseError(
            f"register broker: stateVersion {broker.data_version.state_version} is above {newest}; it is an epoch, "
            "at most the time in ms"
        )
    return broker, topics


def _close_connection_of(displaced: Member, *, unless: Connection) -> None:
    """Has a broker that lost its id register again, so that it learns of that at once."""
    source = displaced.source
    if isinstance(source, Connection) and source is not unless:
        source.close()
