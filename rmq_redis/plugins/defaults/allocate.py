"""The built-in ways to share queues among the consumers of a group, as an ordinary plugin.

All but the two sticky ones give exactly the shares that RocketMQ's Java client computes: clients of both kinds may be
in one group, and a difference would double or starve queues.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ...errors import ConfigError
from ...model import MessageQueue
from ..hookspecs import AllocateStrategy, ClientContext, hookimpl

_VIRTUAL_NODES = 10
"""Source: ``AllocateMessageQueueConsistentHash``."""
_EVEN_POINTS = 32
"""Of each consumer on the ring, so that the candidates of two queues differ."""
_EVEN_CANDIDATES = 32
"""Consumers that compete for a queue in a large group: to sort all pairs would take too long."""


def allocate_averagely(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Contiguous shares; the first consumers take one more. Source: AllocateMessageQueueAveragely ("AVG")."""
    if current_cid not in cid_all:
        return []
    index = cid_all.index(current_cid)
    size, extra = divmod(len(mq_all), len(cid_all))
    start = index * size + min(index, extra)
    return mq_all[start : start + size + (index < extra)]


def allocate_averagely_by_circle(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Queues dealt out like cards. Source: AllocateMessageQueueAveragelyByCircle ("AVG_BY_CIRCLE")."""
    if current_cid not in cid_all:
        return []
    return mq_all[cid_all.index(current_cid) :: len(cid_all)]


def allocate_by_consistent_hash(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Each queue to the next of the consumers' ten points each on a ring; shares are uneven.

    Source: AllocateMessageQueueConsistentHash ("CONSISTENT_HASH"), ConsistentHashRouter.
    """
    if current_cid not in cid_all:
        return []
    return _ring_shares(tuple(mq_all), tuple(cid_all)).get(current_cid, ())


@lru_cache(maxsize=8)
def _ring_shares(mq_all: tuple[MessageQueue, ...], cid_all: tuple[str, ...]) -> dict[str, tuple[MessageQueue, ...]]:
    points, owners = _ring(cid_all, _VIRTUAL_NODES)
    shares: dict[str, list[MessageQueue]] = {}
    for queue in mq_all:
        shares.setdefault(owners[bisect_left(points, _queue_hash(queue)) % len(points)], []).append(queue)
    return {cid: tuple(held) for cid, held in shares.items()}


def _md5_hash(text: str) -> int:
    """The first four bytes of MD5. Source: ConsistentHashRouter.MD5Hash."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4])


@lru_cache(maxsize=8)
def _ring(cid_all: tuple[str, ...], virtual_nodes: int) -> tuple[list[int], list[str]]:
    owner_at = {_md5_hash(f"{cid}-{index}"): cid for cid in cid_all for index in range(virtual_nodes)}
    points = sorted(owner_at)
    return points, [owner_at[point] for point in points]


@lru_cache(maxsize=1 << 16)
def _queue_hash(queue: MessageQueue) -> int:
    """The hash of Java's ``MessageQueue.toString``."""
    return _md5_hash(f"MessageQueue [topic={queue.topic}, brokerName={queue.broker_name}, queueId={queue.queue_id}]")


class AllocateByMachineRoom:
    """The queues of brokers named ``<room>@<name>`` whose room is one of ``rooms``; the others belong to nobody.

    Source: AllocateMessageQueueByMachineRoom ("MACHINE_ROOM").
    """

    def __init__(self, rooms: Sequence[str]) -> None:
        self._rooms = frozenset(rooms)

    def __call__(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> Sequence[MessageQueue]:
        if current_cid not in cid_all:
            return []
        index = cid_all.index(current_cid)
        near = [queue for queue in mq_all if self._is_near(queue.broker_name)]
        size, extra = divmod(len(near), len(cid_all))
        mine = near[index * size : (index + 1) * size]
        if index < extra:
            mine.append(near[index + size * len(cid_all)])
        return mine

    def _is_near(self, broker_name: str) -> bool:
        parts = broker_name.split("@")
        while len(parts) > 1 and not parts[-1]:  # as Java's String.split
            del parts[-1]
        return len(parts) == 2 and parts[0] in self._rooms


class AllocateMachineRoomNearby:
    """A room's queues to the consumers of that room, by ``inner``; queues of a room without consumers to all.

    The room of a broker is the part of its name before ``@``, else the zone that it registered. The room of a consumer
    is the third part of its client id, RocketMQ's unit name, which ``ClientConfig.zone`` sets.

    Raises:
        ConfigError: when called, a broker or a consumer without a room.

    Source: AllocateMachineRoomNearby ("MACHINE_ROOM_NEARBY-" and the inner one's name).
    """

    def __init__(self, inner: AllocateStrategy, context: ClientContext) -> None:
        self._inner = inner
        self._context = context

    def __call__(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> Sequence[MessageQueue]:
        if current_cid not in cid_all:
            return []
        queues: dict[str, list[MessageQueue]] = {}
        rooms = {name: self._room_of_broker(name) for name in {queue.broker_name for queue in mq_all}}
        for queue in mq_all:
            queues.setdefault(rooms[queue.broker_name], []).append(queue)
        cids: dict[str, list[str]] = {}
        for cid in cid_all:
            cids.setdefault(room_of_client(cid), []).append(cid)
        own = room_of_client(current_cid)
        mine: list[MessageQueue] = []
        if own in queues:
            mine += self._inner(consumer_group, current_cid, queues.pop(own), cids[own])
        for room in sorted(queues):
            if room not in cids:
                mine += self._inner(consumer_group, current_cid, queues[room], cid_all)
        return mine

    def _room_of_broker(self, broker_name: str) -> str:
        room, separator, _ = broker_name.partition("@")
        room = room if separator else self._context.zone_of(broker_name)
        if not room:
            raise ConfigError(f"broker {broker_name} has no room: name it <room>@<name>, or start it with a zone")
        return room


@lru_cache(maxsize=1 << 16)
def room_of_client(cid: str) -> str:
    """The unit name in a client id, ``ip@instance@unit``.

    Raises:
        ConfigError: it has none.
    """
    parts = cid.split("@")
    if len(parts) < 3 or not parts[2]:
        raise ConfigError(f"consumer {cid} has no room: start it with zone=... (Java: setUnitName)")
    return parts[2]


class AllocateByConfig:
    """The queues listed in ``queues``, whoever else there is. A topic of which it lists none is shared as by AVG.

    Source: AllocateMessageQueueByConfig ("CONFIG"), which takes no queue of the group's retry topic at all.
    """

    def __init__(self, queues: Sequence[MessageQueue]) -> None:
        self._queues = tuple(queues)
        self._topics = frozenset(queue.topic for queue in queues)

    def __call__(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> Sequence[MessageQueue]:
        topic = mq_all[0].topic
        if topic not in self._topics:
            return allocate_averagely(consumer_group, current_cid, mq_all, cid_all)
        return [queue for queue in self._queues if queue.topic == topic]


def allocate_sticky(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Moves the fewest queues that a change of the members can: a leaver's, and those that a joiner gets ("STICKY").

    Every consumer has an order of all queues, drawn from its id, and a queue belongs to whoever has it earliest. Who
    else is there has no part in an order, so nobody who stays gives a queue to another who was there before. The
    shares are uneven: by the draws a consumer holds n/k of n queues on average, with a variance of about n/2k (half of
    what hashing each queue by itself would give).
    """
    if current_cid not in cid_all:
        return []
    return _drafts(tuple(mq_all)).shares(tuple(cid_all))[current_cid]


class _Draft:
    """Shares of some queues. The order of each consumer is kept: one that joins costs one order, not all of them."""

    def __init__(self, mq_all: tuple[MessageQueue, ...]) -> None:
        self._mq_all = mq_all
        self._hashes = [_queue_hash64(queue) for queue in mq_all]
        self._orders: dict[str, array[int]] = {}
        self.shares = lru_cache(maxsize=2)(self._shares)

    def _shares(self, cid_all: tuple[str, ...]) -> dict[str, tuple[MessageQueue, ...]]:
        known = self._orders
        orders = self._orders = {cid: known.get(cid) or self._order(cid) for cid in cid_all}
        shares: dict[str, list[MessageQueue]] = {cid: [] for cid in orders}
        free = set(range(len(self._mq_all)))
        for turn in range(len(self._mq_all)):
            bids: dict[int, list[str]] = {}
            for cid, order in orders.items():
                if order[turn] in free:
                    bids.setdefault(order[turn], []).append(cid)
            for index, cids in bids.items():
                first = cids[0] if len(cids) == 1 else min(cids, key=lambda cid: (self._weight(index, cid), cid))
                shares[first].append(self._mq_all[index])
            free -= bids.keys()
            if not free:
                break
        return {cid: tuple(sorted(held)) for cid, held in shares.items()}

    def _order(self, cid: str) -> array[int]:
        own = _hash64(cid)
        weights = [_mixed(value ^ own) for value in self._hashes]
        return array("I", sorted(range(len(weights)), key=weights.__getitem__))

    def _weight(self, index: int, cid: str) -> int:
        return _mixed(self._hashes[index] ^ _hash64(cid))


_drafts = lru_cache(maxsize=8)(_Draft)


def allocate_sticky_even(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Even shares, at most one apart, most of which stay when a consumer joins or leaves ("STICKY_EVEN").

    Every pair of a queue and a consumer has a weight that does not depend on the other consumers, and the pairs are
    made in the order of the weights, until a consumer has its share. No consumer knows the earlier shares, so even
    shares cost moves: in the simulator 1.2 to 3 times the minimum in groups of medium size, and over 4 times in one
    of 100 consumers with 240 queues.
    """
    if current_cid not in cid_all:
        return []
    return _even_shares(tuple(mq_all), tuple(cid_all))[current_cid]


@lru_cache(maxsize=8)
def _even_shares(mq_all: tuple[MessageQueue, ...], cid_all: tuple[str, ...]) -> dict[str, tuple[MessageQueue, ...]]:
    size, extra = divmod(len(mq_all), len(cid_all))
    points, owners = _ring(cid_all, _EVEN_POINTS)
    pairs = sorted(
        (_mixed(_queue_hash64(queue) ^ _hash64(cid)), queue, cid)
        for queue in mq_all
        for cid in (cid_all if len(cid_all) <= _EVEN_CANDIDATES else _nearest(points, owners, queue))
    )
    shares: dict[str, list[MessageQueue]] = {cid: [] for cid in cid_all}
    owned: set[MessageQueue] = set()

    def give(queue: MessageQueue, cid: str) -> bool:
        nonlocal extra
        held = shares[cid]
        if len(held) > size or (len(held) == size and not extra):
            return False
        if len(held) == size:
            extra -= 1
        held.append(queue)
        owned.add(queue)
        return True

    for _, queue, cid in pairs:
        if queue not in owned:
            give(queue, cid)
    for queue in mq_all:  # all its candidates have their share: the next consumer on the ring that has not
        if queue not in owned:
            start = bisect_left(points, _queue_hash(queue))
            next(step for step in range(len(points)) if give(queue, owners[(start + step) % len(points)]))
    return {cid: tuple(sorted(held)) for cid, held in shares.items()}


def _nearest(points: list[int], owners: list[str], queue: MessageQueue) -> set[str]:
    """Some consumers that are near a queue on the ring."""
    start = bisect_left(points, _queue_hash(queue))
    return {owners[(start + step) % len(points)] for step in range(_EVEN_CANDIDATES)}


def _mixed(value: int) -> int:
    """64 bits, each of which depends on all of the 64 bits of the value."""
    value = value * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 32


@lru_cache(maxsize=1 << 16)
def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


@lru_cache(maxsize=1 << 16)
def _queue_hash64(queue: MessageQueue) -> int:
    return _hash64(f"{queue.topic}\n{queue.broker_name}\n{queue.queue_id}")


@hookimpl
def register_allocate_strategies(context: ClientContext) -> Mapping[str, AllocateStrategy]:
    config = context.config
    inner: dict[str, AllocateStrategy] = {
        "AVG": allocate_averagely,
        "AVG_BY_CIRCLE": allocate_averagely_by_circle,
        "CONSISTENT_HASH": allocate_by_consistent_hash,
    }
    near = {f"MACHINE_ROOM_NEARBY-{name}": AllocateMachineRoomNearby(inner[name], context) for name in inner}
    return {
        **inner,
        **near,
        "MACHINE_ROOM_NEARBY": near["MACHINE_ROOM_NEARBY-AVG"],
        "MACHINE_ROOM": AllocateByMachineRoom([room for room in config.machine_rooms.split(";") if room]),
        "CONFIG": AllocateByConfig(parse_queues(config.allocate_queues)),
        "STICKY": allocate_sticky,
        "STICKY_EVEN": allocate_sticky_even,
    }


def parse_queues(text: str) -> list[MessageQueue]:
    """Queues as ``topic:brokerName:0,1,2;topic:...``.

    Raises:
        ConfigError: it is written in another way.
    """
    queues: list[MessageQueue] = []
    for part in filter(None, text.split(";")):
        topic, _, rest = part.partition(":")
        broker_name, _, ids = rest.rpartition(":")
        numbers = ids.split(",")
        if not topic or not broker_name or not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"allocate_queues: {part!r} is not topic:brokerName:0,1,2")
        queues += [MessageQueue(topic, broker_name, int(number)) for number in numbers]
    return queues
