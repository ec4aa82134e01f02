"""The route table of one NameServer: which brokers are alive, which topics they have. No I/O, no clock of its own.

Times called ``now_s`` are monotonic seconds. ``changes`` collects what changed here and is not yet in the registry.
A member is *direct* when it registered over a connection of this NameServer within its timeout, and *learned* when this
NameServer knows it from the registry only.

Source: RocketMQ 5.3 ``RouteInfoManager``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from ..codes import Perm
from ..errors import ResponseError
from ..model import MASTER_ID, ORDER_TOPIC_CONFIG, BrokerData, DataVersion, QueueData, TopicConfig, TopicRouteData
from ..protocol.bodies.route import ClusterInfo, encode_route
from ..store.registry.entries import REVISION_FIELD, GroupKey, LiveBroker
from .groups import Group, GroupChanges, Member

logger = logging.getLogger(__name__)

WRITE_WIPED = "WRITE_PERM_WIPED"
"""KV namespace: brokers whose topics are read-only whatever they register: from request 205 until 327."""
_UNIT_FLAG = 1 << 0
"""Bit of ``topicSysFlag``. Source: ``TopicSysFlag.FLAG_UNIT``."""
_UNIT_SUB_FLAG = 1 << 1
"""Bit of ``topicSysFlag``. Source: ``TopicSysFlag.FLAG_UNIT_SUB``."""


class RouteTable:
    """All routes.

    Attributes:
        changes: groups with changes to write to the registry.
        refreshed: brokers that were heard again and did not change.
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
        """Registers a broker, and its topics if it is a master.

        Another id of the group with the same address is dropped (a slave became master). Topic entries are replaced if
        the DataVersion differs from the known one; none is removed because it is missing.

        Returns:
            False: ignored, because another broker with a larger stateVersion holds this id.

        Raises:
            ResponseError: the broker name is alive in another cluster; clients could not tell the two apart.
        """
        self._leave_other_clusters(broker)
        key, broker_id = broker.group, broker.broker_id
        known = self.member(key, broker_id)
        holder = known.broker if known else None
        if holder and _outranks(holder, broker):
            logger.warning(
                "broker %s:%d at %s: not registered, %s holds the id with a larger stateVersion",
                key.broker_name,
                broker_id,
                broker.broker_addr,
                holder.broker_addr,
            )
            return False
        group = self._groups.setdefault(key, Group(key))
        self._leave_other_ids(group, broker)
        if broker_id == MASTER_ID:
            self._take_topics(group, topics, replace=not holder or _version(holder) != _version(broker))
        group.members[broker_id] = Member(broker, now_s, source)
        if not holder or holder.broker_addr != broker.broker_addr:
            self._address_changed(broker, holder)
        if not holder or _content(holder) != _content(broker):
            changes = self._changes_of(key)
            changes.written.add(broker_id)
            changes.removed.pop(broker_id, None)
        else:
            self.refreshed.add((key, broker_id))
        self._on_change()
        return True

    def _address_changed(self, broker: LiveBroker, holder: LiveBroker | None) -> None:
        self._bodies.clear()
        if holder is None:
            logger.info("broker %s:%d registered at %s", broker.broker_name, broker.broker_id, broker.broker_addr)
        else:
            logger.warning(
                "broker %s:%d registered at %s and replaced %s: a takeover, or two stores have the same broker name",
                broker.broker_name,
                broker.broker_id,
                broker.broker_addr,
                holder.broker_addr,
            )

    def _leave_other_ids(self, group: Group, broker: LiveBroker) -> None:
        for other_id in group.ids_at(broker.broker_addr):
            if other_id != broker.broker_id:
                del group.members[other_id]
                self._changes_of(group.key).removed[other_id] = broker.broker_addr
                self._bodies.clear()

    def _leave_other_clusters(self, broker: LiveBroker) -> None:
        for key, group in list(self._groups.items()):
            if key.broker_name != broker.broker_name or key.cluster == broker.cluster:
                continue
            for broker_id in group.ids_at(broker.broker_addr):
                self.remove(key, broker_id, broker.broker_addr)
            if group.members:
                raise ResponseError(
                    f"register broker failed: broker name {broker.broker_name} belongs to cluster {key.cluster}, "
                    f"where it is alive; cluster {broker.cluster} needs another name"
                )

    def _take_topics(self, group: Group, topics: Mapping[str, TopicConfig], *, replace: bool) -> None:
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
        """Drops a broker, and a group without members with its topics.

        Args:
            source: drop it only if it was last heard over this connection; None: in any case.

        Returns:
            Whether it was registered at this address.
        """
        member = self.member(key, broker_id)
        if not member or member.broker.broker_addr != broker_addr or (source and member.source is not source):
            return False
        changes = self._changes_of(key)
        changes.removed[broker_id] = broker_addr
        changes.written.discard(broker_id)
        changes.kind = kind
        self._drop_member(self._groups[key], broker_id)
        self._on_change()
        return True

    def _drop_member(self, group: Group, broker_id: int) -> None:
        del group.members[broker_id]
        self._bodies.clear()
        if not group.members:
            for topic in group.topics:
                self._unindex(topic, group.key)
            del self._groups[group.key]
            if group.key in self.changes:  # or the topics of the removed group would be deleted one by one
                self.changes[group.key].topics.clear()

    def expire(self, now_s: float, *, registry_up: bool) -> list[LiveBroker]:
        """Drops direct members that were not heard of in time; returns them.

        With the registry up they only become learned: another NameServer may have heard of them, and the next ``merge``
        knows. Learned members stay: while the registry is unreachable, no NameServer knows more.
        """
        expired: list[LiveBroker] = []
        for group in list(self._groups.values()):
            for broker_id, member in list(group.members.items()):
                if member.is_learned or now_s - member.heard_s <= self.timeout_s(member.broker):
                    continue
                member.source = None
                if not registry_up:
                    expired.append(member.broker)
                    self._drop_member(group, broker_id)
        return expired

    def timeout_s(self, broker: LiveBroker) -> float:
        """Seconds without a heartbeat after which a broker is dropped; its own setting counts if it is shorter."""
        own_ms = broker.heartbeat_timeout_millis
        return min(self.broker_expiry_s, own_ms / 1000) if own_ms and own_ms > 0 else self.broker_expiry_s

    def member(self, key: GroupKey, broker_id: int) -> Member | None:
        group = self._groups.get(key)
        return group.members.get(broker_id) if group else None

    # --- topics --------------------------------------------------------------------------------------------------

    def delete_topic(self, topic: str, cluster: str | None = None) -> int:
        """Removes a topic from all groups, or those of one cluster; returns the number of groups that had it."""
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
        """Sets a topic's queues in groups that are alive; queues of other groups are ignored."""
        groups = {key.broker_name: group for key, group in self._groups.items()}
        for queue in queue_datas:
            group = groups.get(queue.broker_name)
            if group is None:
                logger.warning("topic %s: not registered for %s, no such broker", topic, queue.broker_name)
            elif topic != REVISION_FIELD:
                self._set_topic(group, topic, queue)
        self._on_change()

    def set_write_perm(self, broker_name: str, writable: bool) -> int:
        """Sets or clears the write bit of all topics of a group; returns the number of its topics."""
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
        keys = self._by_topic.get(topic, set())
        keys.discard(key)
        if not keys:
            self._by_topic.pop(topic, None)

    def _forget_bodies(self, topic: str) -> None:
        self._bodies.pop((topic, True), None)
        self._bodies.pop((topic, False), None)

    # --- answers -------------------------------------------------------------------------------------------------

    def route_body(self, topic: str, *, standard_json: bool) -> bytes | None:
        """A topic's route, encoded. None: no group has the topic."""
        body = self._bodies.get((topic, standard_json))
        if body is None:
            route = self.route(topic)
            if route is None:
                return None
            body = self._bodies[topic, standard_json] = encode_route(route, standard_json=standard_json)
        return body

    def route(self, topic: str) -> TopicRouteData | None:
        """A topic's route: groups by name. None: no group has the topic."""
        keys = self._by_topic.get(topic)
        if not keys:
            return None
        groups = {key.broker_name: self._groups[key] for key in sorted(keys, reverse=True)}  # one per name: the first
        names = sorted(groups)
        order = self.kv.get(ORDER_TOPIC_CONFIG, {}).get(topic) if self._order_message_enable else None
        return TopicRouteData(
            [groups[name].broker_data() for name in names],
            [groups[name].topics[topic] for name in names],
            order,
        )

    def cluster_info(self) -> ClusterInfo:
        """All groups and clusters, by name."""
        clusters: dict[str, list[str]] = {}
        brokers: dict[str, BrokerData] = {}
        for key in sorted(self._groups):
            clusters.setdefault(key.cluster, []).append(key.broker_name)
            brokers.setdefault(key.broker_name, self._groups[key].broker_data())
        return ClusterInfo(dict(sorted(brokers.items())), clusters)

    def addresses_of(self, key: GroupKey) -> dict[int, str]:
        """brokerId -> address, ids ascending; empty for an unknown group."""
        group = self._groups.get(key)
        return group.broker_data().broker_addrs if group else {}

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
            return (unit is None or bool(flag & _UNIT_FLAG) is unit) and (
                unit_sub is None or bool(flag & _UNIT_SUB_FLAG) is unit_sub
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


def _outranks(holder: LiveBroker, broker: LiveBroker) -> bool:
    """Whether the holder of an id keeps it from a broker that registers under the same id."""
    return (
        holder.broker_addr != broker.broker_addr
        and holder.data_version.state_version > broker.data_version.state_version
    )


def _version(broker: LiveBroker) -> tuple[str, DataVersion]:
    """Changes if and only if the broker's topics may have changed."""
    return broker.broker_addr, broker.data_version


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
