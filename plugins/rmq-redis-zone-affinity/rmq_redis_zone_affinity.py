"""Keeps traffic in its zone while the zone can take it: for producers and NameServers."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from rmq_redis import Message, MessageQueue, hookimpl
from rmq_redis.errors import ConfigError
from rmq_redis.hookspecs import ClientContext, QueueSelector, RouteFilter, RouteRequest
from rmq_redis.model import MASTER_ID, TopicRouteData

NETWORKS_VARIABLE = "ZONE_AFFINITY_NETWORKS"
AVOID_S = 10.0
"""How long a broker group to which a send failed is passed over."""


class ZoneAffinity:
    """Round robin in the own zone without broker groups that failed lately; when none is left, everywhere."""

    def __init__(self, context: ClientContext, clock: Callable[[], float] = time.monotonic) -> None:
        if not context.config.zone:
            raise ConfigError("ZONE_AFFINITY needs the producer's zone: zone=... or RMQ_REDIS_ZONE")
        self._context = context
        self._clock = clock
        self._turn = count()
        self._avoided: dict[str, float] = {}
        self._near: dict[str, tuple[Sequence[MessageQueue], list[MessageQueue]]] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        known = self._near.get(message.topic)
        if known is None or known[0] is not queues:
            zone, zone_of = self._context.config.zone, self._context.zone_of
            known = self._near[message.topic] = (queues, [q for q in queues if zone_of(q.broker_name) == zone])
        near: Sequence[MessageQueue] = known[1]
        if self._avoided:
            near = self._well(near) or self._well(queues)
        chosen = near or queues
        return chosen[next(self._turn) % len(chosen)]

    def _well(self, queues: Sequence[MessageQueue]) -> list[MessageQueue]:
        now = self._clock()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        return [queue for queue in queues if queue.broker_name not in self._avoided]

    def report(self, queue: MessageQueue, latency_s: float, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self._avoided[queue.broker_name] = self._clock() + AVOID_S


class ZoneOfNetwork:
    """Shows clients the broker groups of their zone, all when it has none with a master; for clients in any language.

    A client's zone is what it says (``__ZONE_NAME``), else that of its network.
    """

    def __init__(self, networks: str) -> None:
        self._networks = []
        for part in filter(None, networks.split(";")):
            network, _, zone = part.partition("=")
            try:
                self._networks.append((ipaddress.ip_network(network.strip()), zone.strip()))
            except ValueError as error:
                raise ConfigError(f"{NETWORKS_VARIABLE}: {part!r} is not NETWORK=ZONE: {error}") from None
            if not zone.strip():
                raise ConfigError(f"{NETWORKS_VARIABLE}: {part!r} names no zone")

    def __call__(self, request: RouteRequest, route: TopicRouteData) -> TopicRouteData:
        zone = request.fields.get("__ZONE_NAME") or self._zone_of(request.remote_address)
        near = [broker for broker in route.broker_datas if broker.zone_name == zone]
        if not zone or not any(MASTER_ID in broker.broker_addrs for broker in near):
            return route
        names = {broker.broker_name for broker in near}
        queues = [queue for queue in route.queue_datas if queue.broker_name in names]
        return TopicRouteData(near, queues, route.order_topic_conf)

    def _zone_of(self, remote_address: str) -> str:
        host = ipaddress.ip_address(remote_address.rpartition(":")[0].strip("[]"))
        return next((zone for network, zone in self._networks if host in network), "")


@hookimpl
def register_queue_selectors(context: ClientContext) -> Mapping[str, Callable[[], QueueSelector]]:
    return {"ZONE_AFFINITY": lambda: ZoneAffinity(context, context.clock)}


@hookimpl
def register_route_filters() -> Mapping[str, Callable[[], RouteFilter]]:
    return {"ZONE_AFFINITY": lambda: ZoneOfNetwork(os.environ.get(NETWORKS_VARIABLE, ""))}
