"""The route table of one NameServer: who lives, which topics they have. No I/O, no clock of its own.

Times called ``now_s`` are monotonic seconds. What changed here and is not yet in the registry collects in ``changes``.
A member is *direct* when it registered over a connection of this NameServer within its timeout, and *learned* when this
NameServer knows it from the registry only.

Source: RocketMQ 5.3 ``RouteInfoManager``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..codes import Perm
from ..errors import ResponseError
from ..model import MASTER_ID, ORDER_TOPIC_CONFIG, BrokerData, DataVersion, QueueData, TopicConfig, TopicRouteData
from ..protocol.bodies.route import ClusterInfo, encode_route
from ..store.registry.entries import REVISION_FIELD, GroupKey, LiveBroker

logger = logging.getLogger(__name__)

WRITE_WIPED = "WRITE_PERM_WIPED"
"""KV namespace: names of brokers whose topics are not written, whatever they register (205, until 327)."""
UNIT_FLAG = 1
UNIT_SUB_FLAG = 2


@dataclass
class Member:
    """One live broker. ``source`` is the connection that it was last heard over; None: learned."""

    broker: LiveBroker
    heard_s: float
    source: object | None


@dataclass
class Group:
    """One broker group. ``revision``: the registry's topics that are in ``topics`` already."""

    key: GroupKey
    members: dict[int, Member] = field(default_factory=dict)
    topics: dict[str, QueueData] = field(default_factory=dict)
    revision: str = ""


@dataclass
class GroupChanges:
    """What the registry does not know yet of a group.

    Attributes:
        written: ids whose entry is new or different.
        removed: brokerId -> address of brokers that were dropped here.
        topics: names that were set (those the group has) or deleted (the others).
        kind: why, for the other NameServers; see RegistryEvent.
    """

    written: set[int] = field(default_factory=set)
    removed: dict[int, str] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)
    kind: str = "changed"


