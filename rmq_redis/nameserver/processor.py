"""Answers the requests of clients, brokers and tools from the route table. Only KV config waits for the registry.

Source: RocketMQ 5.3 ``namesrv/processor/DefaultRequestProcessor``, ``ClientRequestProcessor``.
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable
from typing import Any

from ..codes import RequestCode, ResponseCode
from ..config import NameServerConfig
from ..errors import NoPermissionError, QueryNotFoundError, RemoteProtocolError, ResponseError
from ..model import MASTER_ID, ORDER_TOPIC_CONFIG, DataVersion
from ..plugins.hookspecs import RouteFilter, RouteRequest
from ..protocol.bodies.base import decode_struct, dumps
from ..protocol.bodies.java_properties import (
    NAMESRV_FIXED_SETTINGS,
    NAMESRV_SETTING_NAMES,
    decode_java_properties,
    encode_java_properties,
)
from ..protocol.bodies.registration import TopicConfigTable, decode_register_body
from ..protocol.bodies.route import decode_route, encode_cluster_info, encode_route
from ..protocol.bodies.topics import BrokerMemberGroup, BrokerMembers, KvTable, TopicList
from ..protocol.command import RemotingCommand, response
from ..protocol.headers.admin import TopicRequestHeader
from ..protocol.headers.kv_config import KvConfigRequestHeader, KvConfigResponseHeader, KvListRequestHeader
from ..protocol.headers.registration import (
    AddWritePermResponseHeader,
    BrokerHeartbeatRequestHeader,
    BrokerNameRequestHeader,
    QueryDataVersionRequestHeader,
    QueryDataVersionResponseHeader,
    RegisterBrokerRequestHeader,
    RegisterBrokerResponseHeader,
    UnregisterBrokerRequestHeader,
    WipeWritePermResponseHeader,
)
from ..protocol.headers.route import BrokerMemberGroupRequestHeader, ClusterRequestHeader, GetRouteInfoRequestHeader
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..store.redis.url import without_credentials
from ..store.registry.entries import GroupKey, LiveBroker, check_storable
from ..store.registry.routes import RouteStore
from .routes import WRITE_WIPED, RouteTable

_STANDARD_JSON_FROM_VERSION = 401
_MAX_AHEAD_MS = 24 * 3600 * 1000
"""How far a stateVersion, which is an epoch in ms here and a small number with Apache, may be ahead of our clock."""
_BROKERS = "brokers"


@dataclasses.dataclass(frozen=True)
class _Property:
    """A setting as mqadmin sees it, in RocketMQ's unit."""

    show: Callable[[Any], str] = str
    parse: Callable[[str], Any] | None = None
    """None: cannot be changed while the NameServer runs."""


def _bool_text(value: bool) -> str:
    return "true" if value else "false"


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return text.lower() == "true"


def _ms_text(seconds: float) -> str:
    return str(round(seconds * 1000))


def _parse_ms(text: str) -> float:
    milliseconds = int(text)
    if not 0 < milliseconds <= 86_400_000:
        raise ValueError("expected 1 to 86400000 ms")
    return milliseconds / 1000


_PROPERTIES = {
    "listen_host": _Property(),
    "listen_port": _Property(),
    "registry": _Property(without_credentials),
    "key_prefix": _Property(),
    "broker_expiry_s": _Property(_ms_text, _parse_ms),
    "sweep_period_s": _Property(_ms_text, _parse_ms),
    "idle_timeout_s": _Property(lambda seconds: f"{seconds:g}"),
    "order_message_enable": _Property(_bool_text, _parse_bool),
}
_FIELDS = {wire_name: field for field, wire_name in NAMESRV_SETTING_NAMES.items()}


