"""A broker group as one NameServer knows it: its members, its topics, and what the registry does not know yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model import BrokerData, QueueData
from ..store.registry.entries import GroupKey, LiveBroker


@dataclass
class Member:
    """One live broker. ``source`` is the connection that it was last heard over; None: learned."""

    broker: LiveBroker
    heard_s: float
    source: object | None

    @property
    def is_learned(self) -> bool:
        """Whether this NameServer knows the broker from the registry only."""
        return self.source is None


@dataclass
class Group:
    """One broker group. ``revision``: the registry's topics that are in ``topics`` already."""

    key: GroupKey
    members: dict[int, Member] = field(default_factory=dict)
    topics: dict[str, QueueData] = field(default_factory=dict)
    revision: str = ""

    def ids_at(self, broker_addr: str) -> list[int]:
        """Ids under which a broker at this address is a member."""
        return [broker_id for broker_id, member in self.members.items() if member.broker.broker_addr == broker_addr]

    def broker_data(self) -> BrokerData:
        """The group as clients see it: addresses by id, and the zone of the first member that has one."""
        addresses = {broker_id: self.members[broker_id].broker.broker_addr for broker_id in sorted(self.members)}
        zones = [self.members[broker_id].broker.zone for broker_id in addresses]
        return BrokerData(self.key.cluster, self.key.broker_name, addresses, next(filter(None, zones), ""))


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
