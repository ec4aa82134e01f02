"""Whether the processes that a cluster has started are the ones that its NameServers show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..codes import RequestCode
from ..errors import RmqError
from ..model import MASTER_ID, BrokerData
from ..protocol.bodies.broker import REGISTERED_NAMESRVS
from ..protocol.bodies.route import ClusterInfo, decode_cluster_info
from ..protocol.bodies.topics import KvTable
from ..protocol.command import request
from ..protocol.headers.registration import UnregisterBrokerRequestHeader
from ..remoting.client import RemotingClient

_LOOK_TIMEOUT_S = 2.0
"""A server of the same machine answers within milliseconds, unless it is paused or dead."""


class Member(Protocol):
    """A NameServer or broker process."""

    label: str

    @property
    def address(self) -> str: ...

    @property
    def broker_name(self) -> str: ...


class Readiness:
    """Compares the routes with the processes, and removes the registrations of brokers that a crash has left.

    Args:
        owns_registry: nobody else registers brokers there, so that groups of an earlier run are its remains, too.
    """

    def __init__(self, client: RemotingClient, *, owns_registry: bool) -> None:
        self._client = client
        self._owns_registry = owns_registry

    async def missing(self, namesrvs: Sequence[Member], brokers: Sequence[Member]) -> str:
        """What is missing, for people; "" when every NameServer shows these brokers, as they are now, and no other.

        An address alone proves nothing: the process that was killed may have had the same one. So each broker is asked
        at which NameServers it has registered since it started.
        """
        if not namesrvs:
            return "no NameServer is left"
        for broker in brokers:
            try:
                registered = await self._registered_namesrvs(broker)
            except RmqError as error:
                return f"{broker.label}: {error}"
            for namesrv in namesrvs:
                if namesrv.address not in registered:
                    return f"{broker.label} has not registered at {namesrv.label} yet"
        for namesrv in namesrvs:
            try:
                missing = await self._differs(namesrv, brokers)
            except RmqError as error:
                return f"{namesrv.label}: {error}"
            if missing:
                return missing
        return ""

    async def _registered_namesrvs(self, broker: Member) -> list[str]:
        answer = await self._client.call(broker.address, request(RequestCode.GET_BROKER_RUNTIME_INFO), _LOOK_TIMEOUT_S)
        return KvTable.decode(answer.body).table.get(REGISTERED_NAMESRVS, "").split(";")

    async def _differs(self, namesrv: Member, brokers: Sequence[Member]) -> str:
        answer = await self._client.call(namesrv.address, request(RequestCode.GET_BROKER_CLUSTER_INFO), _LOOK_TIMEOUT_S)
        info: ClusterInfo = decode_cluster_info(answer.body)
        shown = {
            (name, address): broker_id
            for name, data in info.brokers.items()
            for broker_id, address in data.broker_addrs.items()
        }
        started = {(broker.broker_name, broker.address): broker for broker in brokers}
        groups = {broker.broker_name for broker in brokers}
        for (name, address), broker_id in shown.items():
            if (name, address) not in started and (name in groups or self._owns_registry):
                await self._remove_if_gone(namesrv, info.brokers[name], broker_id)
                return (
                    f"{namesrv.label} still shows {address} as {name}:{broker_id}, which this cluster has not started"
                )
        for key, broker in started.items():
            if key not in shown:
                return f"{namesrv.label} does not know {broker.label} yet"
        for name in sorted(groups):
            if MASTER_ID not in info.brokers[name].broker_addrs:
                return f"{namesrv.label} shows no master of {name} yet"
        return ""

    async def _remove_if_gone(self, namesrv: Member, group: BrokerData, broker_id: int) -> None:
        """Unregisters a broker at whose address no broker answers. Its NameServer would only do so after minutes."""
        address = group.broker_addrs[broker_id]
        try:
            await self._client.call(address, request(RequestCode.GET_BROKER_RUNTIME_INFO), _LOOK_TIMEOUT_S)
        except RmqError:
            header = UnregisterBrokerRequestHeader(group.broker_name, address, group.cluster, broker_id)
            await self._client.call(namesrv.address, request(RequestCode.UNREGISTER_BROKER, header), _LOOK_TIMEOUT_S)
