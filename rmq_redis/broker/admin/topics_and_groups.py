"""Admin requests about topics, groups, statistics, connections and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec

from ...codes import RequestCode, ResponseCode
from ...errors import (
    ConsumerNotOnlineError,
    NoPermissionError,
    ResponseError,
    SubscriptionGroupNotExistError,
    TopicNotExistError,
)
from ...model import TopicConfig
from ...protocol.bodies.base import decode_struct, dumps
from ...protocol.bodies.clients import ClientConnection, ConsumerConnection, ProducerConnection
from ...protocol.bodies.java_properties import camel_case, encode_java_properties
from ...protocol.bodies.progress import ConsumerOffsetTable
from ...protocol.bodies.registration import TopicConfigTable
from ...protocol.bodies.topics import (
    GroupConfigList,
    GroupList,
    SubscriptionGroupTable,
    TopicConfigList,
    TopicList,
)
from ...protocol.command import RemotingCommand, response
from ...protocol.group_config import SubscriptionGroupConfig
from ...protocol.headers.admin import (
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    GroupRequestHeader,
    TopicRequestHeader,
)
from ...protocol.headers.clients import ConsumerGroupRequestHeader, ProducerGroupRequestHeader
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...remoting.turn import dumps_in_turns
from ..group.clients import ClientManager
from ..group.members import Member
from ..group.retention import RetentionService
from ..group.state import GroupState
from ..group.topic_attributes import altered, parse_changes
from ..group.topics import Topic
from ..statistics import BrokerStatistics
from .consumers import language_name


class AdminProcessor:
    """Administration of one broker. A slave answers requests that only read."""

    def __init__(
        self, state: GroupState, clients: ClientManager, retention: RetentionService, statistics: BrokerStatistics
    ) -> None:
        self._config = state.config
        self._office = state.office
        self._broker_addr = state.address
        self._topics = state.topics
        self._offsets = state.offsets
        self._clients = clients
        self._retention = retention
        self._statistics = statistics

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.UPDATE_AND_CREATE_TOPIC: self._put_topic,
            RequestCode.UPDATE_AND_CREATE_TOPIC_LIST: self._put_topics,
            RequestCode.DELETE_TOPIC_IN_BROKER: self._delete_topic,
            RequestCode.GET_ALL_TOPIC_CONFIG: self._all_topics,
            RequestCode.GET_TOPIC_CONFIG: self._get_topic,
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: self._put_group,
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: self._put_groups,
            RequestCode.DELETE_SUBSCRIPTIONGROUP: self._delete_group,
            RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: self._all_groups,
            RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG: self._get_group,
            RequestCode.GET_CONSUMER_CONNECTION_LIST: self._consumer_connections,
            RequestCode.GET_PRODUCER_CONNECTION_LIST: self._producer_connections,
            RequestCode.QUERY_TOPIC_CONSUME_BY_WHO: self._consumed_by,
            RequestCode.QUERY_TOPICS_BY_CONSUMER: self._topics_of_group,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER: self._system_topics,
            RequestCode.GET_ALL_CONSUMER_OFFSET: self._all_offsets,
            RequestCode.DELETE_EXPIRED_COMMITLOG: self._remove_expired,
            RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE: self._remove_expired,
            RequestCode.GET_BROKER_CONFIG: self._get_config,
            RequestCode.UPDATE_BROKER_CONFIG: self._update_config,
        }

    def _must_write(self) -> None:
        if not self._office.is_master:
            raise NoPermissionError("this broker is a slave; send the request to the group's master")

    # --- topics --------------------------------------------------------------------------------------------------

    async def _put_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._must_write()
        header = command.header(CreateTopicRequestHeader)
        attributes = self._attributes(header.topic, parse_changes(header.attributes))
        await self._topics.put(
            TopicConfig(
                topic_name=header.topic,
                read_queue_nums=header.read_queue_nums,
                write_queue_nums=header.write_queue_nums,
                perm=header.perm,
                topic_filter_type=header.topic_filter_type,
                topic_sys_flag=header.topic_sys_flag or 0,
                order=header.order,
                attributes=attributes,
            )
        )
        return response(command)

    async def _put_topics(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._must_write()
        wanted = TopicConfigList.decode(command.body).topic_config_list
        altered_attributes = [self._attributes(config.topic_name, config.attributes) for config in wanted]
        for config, attributes in zip(wanted, altered_attributes, strict=True):
            await self._topics.put(msgspec.structs.replace(config, attributes=attributes))
        return response(command)

    def _attributes(self, topic: str, changes: Mapping[str, str]) -> dict[str, str]:
        known = self._topics.topics.get(topic)
        current = None if known is None else known.config.attributes
        return altered(current, changes, allow_mixed=self._config.enable_mixed_message_type)

    async def _delete_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        topic = command.header(TopicRequestHeader).topic
        if self._office.is_master:  # tools send it to slaves, too; these follow their master
            await self._topics.delete(topic)
            self._statistics.forget_topic(topic)
        return response(command)

    async def _all_topics(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        table = TopicConfigTable(self._topics.configs(), self._topics.data_version)
        return response(command, body=await dumps_in_turns(table))

    def _topic(self, name: str) -> Topic:
        topic = self._topics.topics.get(name)
        if topic is None:
            raise TopicNotExistError(f"the topic {name!r} does not exist on this broker")
        return topic

    def _get_topic(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return response(command, body=dumps(self._topic(command.header(TopicRequestHeader).topic).config))

    # --- groups --------------------------------------------------------------------------------------------------

    async def _put_group(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._must_write()
        await self._topics.put_group(decode_struct(command.body, SubscriptionGroupConfig))
        return response(command)

    async def _put_groups(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._must_write()
        for config in GroupConfigList.decode(command.body).group_config_list:
            await self._topics.put_group(config)
        return response(command)

    async def _delete_group(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._must_write()
        header = command.header(DeleteSubscriptionGroupRequestHeader)
        await self._topics.delete_group(header.group_name, clean_offsets=header.clean_offset)
        self._statistics.forget_group(header.group_name)
        return response(command)

    async def _all_groups(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        table = SubscriptionGroupTable(
            data_version=self._topics.data_version, subscription_group_table=self._topics.groups
        )
        return response(command, body=await dumps_in_turns(table))

    def _get_group(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        name = command.header(GroupRequestHeader).group
        config = self._topics.group(name)
        if config is None:
            raise SubscriptionGroupNotExistError(f"the consumer group {name!r} does not exist on this broker")
        return response(command, body=dumps(config))

    # --- connections, subscriptions, settings ------------------------------------------------------------------------

    async def _consumer_connections(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        name = command.header(ConsumerGroupRequestHeader).consumer_group
        group = self._clients.consumer_groups.get(name)
        if group is None:
            raise ConsumerNotOnlineError(f"no consumer of the group {name!r} is connected to this broker")
        body = ConsumerConnection(
            connection_set=[_connection(m) for members in group.members.values() for m in members.values()],
            consume_from_where=group.consume_from_where,
            consume_type=group.consume_type,
            message_model=group.message_model,
            warnings=group.warnings(),
            subscription_table=group.subscriptions,
        )
        return response(command, body=await dumps_in_turns(body))

    async def _producer_connections(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        name = command.header(ProducerGroupRequestHeader).producer_group
        members = self._clients.producer_groups.get(name)
        if not members:
            raise ResponseError(f"no producer of the group {name!r} is connected to this broker")
        body = ProducerConnection([_connection(m) for by_id in members.values() for m in by_id.values()])
        return response(command, body=await dumps_in_turns(body))

    def _consumed_by(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        topic = command.header(TopicRequestHeader).topic
        groups = set(self._offsets.groups_of(topic))
        groups.update(g.name for g in self._clients.consumer_groups.values() if topic in g.subscriptions)
        return response(command, body=dumps(GroupList(sorted(groups))))

    def _topics_of_group(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        group = command.header(GroupRequestHeader).group
        topics = set(self._offsets.topics_of(group))
        live = self._clients.consumer_groups.get(group)
        if live:
            topics.update(live.subscriptions)
        return response(command, body=dumps(TopicList(topic_list=sorted(topics))))

    def _system_topics(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        names = sorted(name for name in self._topics.topics if self._topics.is_system(name))
        return response(command, body=dumps(TopicList(topic_list=names)))

    async def _all_offsets(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        table = {f"{topic}@{group}": queues for (group, topic), queues in self._offsets.table().items()}
        body = ConsumerOffsetTable(data_version=self._topics.data_version, offset_table=table)
        return response(command, body=await dumps_in_turns(body))

    def _remove_expired(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._retention.look_now()  # no effect on a slave, which follows its master
        return response(command)

    def _get_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        settings = {
            "brokerClusterName": self._config.cluster_name,
            "brokerIP1": self._broker_addr.rpartition(":")[0],
        }
        for field in dataclasses.fields(self._config):
            if field.name in ("store", "store_replica"):  # may hold a password
                continue
            value = getattr(self._config, field.name)
            settings[camel_case(field.name)] = str(value).lower() if isinstance(value, bool) else str(value)
        answer = response(command, ResponseCode.SUCCESS, body=encode_java_properties(settings))
        answer.fields = {"version": dumps(self._topics.data_version).decode()}
        return answer

    def _update_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return response(
            command,
            ResponseCode.NO_PERMISSION,
            remark="settings are changed by flags or RMQ_REDIS_ variables and a restart of the broker",
        )


def _connection(member: Member) -> ClientConnection:
    return ClientConnection(
        client_addr=member.connection.remote_address,
        client_id=member.client_id,
        language=language_name(member),
        version=member.version,
    )
