"""The built-in ways to show each client its part of a route, as an ordinary plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...model import MASTER_ID, TopicRouteData
from ..hookspecs import RouteFilter, RouteRequest, hookimpl

ZONE_NAME = "__ZONE_NAME"
ZONE_MODE = "__ZONE_MODE"


def own_zone(request: RouteRequest, route: TopicRouteData) -> TopicRouteData:
    """The broker groups of the client's zone, and groups without a master, for clients that ask for it ("ZONE").

    Source: ZoneRouteRPCHook, which every NameServer of RocketMQ has.
    """
    zone = request.fields.get(ZONE_NAME, "").strip()
    if request.fields.get(ZONE_MODE, "").lower() != "true" or not zone:
        return route
    kept = [
        broker
        for broker in route.broker_datas
        if MASTER_ID not in broker.broker_addrs or broker.zone_name.lower() == zone.lower()
    ]
    names = {broker.broker_name for broker in kept}
    queues = [queue for queue in route.queue_datas if queue.broker_name in names]
    return TopicRouteData(kept, queues, route.order_topic_conf)


@hookimpl
def register_route_filters() -> Mapping[str, Callable[[], RouteFilter]]:
    return {"ZONE": lambda: own_zone}
