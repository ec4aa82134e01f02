"""HEART_BEAT, UNREGISTER_CLIENT, GET_CONSUMER_LIST_BY_GROUP, CHECK_CLIENT_CONFIG: the connected clients, in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from ...background import Every
from ...codes import RequestCode
from ...errors import (
    InvalidParameterError,
    LocalProtocolError,
    ResponseError,
)
from ...protocol.bodies.base import dumps
from ...protocol.bodies.clients import ClientConfigCheck, ConsumerIds
from ...protocol.bodies.heartbeat import ConsumerData, HeartbeatData, SubscriptionData, decode_heartbeat
from ...protocol.command import RemotingCommand, request, response
from ...protocol.headers.clients import ConsumerGroupRequestHeader, UnregisterClientRequestHeader
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ..filter.subscription import TAG, message_filter
from .heartbeat_bounds import MAX_GROUPS, MAX_MEMBERS, check_heartbeat
from .member_watch import MemberWatch, ProducerWatch, signature_of
from .members import Member, remove_member, remove_older
from .state import GroupState

logger = logging.getLogger(__name__)

_ATTACHED = "client_groups"
_PRODUCER_IDS = "producer_ids"
_CONSUMER_GROUPS = "consumer_groups"
_PRODUCER_GROUPS = "producer_groups"
_EXPIRE_PERIOD_S = 10.0
"""How late a silent client may be dropped. Source: ``ClientHousekeepingService``."""


class ConsumerGroup:
    """The live members of a consumer group and what it subscribes to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.consume_type = "CONSUME_PASSIVELY"
        self.message_model = "CLUSTERING"
        self.consume_from_where = "CONSUME_FROM_LAST_OFFSET"
        self.members: dict[Connection, dict[str, Member]] = {}
        self.subscriptions: dict[str, SubscriptionData] = {}
        self.watch = MemberWatch(name)

    def warnings(self) -> list[str]:
        """Reasons why its members cannot work together, in sentences for an operator."""
        return self.watch.warnings(self.members)

    def client_ids(self) -> list[str]:
        """Ids of the members, sorted, each once (two connections may carry one client id)."""
        return sorted({client_id for members in self.members.values() for client_id in members})


