"""Answers clients and tools from the route table. Only a change of write permissions waits for the registry.

Source: RocketMQ 5.3 ``namesrv/processor/DefaultRequestProcessor``, ``ClientRequestProcessor``.
"""

from __future__ import annotations

from ..codes import VERSION_4_9_4, RequestCode, ResponseCode
from ..plugins.hookspecs import RouteFilter, RouteRequest
from ..protocol.bodies.base import dumps
from ..protocol.bodies.route import decode_route, encode_cluster_info, encode_route
from ..protocol.bodies.topics import BrokerMemberGroup, BrokerMembers, TopicList
from ..protocol.command import RemotingCommand, response
from ..protocol.headers.admin import TopicRequestHeader
from ..protocol.headers.registration import (
    AddWritePermResponseHeader,
    BrokerNameRequestHeader,
    WipeWritePermResponseHeader,
)
from ..protocol.headers.route import BrokerMemberGroupRequestHeader, ClusterRequestHeader, GetRouteInfoRequestHeader
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..store.registry.entries import GroupKey, check_storable
from .kv_config import KvConfigProcessor
from .routes import WRITE_WIPED, RouteTable


class RouteProcessor:
    """Answers clients and tools from the route table."""

    def __init__(self, table: RouteTable, kv: KvConfigProcessor, route_filter: RouteFilter | None) -> None:
        """
        Args:
            route_filter: what each client is shown of a route; None: all.
        """
        self._table = table
        self._kv = kv
        self._route_filter = route_filter

    def processors(self) -> dict[int, Processor]:
        """Handlers by request code."""
        return {
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self.get_route_info,
            RequestCode.GET_BROKER_CLUSTER_INFO: self.get_broker_cluster_info,
            RequestCode.WIPE_WRITE_PERM_OF_BROKER: self.wipe_write_perm,
            RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self.get_all_topic_list,
            RequestCode.DELETE_TOPIC_IN_NAMESRV: self.delete_topic,
            RequestCode.REGISTER_TOPIC_IN_NAMESRV: self.register_topic,
            RequestCode.GET_TOPICS_BY_CLUSTER: self.get_topics_by_cluster,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS: self.get_system_topic_list,
            RequestCode.GET_UNIT_TOPIC_LIST: self.get_unit_topic_list,
            RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST: self.get_has_unit_sub_topic_list,
            RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST: self.get_has_unit_sub_ununit_topic_list,
            RequestCode.ADD_WRITE_PERM_OF_BROKER: self.add_write_perm,
            RequestCode.GET_BROKER_MEMBER_GROUP: self.get_broker_member_group,
        }

    # --- clients -------------------------------------------------------------------------------------------------

    def get_route_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(GetRouteInfoRequestHeader)
        standard_json = bool(header.accept_standard_json_only) or command.version >= VERSION_4_9_4
        body = self._table.route_body(header.topic, standard_json=standard_json)
        if body is None:
            return response(
                command,
                ResponseCode.TOPIC_NOT_EXIST,
                remark=f"No topic route info in name server for the topic: {header.topic}\n"
                "Create the topic, or see by clusterList whether its brokers are registered.",
            )
        if self._route_filter:
            route = self._table.route(header.topic)
            assert route, header.topic
            shown = self._route_filter(RouteRequest(header.topic, connection.remote_address, command.ext_fields), route)
            if shown != route:
                body = encode_route(shown, standard_json=standard_json)
        return response(command, body=body)

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
        """Holds until ``add_write_perm``, even if the broker registers again. StoreError becomes code 14."""
        broker_name = command.header(BrokerNameRequestHeader).broker_name
        check_storable(broker_name)
        count = self._table.set_write_perm(broker_name, False)
        if count:
            await self._kv.put(WRITE_WIPED, broker_name, "true")
        return response(command, header=WipeWritePermResponseHeader(count))

    async def add_write_perm(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        broker_name = command.header(BrokerNameRequestHeader).broker_name
        check_storable(broker_name)
        if broker_name in self._table.kv.get(WRITE_WIPED, {}):
            await self._kv.delete(WRITE_WIPED, broker_name)
        count = self._table.set_write_perm(broker_name, True)
        return response(command, header=AddWritePermResponseHeader(count))


def _topic_list(command: RemotingCommand, topics: list[str]) -> RemotingCommand:
    return response(command, body=dumps(TopicList(topic_list=topics)))
