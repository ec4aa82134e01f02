"""What the parts of ``AsyncAdmin`` have in common: calls to NameServers and brokers, and where those are."""

from __future__ import annotations

from ...codes import RequestCode
from ...errors import RouteNotFoundError
from ...model import MASTER_ID, MessageQueue
from ...protocol.bodies.route import ClusterInfo, decode_cluster_info
from ...protocol.command import RemotingCommand, request
from ..core.instance import MQClientInstance


class AdminCalls:
    """Base of the parts of ``AsyncAdmin``."""

    _instance: MQClientInstance

    async def _call_name_server(self, command: RemotingCommand) -> RemotingCommand:
        return await self._instance.routes.name_servers.call(command)

    async def _call(self, address: str, command: RemotingCommand) -> RemotingCommand:
        return await self._instance.broker.call(address, command)

    # --- cluster -------------------------------------------------------------------------------------------------

    async def cluster_info(self) -> ClusterInfo:
        """All brokers and clusters."""
        answer = await self._call_name_server(request(RequestCode.GET_BROKER_CLUSTER_INFO))
        return decode_cluster_info(answer.body)

    async def master_addresses(self, cluster: str | None = None) -> list[str]:
        """The masters of a cluster, or of all clusters. Raises RouteNotFoundError when there is none."""
        info = await self.cluster_info()
        if cluster is None:
            names = set(info.brokers)
        elif cluster in info.clusters:
            names = set(info.clusters[cluster])
        else:
            raise RouteNotFoundError(f"no cluster {cluster!r}; there are: {', '.join(sorted(info.clusters)) or 'none'}")
        masters = [
            info.brokers[name].broker_addrs[MASTER_ID]
            for name in sorted(names)
            if name in info.brokers and MASTER_ID in info.brokers[name].broker_addrs
        ]
        if not masters:
            raise RouteNotFoundError("no master broker is registered" + (f" in cluster {cluster!r}" if cluster else ""))
        return masters

    async def _brokers_of(self, topic: str) -> dict[str, str]:
        """Broker name -> address (the master's if there is one) of the groups that have a topic."""
        route = await self._instance.routes.refresh(topic)  # not a kept one: what was just changed must show
        if route is None:
            raise RouteNotFoundError(f"no NameServer knows a route of topic {topic!r}")
        found: dict[str, str] = {}
        for broker in route.broker_datas:
            if address := self._instance.routes.any_address(broker.broker_name):
                found[broker.broker_name] = address
        if not found:
            raise RouteNotFoundError(f"the route of topic {topic!r} has no broker")
        return found

    async def _address_of(self, queue: MessageQueue) -> str:
        brokers = await self._brokers_of(queue.topic)
        if queue.broker_name not in brokers:
            raise RouteNotFoundError(f"the route of topic {queue.topic!r} has no broker {queue.broker_name!r}")
        return brokers[queue.broker_name]
