"""A route table that all NameServers of a registry share: merges what the registry has, lists what it lacks. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..model import MASTER_ID
from ..store.registry.entries import GroupKey, GroupSnapshot, GroupWrite, LiveBroker
from .groups import Group, GroupChanges, Member
from .routes import RouteTable

logger = logging.getLogger(__name__)


class SharedRouteTable(RouteTable):
    """One NameServer's copy of the routes that all NameServers of a registry have."""

    def revisions(self) -> dict[GroupKey, str]:
        """Which revision of each group's topics is in this table."""
        return {key: group.revision for key, group in self._groups.items()}

    def keys(self) -> set[GroupKey]:
        return set(self._groups)

    def is_direct(self, member: Member, now_s: float) -> bool:
        return not member.is_learned and now_s - member.heard_s <= self.timeout_s(member.broker)

    def write_direct_again(self, now_s: float) -> int:
        """Marks all direct members as to be written; returns how many. For a registry that was away."""
        count = 0
        for key, group in self._groups.items():
            for broker_id, member in group.members.items():
                if self.is_direct(member, now_s):
                    self._changes_of(key).written.add(broker_id)
                    count += 1
        return count

    def unregistered_elsewhere(self, key: GroupKey, removed: Mapping[int, str]) -> None:
        """A broker unregistered at another NameServer: that it was heard here is no reason to keep it."""
        for broker_id, address in removed.items():
            member = self.member(key, broker_id)
            if member and member.broker.broker_addr == address:
                member.source = None

    def merge(self, key: GroupKey, snapshot: GroupSnapshot, now_s: float, *, forget: bool) -> None:
        """Brings a group and what the registry has of it together; what the registry lacks goes into ``changes``.

        Every NameServer must come to the same result, so the order of two versions of an entry is total (``_newer``).

        Args:
            forget: drop learned members that the registry does not have.
        """
        changes = self.changes.get(key) or GroupChanges()
        remote = {i: b for i, b in snapshot.brokers.items() if changes.removed.get(i) != b.broker_addr}
        group = self._groups.get(key)
        if group is None:
            if not remote:
                return
            group = self._groups[key] = Group(key)
        for broker_id, theirs in remote.items():
            mine = group.members.get(broker_id)
            is_direct = mine is not None and self.is_direct(mine, now_s)
            if mine is None or not is_direct or _newer(theirs, mine.broker):
                if is_direct and broker_id == MASTER_ID:
                    changes.topics -= set(group.topics)  # set by an older registration; deletions stay
                self._adopt(group, theirs, mine)
            elif _newer(mine.broker, theirs):
                self._changes_of(key).written.add(broker_id)
        remote_by_address = {broker.broker_addr: broker for broker in remote.values()}
        for broker_id, mine in [(i, m) for i, m in group.members.items() if i not in remote]:
            elsewhere = remote_by_address.get(mine.broker.broker_addr)  # the same broker, under another id by now
            moved = elsewhere is not None and elsewhere.registered_ms >= mine.broker.registered_ms
            if self.is_direct(mine, now_s) and not moved:
                self._changes_of(key).written.add(broker_id)
            elif moved or forget:
                logger.info(
                    "broker %s:%d at %s: removed, the registry does not have it under this id",
                    key.broker_name,
                    broker_id,
                    mine.broker.broker_addr,
                )
                self._drop_member(group, broker_id)
        if key in self._groups:
            self._merge_topics(group, snapshot, now_s)

    def _adopt(self, group: Group, broker: LiveBroker, mine: Member | None) -> None:
        if mine and mine.broker.broker_addr == broker.broker_addr:
            mine.broker = broker
            return
        logger.info("broker %s:%d is at %s", broker.broker_name, broker.broker_id, broker.broker_addr)
        group.members[broker.broker_id] = Member(broker, float("-inf"), None)
        self._bodies.clear()

    def _merge_topics(self, group: Group, snapshot: GroupSnapshot, now_s: float) -> None:
        if not snapshot.revision:
            # Lost, or never written: a direct master knows its topics; without one, nobody does.
            if any(self.is_direct(member, now_s) for member in group.members.values()):
                self._changes_of(group.key).topics |= set(group.topics)
            return
        if snapshot.topics is None:
            return
        changes = self.changes.get(group.key)
        ours = changes.topics if changes else set()
        for topic, queue in snapshot.topics.items():
            if topic not in ours and group.topics.get(topic) != queue:
                group.topics[topic] = queue
                self._by_topic.setdefault(topic, set()).add(group.key)
                self._forget_bodies(topic)
        for topic in [t for t in group.topics if t not in snapshot.topics and t not in ours]:
            del group.topics[topic]
            self._unindex(topic, group.key)
            self._forget_bodies(topic)
        group.revision = snapshot.revision

    def take_changes(self, key: GroupKey) -> GroupChanges | None:
        """Takes a group's changes out, to write them; ``restore_changes`` if that fails."""
        return self.changes.pop(key, None)

    def restore_changes(self, key: GroupKey, taken: GroupChanges) -> None:
        """Puts changes back that were not written. What happened since is newer and wins."""
        newer = self.changes.setdefault(key, taken)
        if newer is taken:
            return
        newer.written |= taken.written - set(newer.removed)
        newer.topics |= taken.topics if key in self._groups else set()
        for broker_id, address in taken.removed.items():
            if broker_id not in newer.written:
                newer.removed.setdefault(broker_id, address)
        if newer.kind == "changed":
            newer.kind = taken.kind

    def group_write(
        self, key: GroupKey, snapshot: GroupSnapshot, changes: GroupChanges, now_s: float
    ) -> GroupWrite | None:
        """Changes as a write, after ``merge`` with the same snapshot. None: there is nothing to write."""
        group = self._groups.get(key)
        write = GroupWrite(removed=dict(changes.removed), kind=changes.kind)
        for broker_id in sorted(changes.written):
            member = self.member(key, broker_id)
            if member and (ttl_ms := self.ttl_ms(member, now_s)) > 0:
                write.brokers.append((member.broker, ttl_ms))
        if group and (write.brokers or snapshot.brokers):
            write.rewrite = bool(group.topics) and not snapshot.revision
            names = set(group.topics) if write.rewrite else changes.topics
            write.topics = {name: group.topics[name] for name in sorted(names) if name in group.topics}
            write.deleted_topics = [] if write.rewrite else sorted(names - set(group.topics))
        if not (write.brokers or write.removed or write.topics or write.deleted_topics):
            return None
        return write

    def written(self, key: GroupKey, previous: str, revision: str) -> None:
        """The registry took a group's changes, and its topics went from one revision to another."""
        group = self._groups.get(key)
        if group and previous in ("", group.revision):  # else: not the group that was written
            group.revision = revision

    def take_refreshed(self, now_s: float) -> list[tuple[LiveBroker, int]]:
        """Takes out the brokers that were heard again, each with the ms until it expires."""
        refreshed, self.refreshed = self.refreshed, set()
        entries: list[tuple[LiveBroker, int]] = []
        for key, broker_id in sorted(refreshed):
            member = self.member(key, broker_id)
            if member and (ttl_ms := self.ttl_ms(member, now_s)) > 0:
                entries.append((member.broker, ttl_ms))
        return entries

    def ttl_ms(self, member: Member, now_s: float) -> int:
        """The ms until a direct member expires; 0 or less: it is none, or late already."""
        if member.is_learned:
            return 0
        return int((self.timeout_s(member.broker) - (now_s - member.heard_s)) * 1000)


def _newer(one: LiveBroker, other: LiveBroker) -> bool:
    """Whether ``one`` replaces ``other``. Of the same broker, the later DataVersion; of two, as in ``register``."""
    mine, theirs = one.data_version, other.data_version
    if one.broker_addr == other.broker_addr:
        return (mine.state_version, mine.timestamp, mine.counter) > (
            theirs.state_version,
            theirs.timestamp,
            theirs.counter,
        )
    return (mine.state_version, one.registered_ms, one.broker_addr) > (
        theirs.state_version,
        other.registered_ms,
        other.broker_addr,
    )