class ClientManager:
    """Producers and consumers by group, from their heartbeats; a closed connection leaves its groups at once."""

    def __init__(
        self, state: GroupState, on_expression_changed: Callable[[str, str], None] = lambda group, topic: None
    ) -> None:
        """
        Args:
            on_expression_changed: called with (group, topic) when a heartbeat adds a subscription or changes its
                expression.
        """
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._loop = asyncio.get_running_loop()
        self._expiring = Every(
            min(_EXPIRE_PERIOD_S, state.config.client_expiry_s / 4), self._expire, "dropping silent clients"
        )
        self._on_expression_changed = on_expression_changed
        self.consumer_groups: dict[str, ConsumerGroup] = {}
        self.producer_groups: dict[str, dict[Connection, dict[str, Member]]] = {}
        self._producers: dict[str, Connection] = {}
        self._producer_watch = ProducerWatch()

    def start(self) -> None:
        self._expiring.start()

    def close(self) -> None:
        self._expiring.cancel()

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.HEART_BEAT: self._heartbeat,
            RequestCode.UNREGISTER_CLIENT: self._unregister,
            RequestCode.GET_CONSUMER_LIST_BY_GROUP: self._consumer_list,
            RequestCode.CHECK_CLIENT_CONFIG: self._check_client_config,
        }

    def subscription(self, group: str, topic: str) -> SubscriptionData | None:
        """The group's subscription to a topic, from its last heartbeat; None if it has none."""
        known = self.consumer_groups.get(group)
        return None if known is None else known.subscriptions.get(topic)

    def member(self, group: str, client_id: str) -> Member | None:
        """A member of a consumer group by its client id; None if it is not connected."""
        known = self.consumer_groups.get(group)
        if known:
            for members in known.members.values():
                if client_id in members:
                    return members[client_id]
        return None

    def is_broadcasting(self, group: str) -> bool:
        """Whether the message model of the group's last heartbeat is BROADCASTING."""
        known = self.consumer_groups.get(group)
        return bool(known and known.message_model == "BROADCASTING")

    def find_producer(self, client_id: str) -> Connection | None:
        """The connection of the producer with this client id; None if it is not connected."""
        connection = self._producers.get(client_id)
        return None if connection is None or connection.closed else connection

    # --- heartbeats --------------------------------------------------------------------------------------------------

    def _heartbeat(
        self, connection: Connection, command: RemotingCommand
    ) -> RemotingCommand | Awaitable[RemotingCommand]:
        heartbeat = decode_heartbeat(command.body)
        check_heartbeat(heartbeat)
        self._check_total(connection, heartbeat)
        if all(self._known(consumer) for consumer in heartbeat.consumer_data_set):
            return self._beat(connection, command, heartbeat)
        return self._ensure_groups_then_beat(connection, command, heartbeat)

    def _check_total(self, connection: Connection, heartbeat: HeartbeatData) -> None:
        """Raises InvalidParameterError if a connection's heartbeats together name too many groups or members."""
        consumers, producers = self._groups_of(connection)
        groups = len(consumers | {data.group_name for data in heartbeat.consumer_data_set}) + len(
            producers | {data.group_name for data in heartbeat.producer_data_set}
        )
        if groups > MAX_GROUPS:
            raise InvalidParameterError(
                f"this connection's heartbeats name {groups} groups; at most {MAX_GROUPS} are allowed"
            )
        members = len(heartbeat.consumer_data_set) + len(heartbeat.producer_data_set)
        for by_id in self._members_of(connection):
            members += len(by_id) - (heartbeat.client_id in by_id)
        if members > MAX_MEMBERS:
            raise InvalidParameterError(
                f"this connection's heartbeats make {members} members of groups; at most {MAX_MEMBERS} are allowed"
            )

    @staticmethod
    def _groups_of(connection: Connection) -> tuple[set[str], set[str]]:
        attachments = connection.attachments
        return attachments.get(_CONSUMER_GROUPS, set()), attachments.get(_PRODUCER_GROUPS, set())

    def _members_of(self, connection: Connection) -> Iterator[dict[str, Member]]:
        """A connection's members in each of its groups, by client id."""
        consumers, producers = self._groups_of(connection)
        for name in consumers:
            if group := self.consumer_groups.get(name):
                yield group.members.get(connection, {})
        for name in producers:
            yield self.producer_groups.get(name, {}).get(connection, {})

    def _known(self, consumer: ConsumerData) -> bool:
        name = consumer.group_name
        return name in self._topics.groups and (not self._office.is_master or self._auto_creation.has_retry_topic(name))

    async def _ensure_groups_then_beat(
        self, connection: Connection, command: RemotingCommand, heartbeat: HeartbeatData
    ) -> RemotingCommand:
        is_slave = not self._office.is_master
        if is_slave:
            await self._topics.reload()
        for consumer in heartbeat.consumer_data_set:
            if not is_slave and not connection.closed:
                await self._auto_creation.ensure_group(consumer.group_name, registered=False)
        for consumer in heartbeat.consumer_data_set:  # only after all are created: one registration has all topics
            await self._auto_creation.retry_topic_registered(consumer.group_name)
        return self._beat(connection, command, heartbeat)

    def _beat(self, connection: Connection, command: RemotingCommand, heartbeat: HeartbeatData) -> RemotingCommand:
        if connection.closed:  # it closed while its groups were created
            return response(command)
        self._check_total(connection, heartbeat)  # again, as other heartbeats may have arrived meanwhile
        now = self._loop.time()
        member = Member(connection, heartbeat.client_id, command.language, command.version, now)
        names = connection.attachments.setdefault(_PRODUCER_GROUPS, set())
        for producer in heartbeat.producer_data_set:
            names.add(producer.group_name)
            self.producer_groups.setdefault(producer.group_name, {}).setdefault(connection, {})[member.client_id] = (
                member
            )
        if heartbeat.producer_data_set:
            ids = connection.attachments.setdefault(_PRODUCER_IDS, set())
            latest = self._producers.get(member.client_id)
            if latest not in (None, connection) and member.client_id in ids:
                self._producer_watch.shared(member, latest)
            self._producers[member.client_id] = connection
            ids.add(member.client_id)
        for consumer in heartbeat.consumer_data_set:
            self._join(member, consumer, keep_subscriptions=heartbeat.without_sub)
        connection.attachments[_ATTACHED] = True
        return response(command)

    def _join(self, member: Member, consumer: ConsumerData, *, keep_subscriptions: bool) -> None:
        group = self.consumer_groups.get(consumer.group_name)
        if group is None:
            group = self.consumer_groups[consumer.group_name] = ConsumerGroup(consumer.group_name)
        group.consume_type = consumer.consume_type
        group.message_model = consumer.message_model
        group.consume_from_where = consumer.consume_from_where
        member.connection.attachments.setdefault(_CONSUMER_GROUPS, set()).add(group.name)
        known = group.members.setdefault(member.connection, {})
        before = known.get(member.client_id)
        changed = is_new = before is None
        signature = before.signature if before and keep_subscriptions else signature_of(consumer.subscription_data_set)
        member = known[member.client_id] = msgspec.structs.replace(
            member, signature=signature, message_model=consumer.message_model
        )
        group.watch.heard(member, was_member=not is_new, members=group.members)
        if is_new:
            logger.info("consumer group %s: %s joined from %s", group.name, member.client_id, _peer(member))
        if not keep_subscriptions and self._subscribe(group, consumer):
            changed = True
        if changed and consumer.message_model != "BROADCASTING":
            self._notify(group)

    def _subscribe(self, group: ConsumerGroup, consumer: ConsumerData) -> bool:
        """Stores a heartbeat's subscriptions unless newer ones are known; returns whether the set of topics changed."""
        changed = False
        topics = set()
        for subscription in consumer.subscription_data_set:
            topics.add(subscription.topic)
            known = group.subscriptions.get(subscription.topic)
            if known is None:
                changed = True
                group.subscriptions[subscription.topic] = subscription
                self._on_expression_changed(group.name, subscription.topic)  # an earlier one may have had another
            elif subscription.sub_version > known.sub_version:
                group.subscriptions[subscription.topic] = subscription
                if _expression(subscription) != _expression(known):
                    self._on_expression_changed(group.name, subscription.topic)
        for gone in group.subscriptions.keys() - topics:
            changed = True
            del group.subscriptions[gone]
        return changed

    def _unregister(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(UnregisterClientRequestHeader)
        if header.producer_group:
            members = self.producer_groups.get(header.producer_group, {})
            if remove_member(members, connection, header.client_id):
                self._producer_left(header.producer_group, connection, header.client_id)
        if header.consumer_group:
            group = self.consumer_groups.get(header.consumer_group)
            if group and remove_member(group.members, connection, header.client_id):
                self._consumers_left(group, [(connection, header.client_id)])
        return response(command)

    def _producer_left(self, name: str, connection: Connection, client_id: str) -> None:
        _, producers = self._groups_of(connection)
        members = self.producer_groups.get(name, {})
        if connection not in members:  # no other client id of this connection is in the group
            producers.discard(name)
        if not members:
            self.producer_groups.pop(name, None)
        if not any(client_id in self.producer_groups[other].get(connection, ()) for other in producers):
            connection.attachments.get(_PRODUCER_IDS, set()).discard(client_id)
            if self._producers.get(client_id) is connection:
                del self._producers[client_id]

    def _consumers_left(self, group: ConsumerGroup, gone: list[tuple[Connection, str]]) -> None:
        for connection, _ in gone:
            if connection not in group.members:
                connection.attachments.get(_CONSUMER_GROUPS, set()).discard(group.name)
        if gone:
            self._left(group, ", ".join(client_id for _, client_id in gone))

    def connection_closed(self, connection: Connection) -> None:
        """Removes a closed connection from all its groups."""
        if not connection.attachments.pop(_ATTACHED, False):
            return
        for client_id in connection.attachments.pop(_PRODUCER_IDS, ()):
            if self._producers.get(client_id) is connection:
                del self._producers[client_id]
        for name in connection.attachments.pop(_PRODUCER_GROUPS, ()):
            members = self.producer_groups.get(name, {})
            members.pop(connection, None)
            if not members:
                self.producer_groups.pop(name, None)
        for name in connection.attachments.pop(_CONSUMER_GROUPS, ()):
            group = self.consumer_groups.get(name)
            gone = None if group is None else group.members.pop(connection, None)
            if group and gone:
                self._left(group, ", ".join(gone))

    def _left(self, group: ConsumerGroup, client_id: str) -> None:
        logger.info("consumer group %s: %s left", group.name, client_id)
        if not group.members:
            del self.consumer_groups[group.name]
        elif group.message_model != "BROADCASTING":
            self._notify(group)

    def notify(self, name: str) -> bool:
        """Makes the members of a group rebalance now; False if none is online, or they are broadcasting."""
        group = self.consumer_groups.get(name)
        if group is None or group.message_model == "BROADCASTING":
            return False
        self._notify(group)
        return True

    def _notify(self, group: ConsumerGroup) -> None:
        """Notifies all members of a membership change (40), so that they rebalance now, not at their next turn."""
        config = self._topics.group(group.name)
        if config and not config.notify_consumer_ids_changed_enable:
            return
        for connection in group.members:
            command = request(
                RequestCode.NOTIFY_CONSUMER_IDS_CHANGED,
                ConsumerGroupRequestHeader(group.name),
                opaque=connection.next_opaque(),
                oneway=True,
            )
            try:
                connection.write_command(command)
            except LocalProtocolError as error:
                logger.error("consumer group %s: %s", group.name, error)

    async def _expire(self) -> None:
        oldest = self._loop.time() - self._config.client_expiry_s
        for group in list(self.consumer_groups.values()):
            self._consumers_left(group, remove_older(group.members, oldest))
            group.watch.forget(group.members, oldest)
        for name, members in list(self.producer_groups.items()):
            for connection, client_id in remove_older(members, oldest):
                self._producer_left(name, connection, client_id)

    def _consumer_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumerGroupRequestHeader)
        group = self.consumer_groups.get(header.consumer_group)
        if group is None or not group.members:
            # An error, not an empty list: the client retries instead of releasing its queues.
            raise ResponseError(f"no consumer of the group {header.consumer_group!r} is connected to this broker")
        return response(command, body=dumps(ConsumerIds(group.client_ids())))

    def _check_client_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        subscription = ClientConfigCheck.decode(command.body).subscription_data
        if subscription and subscription.expression_type != TAG:
            message_filter(subscription.sub_string, subscription.expression_type)
        return response(command)


def _expression(subscription: SubscriptionData) -> tuple[str, str]:
    return subscription.expression_type or TAG, subscription.sub_string


def _peer(member: Member) -> str:
    return member.connection.remote_address