class RouteTable:
    """All routes.

    Attributes:
        changes: groups that the registry must be told about.
        refreshed: brokers that were heard again, nothing else.
        kv: namespace -> key -> value.
    """

    def __init__(
        self,
        *,
        broker_expiry_s: float = 120.0,
        order_message_enable: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            on_change: called when something was added to ``changes`` or ``refreshed``.
        """
        self.broker_expiry_s = broker_expiry_s
        self.changes: dict[GroupKey, GroupChanges] = {}
        self.refreshed: set[tuple[GroupKey, int]] = set()
        self.kv: dict[str, dict[str, str]] = {}
        self._on_change = on_change
        self._order_message_enable = order_message_enable
        self._groups: dict[GroupKey, Group] = {}
        self._by_topic: dict[str, set[GroupKey]] = {}
        self._bodies: dict[tuple[str, bool], bytes] = {}

    # --- brokers -------------------------------------------------------------------------------------------------

    def register(self, broker: LiveBroker, topics: Mapping[str, TopicConfig], now_s: float, source: object) -> bool:
        """Takes a registration over; topics only from a master.

        The same address under another id of the group goes (a slave became master). Topic entries are replaced when
        the DataVersion differs from the known one, and none is removed because it is missing.

        Returns:
            False: ignored, because another broker with a larger stateVersion holds this id.

        Raises:
            ResponseError: the broker name is alive in another cluster; clients could not tell the two apart.
        """
        self._leave_other_clusters(broker)
        key, broker_id = broker.group, broker.broker_id
        known = self._groups.get(key)
        holder = known.members.get(broker_id) if known else None
        same = holder is not None and holder.broker.broker_addr == broker.broker_addr
        if holder and not same and holder.broker.data_version.state_version > broker.data_version.state_version:
            logger.warning(
                "broker %s:%d at %s: not registered, %s holds the id with a larger stateVersion",
                key.broker_name,
                broker_id,
                broker.broker_addr,
                holder.broker.broker_addr,
            )
            return False
        group = known or self._groups.setdefault(key, Group(key))
        for other_id in [i for i, m in group.members.items() if m.broker.broker_addr == broker.broker_addr]:
            if other_id != broker_id:
                del group.members[other_id]
                self._changes_of(key).removed[other_id] = broker.broker_addr
                self._bodies.clear()
        version_differs = holder is None or not same or holder.broker.data_version != broker.data_version
        if broker_id == MASTER_ID:
            self._take_topics(group, topics, version_differs)
        group.members[broker_id] = Member(broker, now_s, source)
        if holder is None:
            logger.info("broker %s:%d registered at %s", key.broker_name, broker_id, broker.broker_addr)
            self._bodies.clear()
        elif not same:
            logger.warning(
                "broker %s:%d registered at %s in the place of %s: a takeover, or two stores have one broker name",
                key.broker_name,
                broker_id,
                broker.broker_addr,
                holder.broker.broker_addr,
            )
            self._bodies.clear()
        if version_differs or holder is None or _content(holder.broker) != _content(broker):
            changes = self._changes_of(key)
            changes.written.add(broker_id)
            changes.removed.pop(broker_id, None)
        else:
            self.refreshed.add((key, broker_id))
        self._on_change()
        return True

    def _leave_other_clusters(self, broker: LiveBroker) -> None:
        for key, group in list(self._groups.items()):
            if key.broker_name != broker.broker_name or key.cluster == broker.cluster:
                continue
            for member in list(group.members.values()):
                if member.broker.broker_addr == broker.broker_addr:
                    self.remove(key, member.broker.broker_id, broker.broker_addr)
            if group.members:
                raise ResponseError(
                    f"register broker failed: broker name {broker.broker_name} belongs to cluster {key.cluster}, "
                    f"where it is alive; cluster {broker.cluster} needs another name"
                )

    def _take_topics(self, group: Group, topics: Mapping[str, TopicConfig], replace: bool) -> None:
        allowed = ~int(Perm.WRITE) if group.key.broker_name in self.kv.get(WRITE_WIPED, {}) else -1
        for name, config in topics.items():
            if name == REVISION_FIELD or not (replace or name not in group.topics):
                continue
            queue = QueueData(
                group.key.broker_name,
                config.read_queue_nums,
                config.write_queue_nums,
                config.perm & allowed,
                config.topic_sys_flag,
            )
            self._set_topic(group, name, queue)

    def heard(self, key: GroupKey, broker_addr: str, now_s: float, source: object) -> LiveBroker | None:
        """Notes a sign of life of a registered broker. None: not registered."""
        group = self._groups.get(key)
        for broker_id, member in group.members.items() if group else ():
            if member.broker.broker_addr == broker_addr:
                member.heard_s, member.source = now_s, source
                self.refreshed.add((key, broker_id))
                self._on_change()
                return member.broker
        return None

    def remove(
        self,
        key: GroupKey,
        broker_id: int,
        broker_addr: str,
        *,
        source: object | None = None,
        kind: str = "removed",
    ) -> bool:
        """Drops a broker; a group without members goes with its topics.

        Args:
            source: only if it was last heard over this connection.

        Returns:
            Whether it was there, at this address.
        """
        group = self._groups.get(key)
        member = group.members.get(broker_id) if group else None
        if group is None or member is None or member.broker.broker_addr != broker_addr:
            return False
        if source is not None and member.source is not source:
            return False
        changes = self._changes_of(key)
        changes.removed[broker_id] = broker_addr
        changes.written.discard(broker_id)
        changes.kind = kind
        self._drop_member(group, broker_id)
        self._on_change()
        return True

    def _drop_member(self, group: Group, broker_id: int) -> None:
        del group.members[broker_id]
        self._bodies.clear()
        if not group.members:
            for topic in group.topics:
                self._unindex(topic, group.key)
            del self._groups[group.key]
            if group.key in self.changes:  # or the topics of the group that is gone would be deleted one by one
                self.changes[group.key].topics.clear()

    def expire(self, now_s: float, *, registry_up: bool) -> list[LiveBroker]:
        """Drops direct members that were not heard of in time; returns them.

        With the registry up they only become learned: another NameServer may have heard of them, which the next
        ``merge`` tells. Learned members stay: while the registry is away, nobody knows better.
        """
        expired: list[LiveBroker] = []
        for group in list(self._groups.values()):
            for broker_id, member in list(group.members.items()):
                if member.source is None or now_s - member.heard_s <= self.timeout_s(member.broker):
                    continue
                member.source = None
                if not registry_up:
                    expired.append(member.broker)
                    self._drop_member(group, broker_id)
        return expired

    def timeout_s(self, broker: LiveBroker) -> float:
        """After how many seconds without a word a broker is dropped: its own wish, if that is shorter than ours."""
        wish_ms = broker.heartbeat_timeout_millis
        return min(self.broker_expiry_s, wish_ms / 1000) if wish_ms and wish_ms > 0 else self.broker_expiry_s

    def member(self, key: GroupKey, broker_id: int) -> Member | None:
        group = self._groups.get(key)
        return group.members.get(broker_id) if group else None

    # --- topics --------------------------------------------------------------------------------------------------

    def delete_topic(self, topic: str, cluster: str | None = None) -> int:
        """Removes a topic from all groups, or those of one cluster; returns from how many."""
        keys = [key for key in self._by_topic.get(topic, ()) if cluster is None or key.cluster == cluster]
        for key in keys:
            del self._groups[key].topics[topic]
            self._unindex(topic, key)
            self._changes_of(key).topics.add(topic)
        self._forget_bodies(topic)
        if keys:
            self._on_change()
        return len(keys)

    def register_topic(self, topic: str, queue_datas: Iterable[QueueData]) -> None:
        """Sets a topic's queues in groups that are alive; others are ignored."""
        groups = {key.broker_name: group for key, group in self._groups.items()}
        for queue in queue_datas:
            group = groups.get(queue.broker_name)
            if group is None:
                logger.warning("topic %s: not registered for %s, no such broker", topic, queue.broker_name)
            elif topic != REVISION_FIELD:
                self._set_topic(group, topic, queue)
        self._on_change()

    def set_write_perm(self, broker_name: str, writable: bool) -> int:
        """Gives or takes the write bit of all topics of a group; returns how many topics it has."""
        count = 0
        for key, group in self._groups.items():
            if key.broker_name != broker_name:
                continue
            for topic, queue in list(group.topics.items()):
                count += 1
                perm = queue.perm | Perm.WRITE if writable else queue.perm & ~Perm.WRITE
                self._set_topic(
                    group,
                    topic,
                    QueueData(
                        broker_name, queue.read_queue_nums, queue.write_queue_nums, int(perm), queue.topic_sys_flag
                    ),
                )
        self._on_change()
        return count

    def _set_topic(self, group: Group, topic: str, queue: QueueData) -> None:
        if group.topics.get(topic) == queue:
            return
        group.topics[topic] = queue
        self._by_topic.setdefault(topic, set()).add(group.key)
        self._changes_of(group.key).topics.add(topic)
        self._forget_bodies(topic)

    def _unindex(self, topic: str, key: GroupKey) -> None:
        keys = self._by_topic.get(topic)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._by_topic[topic]

    def _forget_bodies(self, topic: str) -> None:
        self._bodies.pop((topic, True), None)
        self._bodies.pop((topic, False), None)

    # --- answers -------------------------------------------------------------------------------------------------

    def route_body(self, topic: str, *, standard_json: bool) -> bytes | None:
        """A topic's route, encoded. None: nobody has the topic."""
        body = self._bodies.get((topic, standard_json))
        if body is None:
            route = self.route(topic)
            if route is None:
                return None
            body = self._bodies[topic, standard_json] = encode_route(route, standard_json=standard_json)
        return body

    def route(self, topic: str) -> TopicRouteData | None:
        """A topic's route: groups by name. None: nobody has the topic."""
        keys = self._by_topic.get(topic)
        if not keys:
            return None
        groups = {key.broker_name: self._groups[key] for key in sorted(keys, reverse=True)}  # one per name: the first
        names = sorted(groups)
        order = self.kv.get(ORDER_TOPIC_CONFIG, {}).get(topic) if self._order_message_enable else None
        return TopicRouteData(
            [self._broker_data(groups[name]) for name in names],
            [groups[name].topics[topic] for name in names],
            order,
        )

    @staticmethod
    def _broker_data(group: Group) -> BrokerData:
        addresses = {broker_id: group.members[broker_id].broker.broker_addr for broker_id in sorted(group.members)}
        zones = [group.members[broker_id].broker.zone for broker_id in addresses]
        return BrokerData(group.key.cluster, group.key.broker_name, addresses, next(filter(None, zones), ""))

    def cluster_info(self) -> ClusterInfo:
        """All groups and clusters, by name."""
        clusters: dict[str, list[str]] = {}
        brokers: dict[str, BrokerData] = {}
        for key in sorted(self._groups):
            clusters.setdefault(key.cluster, []).append(key.broker_name)
            brokers.setdefault(key.broker_name, self._broker_data(self._groups[key]))
        return ClusterInfo(dict(sorted(brokers.items())), clusters)

    def addresses_of(self, key: GroupKey) -> dict[int, str]:
        """brokerId -> address, ids ascending; empty for an unknown group."""
        group = self._groups.get(key)
        return self._broker_data(group).broker_addrs if group else {}

    def topics(self, cluster: str | None = None) -> list[str]:
        """Names of all topics, or of those that groups of one cluster have, sorted."""
        return sorted(
            topic
            for topic, keys in self._by_topic.items()
            if cluster is None or any(key.cluster == cluster for key in keys)
        )

    def unit_topics(self, *, unit: bool | None, unit_sub: bool | None) -> list[str]:
        """Topics by the unit bits of their ``topicSysFlag``; None: either. Sorted."""

        def matches(flag: int) -> bool:
            return (unit is None or bool(flag & UNIT_FLAG) is unit) and (
                unit_sub is None or bool(flag & UNIT_SUB_FLAG) is unit_sub
            )

        return sorted(
            topic
            for topic, keys in self._by_topic.items()
            if any(matches(self._groups[key].topics[topic].topic_sys_flag) for key in keys)
        )

    # --- KV and settings -----------------------------------------------------------------------------------------

    def set_kv(self, table: dict[str, dict[str, str]]) -> None:
        """Replaces all KV config."""
        if table.get(ORDER_TOPIC_CONFIG) != self.kv.get(ORDER_TOPIC_CONFIG):
            self._bodies.clear()
        wiped = table.get(WRITE_WIPED, {}).keys() - self.kv.get(WRITE_WIPED, {}).keys()
        self.kv = table
        for broker_name in wiped:
            self.set_write_perm(broker_name, False)

    @property
    def order_message_enable(self) -> bool:
        """Whether routes carry the topic's ORDER_TOPIC_CONFIG entry."""
        return self._order_message_enable

    @order_message_enable.setter
    def order_message_enable(self, value: bool) -> None:
        self._order_message_enable = value
        self._bodies.clear()

    # --- for SharedRouteTable ------------------------------------------------------------------------------------

    def _changes_of(self, key: GroupKey) -> GroupChanges:
        return self.changes.setdefault(key, GroupChanges())


def _content(broker: LiveBroker) -> tuple[str, str, DataVersion, str | None, bool | None, int | None]:
    """All of an entry but the time of its registration."""
    return (
        broker.broker_addr,
        broker.ha_server_addr,
        broker.data_version,
        broker.zone,
        broker.enable_acting_master,
        broker.heartbeat_timeout_millis,
    )
