"""Routes of topics and the table of a cluster. Source: RocketMQ 5.3 ``TopicRouteData``, ``ClusterInfo``."""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import RemoteProtocolError
from ...model import BrokerData, QueueData, TopicRouteData
from .base import dumps, object_body


def encode_route(route: TopicRouteData, *, standard_json: bool) -> bytes:
    """A topic's route.

    Args:
        standard_json: quoted broker ids, for clients of version 401 (4.9.4) on or that ask for it; older ones get the
            form of 4.x NameServers: bare ids, no booleans, no nulls (one client parses it as a Python literal).
    """
    data: dict[str, Any] = {
        "brokerDatas": [
            {
                "brokerAddrs": dict(sorted(broker.broker_addrs.items())),
                "brokerName": broker.broker_name,
                "cluster": broker.cluster,
                **({"zoneName": broker.zone_name} if broker.zone_name else {}),
            }
            for broker in route.broker_datas
        ],
        "filterServerTable": {},
        "orderTopicConf": route.order_topic_conf,
        "queueDatas": [
            {
                "brokerName": queue.broker_name,
                "perm": queue.perm,
                "readQueueNums": queue.read_queue_nums,
                "topicSysFlag": queue.topic_sys_flag,
                "writeQueueNums": queue.write_queue_nums,
            }
            for queue in route.queue_datas
        ],
    }
    return dumps(data, quote_keys=standard_json)


def _broker_datas(items: Any) -> list[BrokerData]:
    brokers = []
    for item in items if isinstance(items, list) else []:
        addresses: dict[int, str] = {}
        for key, address in (item.get("brokerAddrs") or {}).items():
            addresses[int(key)] = str(address)
        zone_name = str(item.get("zoneName") or "")
        brokers.append(BrokerData(str(item.get("cluster") or ""), str(item["brokerName"]), addresses, zone_name))
    return brokers


def decode_route(data: bytes) -> TopicRouteData:
    """The answer to GET_ROUTEINFO_BY_TOPIC, quoted or bare keys.

    Raises:
        RemoteProtocolError: not a route.
    """
    value = object_body(data)
    try:
        queues = [
            QueueData(
                str(item["brokerName"]),
                int(item["readQueueNums"]),
                int(item["writeQueueNums"]),
                int(item["perm"]),
                int(item.get("topicSysFlag") or item.get("topicSynFlag") or 0),
            )
            for item in value.get("queueDatas") or []
        ]
        return TopicRouteData(_broker_datas(value.get("brokerDatas")), queues, value.get("orderTopicConf"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed topic route: {error!r}") from None


class ClusterInfo(msgspec.Struct, frozen=True):
    """Answer to GET_BROKER_CLUSTER_INFO: groups by name, and the groups of each cluster."""

    brokers: dict[str, BrokerData]
    clusters: dict[str, list[str]]


def encode_cluster_info(info: ClusterInfo) -> bytes:
    return dumps(
        {
            "brokerAddrTable": {
                name: {
                    "brokerAddrs": dict(sorted(broker.broker_addrs.items())),
                    "brokerName": broker.broker_name,
                    "cluster": broker.cluster,
                }
                for name, broker in info.brokers.items()
            },
            "clusterAddrTable": info.clusters,
        }
    )


def decode_cluster_info(data: bytes) -> ClusterInfo:
    """Raises RemoteProtocolError when it is none."""
    value = object_body(data)
    try:
        brokers = {
            broker.broker_name: broker for broker in _broker_datas(list((value.get("brokerAddrTable") or {}).values()))
        }
        clusters = {str(name): list(names) for name, names in (value.get("clusterAddrTable") or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed cluster info: {error!r}") from None
    return ClusterInfo(brokers, clusters)