class NameServerProcessor:
    """The NameServer's request handlers.

    Attributes:
        config: the settings in force; UPDATE_NAMESRV_CONFIG replaces it.
    """

    def __init__(
        self,
        table: RouteTable,
        store: RouteStore,
        config: NameServerConfig,
        *,
        on_config: Callable[[NameServerConfig], None] = lambda config: None,
        route_filter: RouteFilter | None = None,
    ) -> None:
        """
        Args:
            on_config: called with settings that were changed while running.
            route_filter: what each client is shown of a route; None: all.
        """
        self.config = config
        self._table = table
        self._store = store
        self._on_config = on_config
        self._route_filter = route_filter

    def processors(self) -> dict[int, Processor]:
        """Handlers by request code."""
        return {
            RequestCode.PUT_KV_CONFIG: self.put_kv_config,
            RequestCode.GET_KV_CONFIG: self.get_kv_config,
            RequestCode.DELETE_KV_CONFIG: self.delete_kv_config,
            RequestCode.REGISTER_BROKER: self.register_broker,
            RequestCode.UNREGISTER_BROKER: self.unregister_broker,
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self.get_route_info,
            RequestCode.GET_BROKER_CLUSTER_INFO: self.get_broker_cluster_info,
            RequestCode.WIPE_WRITE_PERM_OF_BROKER: self.wipe_write_perm,
            RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self.get_all_topic_list,
            RequestCode.DELETE_TOPIC_IN_NAMESRV: self.delete_topic,
            RequestCode.REGISTER_TOPIC_IN_NAMESRV: self.register_topic,
            RequestCode.GET_KVLIST_BY_NAMESPACE: self.get_kv_list,
            RequestCode.GET_TOPICS_BY_CLUSTER: self.get_topics_by_cluster,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS: self.get_system_topic_list,
            RequestCode.GET_UNIT_TOPIC_LIST: self.get_unit_topic_list,
            RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST: self.get_has_unit_sub_topic_list,
            RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST: self.get_has_unit_sub_ununit_topic_list,
            RequestCode.UPDATE_NAMESRV_CONFIG: self.update_config,
            RequestCode.GET_NAMESRV_CONFIG: self.get_config,
            RequestCode.QUERY_DATA_VERSION: self.query_data_version,
            RequestCode.ADD_WRITE_PERM_OF_BROKER: self.add_write_perm,
            RequestCode.GET_BROKER_MEMBER_GROUP: self.get_broker_member_group,
            RequestCode.BROKER_HEARTBEAT: self.broker_heartbeat,
        }

    # --- clients -------------------------------------------------------------------------------------------------

    def get_route_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(GetRouteInfoRequestHeader)
        standard_json = bool(header.accept_standard_json_only) or command.version >= _STANDARD_JSON_FROM_VERSION
        body = self._table.route_body(header.topic, standard_json=standard_json)
        if body is None:
            return response(
                command,
                ResponseCode.TOPIC_NOT_EXIST,
                remark=f"No topic route info in name server for the topic: {header.topic}\n"
                "Create the topic, or see by clusterList whether its brokers are registered.",
            )
        if self._route_filter is not None:
            route = self._table.route(header.topic)
            assert route is not None, header.topic
            shown = self._route_filter(RouteRequest(header.topic, connection.remote_address, command.ext_fields), route)
            if shown != route:
                body = encode_route(shown, standard_json=standard_json)
        return response(command, body=body)

    # --- brokers -------------------------------------------------------------------------------------------------

    def register_broker(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
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
        holder = self._table.member(broker.group, broker.broker_id)
        registered = self._table.register(broker, topics.topic_config_table, time.monotonic(), connection)
        if not registered:
            held_by = "" if holder is None else holder.broker.broker_addr
            return response(command, header=RegisterBrokerResponseHeader(master_addr=held_by or None))
        self._attach(connection, broker)
        displaced = holder is not None and holder.broker.broker_addr != broker.broker_addr
        source = holder.source if holder is not None and displaced else None
        if isinstance(source, Connection) and source is not connection:
            source.close()  # its broker registers again, and so learns of it at once
        order_topics = self._table.kv.get(ORDER_TOPIC_CONFIG)
        answer = RegisterBrokerResponseHeader()
        if broker.broker_id != MASTER_ID:
            master = self._table.member(broker.group, MASTER_ID)
            if master is not None:
                answer.master_addr = master.broker.broker_addr
                answer.ha_server_addr = master.broker.ha_server_addr
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
        changed = broker is None or broker.data_version != theirs
        return response(
            command,
            header=QueryDataVersionResponseHeader(changed),
            body=b"" if broker is None else dumps(broker.data_version),
        )

    def _heard(self, connection: Connection, key: GroupKey, broker_addr: str) -> LiveBroker | None:
        broker = self._table.heard(key, broker_addr, time.monotonic(), connection)
        if broker is not None:
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

    # --- lists ---------------------------------------------------------------------------------------------------

    def get_broker_cluster_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return response(command, body=encode_cluster_info(self._table.cluster_info()))

    def get_broker_member_group(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(BrokerMemberGroupRequestHeader)
        group = BrokerMembers(
            broker_addrs=self._table.addresses_of(GroupKey(header.cluster_name, header.broker_name)),
            broker_name=header.broker_name,
            cluster=header.cluster_name,
        )
        return response(command, body=dumps(BrokerMemberGroup(group)))

    def get_all_topic_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return _topic_list(command, self._table.topics())

    def get_topics_by_cluster(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return _topic_list(command, self._table.topics(command.header(ClusterRequestHeader).cluster))

    def get_unit_topic_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return _topic_list(command, self._table.unit_topics(unit=True, unit_sub=None))

    def get_has_unit_sub_topic_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return _topic_list(command, self._table.unit_topics(unit=None, unit_sub=True))

    def get_has_unit_sub_ununit_topic_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return _topic_list(command, self._table.unit_topics(unit=False, unit_sub=True))

    def get_system_topic_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Names of clusters and brokers, and one broker's address for asking it about its own system topics."""
        info = self._table.cluster_info()
        names = [*info.clusters, *(name for name in info.brokers if name not in info.clusters)]
        addresses = [address for broker in info.brokers.values() for address in broker.broker_addrs.values()]
        return response(
            command, body=dumps(TopicList(broker_addr=addresses[0] if addresses else None, topic_list=names))
        )

    # --- topics --------------------------------------------------------------------------------------------------

    def delete_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(TopicRequestHeader)
        self._table.delete_topic(header.topic, header.cluster_name or None)
        return response(command)

    def register_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(TopicRequestHeader)
        queue_datas = decode_route(command.body).queue_datas
        check_storable((header.topic, queue_datas))
        self._table.register_topic(header.topic, queue_datas)
        return response(command)

    async def wipe_write_perm(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Holds until ``add_write_perm``: also when the broker registers anew. StoreError becomes code 14."""
        broker_name = command.header(BrokerNameRequestHeader).broker_name
        check_storable(broker_name)
        count = self._table.set_write_perm(broker_name, False)
        if count:
            await self._put_kv(WRITE_WIPED, broker_name, "true")
        return response(command, header=WipeWritePermResponseHeader(count))

    async def add_write_perm(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        broker_name = command.header(BrokerNameRequestHeader).broker_name
        check_storable(broker_name)
        if broker_name in self._table.kv.get(WRITE_WIPED, {}):
            await self._delete_kv(WRITE_WIPED, broker_name)
        count = self._table.set_write_perm(broker_name, True)
        return response(command, header=AddWritePermResponseHeader(count))

    # --- KV config -----------------------------------------------------------------------------------------------

    async def put_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Answers after the registry has it: nothing sends KV config again. StoreError becomes code 14."""
        header = command.header(KvConfigRequestHeader)
        if header.value is None:
            raise RemoteProtocolError("put KV config: no value")
        check_storable((header.namespace, header.key, header.value))
        await self._put_kv(header.namespace, header.key, header.value)
        return response(command)

    async def _put_kv(self, namespace: str, key: str, value: str) -> None:
        await self._store.put_kv(namespace, key, value)
        known = self._table.kv
        self._table.set_kv({**known, namespace: {**known.get(namespace, {}), key: value}})

    def get_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(KvConfigRequestHeader)
        value = self._table.kv.get(header.namespace, {}).get(header.key)
        if value is None:
            raise QueryNotFoundError(f"No config item, Namespace: {header.namespace} Key: {header.key}")
        return response(command, header=KvConfigResponseHeader(value))

    async def delete_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(KvConfigRequestHeader)
        check_storable((header.namespace, header.key))
        await self._delete_kv(header.namespace, header.key)
        return response(command)

    async def _delete_kv(self, namespace: str, key: str) -> None:
        await self._store.delete_kv(namespace, key)
        table = {name: dict(items) for name, items in self._table.kv.items()}
        table.get(namespace, {}).pop(key, None)
        self._table.set_kv({name: items for name, items in table.items() if items})

    def get_kv_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        namespace = command.header(KvListRequestHeader).namespace
        items = self._table.kv.get(namespace)
        if not items:
            raise QueryNotFoundError(f"No config item, Namespace: {namespace}")
        return response(command, body=dumps(KvTable(items)))

    # --- settings ------------------------------------------------------------------------------------------------

    def get_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        shown = {
            name: _PROPERTIES[field].show(getattr(self.config, field)) for field, name in NAMESRV_SETTING_NAMES.items()
        }
        return response(command, body=encode_java_properties(shown) + b"\n")

    def update_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Changes settings, all that are given or none. Those fixed at start are refused with NO_PERMISSION."""
        changes: dict[str, Any] = {}
        for name, text in decode_java_properties(command.body).items():
            if name in NAMESRV_FIXED_SETTINGS:
                raise NoPermissionError(f"Can not update config in black list: {name}")
            field = _FIELDS.get(name, "")
            item = _PROPERTIES.get(field)
            if item is None or item.parse is None:
                changeable = ", ".join(name for name, field in _FIELDS.items() if _PROPERTIES[field].parse is not None)
                raise NoPermissionError(f"{name[:80]} cannot be changed while the NameServer runs, only {changeable}")
            try:
                changes[field] = item.parse(text)
            except ValueError as error:
                raise ResponseError(f"{name}={text[:80]}: {error}") from None
        self.config = dataclasses.replace(self.config, **changes)
        self._on_config(self.config)
        return response(command)


def _topic_list(command: RemotingCommand, topics: list[str]) -> RemotingCommand:
    return response(command, body=dumps(TopicList(topic_list=topics)))
